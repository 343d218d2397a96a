"""From torch to ONNX, and the proof that the export answers as the network did."""

from __future__ import annotations

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

from rung_porting.datasets import SIDE, Samples
from rung_porting.errors import PortingError

INPUT_NAME, OUTPUT_NAME = "image", "logits"
OPSET = 17
"""Understood by every onnxruntime since 1.12."""
TOLERANCE = 1e-4
"""Largest difference allowed between a logit from torch and from onnxruntime, relative to the largest logit. Float32
sums in another order differ by about 1e-6."""
_TIMED_RUNS = 60


@dataclass(frozen=True, slots=True)
class Measured:
    """What onnxruntime showed: accuracy 0 to 1; CPU-seconds of one answer on one thread (median)."""

    accuracy: float
    samples: int
    latency_seconds: float


def export_onnx(network: nn.Module, path: Path) -> None:
    """Write the network as an ONNX file: input (batch, 1, 8, 8), output (batch, classes), both float32."""
    sample = torch.zeros(2, 1, SIDE, SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that works on pruned networks is the older one
        torch.onnx.export(
            network.eval(),
            (sample,),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
        )
    onnx.checker.check_model(path)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file with one thread, as the server will.

    Raises:
        PortingError: onnxruntime can't read it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise PortingError(f"{path}: onnxruntime can't read it: {' '.join(str(error).split())[:300]}") from None


def check_export(network: nn.Module, path: Path, samples: Samples) -> float:
    """Compare the export with the network on real samples, one by one and all at once.

    Returns:
        The largest difference between two logits, relative to the largest logit.

    Raises:
        PortingError: it passes TOLERANCE, a value is not finite, or the export does not take these shapes.
    """
    with torch.no_grad():
        expected: npt.NDArray[np.float32] = network.eval()(torch.from_numpy(samples.images)).numpy()
    session = open_session(path)
    worst = 0.0
    for count in (len(samples.images), 1):
        for start in range(0, min(len(samples.images), 8 * count), count):
            part = slice(start, start + count)
            found = _answers(session, samples.images[part], path)
            if found.shape != expected[part].shape or not np.isfinite(found).all():
                raise PortingError(f"{path}: the export answers {found.shape} or values that are not finite")
            scale = max(1e-6, float(np.abs(expected).max()))
            worst = max(worst, float(np.abs(found - expected[part]).max()) / scale)
    if not worst <= TOLERANCE:
        raise PortingError(f"{path}: the export differs from the network by {worst:.2g}, allowed is {TOLERANCE:g}")
    return worst


def measure(path: Path, samples: Samples) -> Measured:
    """Measure accuracy on these samples and the CPU time of single answers, in onnxruntime on one thread.

    Raises:
        PortingError: onnxruntime can't read or run it.
    """
    session = open_session(path)
    parts = np.array_split(samples.images, max(1, len(samples.images) // 100))
    answers = np.concatenate([_answers(session, part, path).argmax(axis=1) for part in parts])
    one = samples.images[:1]
    seconds = []
    for _ in range(_TIMED_RUNS):
        # The thread's own CPU time: what else runs on this machine does not count.
        before = time.thread_time()
        _answers(session, one, path)
        seconds.append(time.thread_time() - before)
    return Measured(float((answers == samples.labels).mean()), len(samples.labels), float(np.median(seconds)))


def _answers(session: Any, images: npt.NDArray[np.float32], path: Path) -> npt.NDArray[np.float32]:
    try:
        found: npt.NDArray[np.float32] = session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
    except Exception as error:  # onnxruntime's errors share no base class
        raise PortingError(f"{path}: onnxruntime can't run it: {' '.join(str(error).split())[:300]}") from None
    return found
