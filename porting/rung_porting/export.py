"""From torch to ONNX, and the proof that the export answers as the network did."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from rung.api.porting import ExportSpec
from rung_porting.data.source import Data, Samples
from rung_porting.errors import PortingError

INPUT_NAME, OUTPUT_NAME = "input", "logits"
LARGEST_IR_VERSION = 9
"""Of the ONNX file's format; understood by ONNX Runtime since 1.14 and by every Triton that has it."""
_TIMED_RUNS = 60


@dataclass(frozen=True, slots=True)
class Judged:
    """Share of right answers in ONNX Runtime, and on how many samples."""

    accuracy: float
    samples: int


def export_onnx(network: nn.Module, path: Path, shape: tuple[int, ...], spec: ExportSpec) -> None:
    """Write the network as an ONNX file: input (batch, *shape), output (batch, classes), both float32, any batch.

    Raises:
        PortingError: torch can't export it, or the file's format is newer than servers understand.
    """
    import onnxslim

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter that works on pruned networks is the older one
        try:
            torch.onnx.export(
                network.eval(),
                (torch.zeros(2, *shape),),
                path,
                dynamo=False,
                opset_version=spec.opset,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_axes={INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
            )
            onnx.save(onnxslim.slim(onnx.load(path)), path)
            onnx.checker.check_model(path, full_check=True)
        except Exception as error:  # torch's, onnxslim's and onnx's errors share no base class
            raise PortingError(f"the network can't be exported to ONNX: {_short(error)}") from None
    version = onnx.load(path, load_external_data=False).ir_version
    if version > LARGEST_IR_VERSION:
        raise PortingError(f"{path}: ONNX file format {version}, servers take up to {LARGEST_IR_VERSION}")


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file with one thread, as the server will.

    Raises:
        PortingError: ONNX Runtime can't read it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise PortingError(f"{path}: ONNX Runtime can't read it: {_short(error)}") from None


def check_export(network: nn.Module, path: Path, samples: Samples, tolerance: float) -> float:
    """Compare the export with the network on real samples, all at once and one by one.

    Returns:
        The largest difference between two logits, relative to the largest logit.

    Raises:
        PortingError: it passes `tolerance`, a value is not finite, or the export does not take these shapes.
    """
    with torch.no_grad():
        expected: npt.NDArray[np.float32] = network.eval()(torch.from_numpy(samples.inputs)).numpy()
    session = open_session(path)
    worst = 0.0
    for count in (len(samples.inputs), 1):
        for start in range(0, min(len(samples.inputs), 8 * count), count):
            part = slice(start, start + count)
            found = answers(session, samples.inputs[part], path)
            if found.shape != expected[part].shape or not np.isfinite(found).all():
                raise PortingError(f"{path}: the export answers {found.shape} or values that are not finite")
            scale = max(1e-6, float(np.abs(expected).max()))
            worst = max(worst, float(np.abs(found - expected[part]).max()) / scale)
    if not worst <= tolerance:
        raise PortingError(f"{path}: the export differs from the network by {worst:.2g}, allowed is {tolerance:g}")
    return worst


def check_agreement(path: Path, other: Path, samples: Samples, least: float) -> float:
    """Return the share of samples that both files answer alike. Raises PortingError when it is below `least`."""
    first, second = (answers(open_session(each), samples.inputs, each).argmax(axis=1) for each in (path, other))
    share = float((first == second).mean())
    if share < least:
        raise PortingError(
            f"it answers only {share:.1%} of the samples as its float version, at least {least:.1%} must be"
        )
    return share


def judge(path: Path, data: Data, split: str) -> Judged:
    """Measure accuracy on a split, in ONNX Runtime. Raises PortingError: it can't be read or run."""
    session = open_session(path)
    right = count = 0
    for batch in data.batches(split):
        right += int((answers(session, batch.inputs, path).argmax(axis=1) == batch.labels).sum())
        count += len(batch.labels)
    return Judged(right / count, count)


def cpu_seconds_each(paths: list[Path], samples: Samples) -> list[float]:
    """Measure the CPU seconds of one answer on one thread, taking turns between the files: the median for each."""
    sessions = [open_session(path) for path in paths]
    one = samples.inputs[:1]
    seconds: list[list[float]] = [[] for _ in paths]
    for _ in range(_TIMED_RUNS):
        for session, path, found in zip(sessions, paths, seconds, strict=True):
            # The thread's own CPU time: what else runs on this machine counts little.
            before = time.thread_time()
            answers(session, one, path)
            found.append(time.thread_time() - before)
    return [float(np.median(found)) for found in seconds]


def answers(session: Any, inputs: npt.NDArray[np.float32], path: Path) -> npt.NDArray[np.float32]:
    """Return logits (count, classes). Raises PortingError when ONNX Runtime can't run it."""
    try:
        found: npt.NDArray[np.float32] = session.run([OUTPUT_NAME], {INPUT_NAME: inputs})[0]
    except Exception as error:  # onnxruntime's errors share no base class
        raise PortingError(f"{path}: ONNX Runtime can't run it: {_short(error)}") from None
    return found


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
