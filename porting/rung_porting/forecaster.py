"""Trains InfAdapter's forecaster: an LSTM of 25 units and a dense one over ten one-minute maxima, written as ONNX.

Salmani et al., EuroMLSys 2023. Its input, shape (batch, 10), are maxima divided by the highest of the ten, its output,
shape (batch, 1), the highest rate of the next minute by the same; so it serves traces of any scale. No trained weights
are shipped: demand differs, and a day of one's own trace trains in a minute.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rung.adapters.lstm import WINDOWS, Lstm, NoForecaster, open_forecaster
from rung.core.forecast import ExponentialMean, Forecaster, LastMaximum
from rung_loadgen.trace import Trace
from rung_porting.errors import PortingError

MINUTE_SECONDS = 60
UNITS = 25
STRIDE_SECONDS = 5
"""Windows begin this far apart: neighbours differ little."""
CHOSEN_SHARE, JUDGED_SHARE = 0.15, 0.15
"""Of the windows: those before the last choose the epoch, the last ones judge; neither is trained on."""
LEAST_WINDOWS = 200
SAMPLES_CHECKED = 200

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trained:
    """Mean absolute errors on the end of the trace, which was not used for training, by the mean of what came."""

    network: float
    last_maximum: float
    exponential_mean: float
    epochs: int


def windows_of(rates_rps: npt.NDArray[np.float64]) -> tuple[Array, Array, Array]:
    """Return what to learn from: inputs (n, 10) and targets (n, 1), divided by the scales (n, 1), oldest first.

    Windows without any request are left out.
    """
    span = (WINDOWS + 1) * MINUTE_SECONDS
    starts = np.arange(0, rates_rps.size - span + 1, STRIDE_SECONDS)
    cut = np.stack([rates_rps[start : start + span] for start in starts]) if starts.size else np.empty((0, span))
    maxima = cut.reshape(-1, WINDOWS + 1, MINUTE_SECONDS).max(axis=2)
    maxima = maxima[maxima[:, :WINDOWS].max(axis=1) > 0]
    scale = maxima[:, :WINDOWS].max(axis=1, keepdims=True)
    scaled = (maxima / scale).astype(np.float32)
    return scaled[:, :WINDOWS], scaled[:, WINDOWS:], scale.astype(np.float32)


def train_forecaster(
    trace: Trace, output: Path, *, epochs: int = 60, seed: int = 0, progress: Callable[[int, float], None]
) -> Trained:
    """Train on a trace, write the network, and return how good it is on the part it has not seen.

    Args:
        trace: requests a second.
        output: the ONNX file.
        epochs: at most; it ends when the error on the part that chooses has not fallen for eight.
        seed: the same seed on the same machine gives the same network.
        progress: is told each epoch and its error.

    Raises:
        PortingError: the trace is too short, or the network can't be written.
    """
    import torch
    from torch import nn

    inputs, targets, scales = windows_of(trace.rates_rps)
    # Windows overlap: between the parts as many are left out as share a second.
    gap = (WINDOWS + 1) * MINUTE_SECONDS // STRIDE_SECONDS
    rest = max(0, len(inputs) - 2 * gap)
    kept = int(rest * (1 - CHOSEN_SHARE - JUDGED_SHARE))
    choosing = slice(kept + gap, kept + gap + int(rest * CHOSEN_SHARE))
    judging = slice(choosing.stop + gap, None)
    if kept < LEAST_WINDOWS:
        windows = LEAST_WINDOWS / (1 - CHOSEN_SHARE - JUDGED_SHARE) + 2 * gap
        least = (WINDOWS + 1) * MINUTE_SECONDS + int(windows * STRIDE_SECONDS)
        raise PortingError(f"{trace.name}: {trace.seconds} s are too short to learn from; {least} s are the least")

    class Network(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(1, UNITS, batch_first=True)
            self.dense = nn.Linear(UNITS, 1)

        def forward(self, maxima: torch.Tensor) -> torch.Tensor:
            states, _ = self.lstm(maxima.unsqueeze(2))
            answer: torch.Tensor = self.dense(states[:, -1])
            return answer

    torch.manual_seed(seed)
    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    loss_of = nn.L1Loss()
    seen, wanted = torch.from_numpy(inputs[:kept]), torch.from_numpy(targets[:kept])
    unseen, unseen_wanted = torch.from_numpy(inputs[choosing]), torch.from_numpy(targets[choosing])
    best, best_state, since, epoch = float("inf"), network.state_dict(), 0, 0
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(kept).split(64):
            optimiser.zero_grad()
            loss_of(network(seen[batch]), wanted[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            error = float(loss_of(network(unseen), unseen_wanted))
        progress(epoch, error)
        since += 1
        if error < best:
            best, since = error, 0
            best_state = {name: value.clone() for name, value in network.state_dict().items()}
        if since >= 8:
            break
    network.load_state_dict(best_state)
    _write(network, output)
    try:
        written = open_forecaster(str(output))
    except NoForecaster as error:
        raise PortingError(str(error)) from None
    return _judge(written, network, inputs[judging], targets[judging], scales[judging], epoch)


def _write(network: object, output: Path) -> None:
    import torch

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PortingError(f"{output}: can't be written: {error.strerror or error}") from None
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                network.eval(),  # type: ignore[attr-defined]
                (torch.zeros(2, WINDOWS),),
                output,
                dynamo=False,
                opset_version=17,
                input_names=["maxima"],
                output_names=["next"],
                dynamic_axes={"maxima": {0: "batch"}, "next": {0: "batch"}},
            )
        except Exception as error:  # torch's and onnx's errors share no base class
            raise PortingError(f"{output}: the network can't be written: {str(error)[:200]}") from None


def _judge(written: Lstm, network: object, inputs: Array, targets: Array, scales: Array, epochs: int) -> Trained:
    """Compare what was written with torch, and with simpler rules, on what was not trained on."""
    import torch

    with torch.no_grad():
        answers = network(torch.from_numpy(inputs[:SAMPLES_CHECKED])).numpy()  # type: ignore[operator]
    again = [written.forecast([float(value) for value in row]).expected_rps for row in inputs[:SAMPLES_CHECKED]]
    if not np.allclose(answers[:, 0], again, atol=1e-4):
        raise PortingError("the network answers otherwise in ONNX Runtime than in torch; it is not to be used")

    def error_of(forecaster: Forecaster) -> float:
        told = np.array([forecaster.forecast([float(v) for v in row]).expected_rps for row in inputs])
        came = (targets[:, 0] * scales[:, 0]).mean()
        return float((np.abs(told - targets[:, 0]) * scales[:, 0]).mean() / max(came, 1e-9))

    return Trained(error_of(written), error_of(LastMaximum(1)), error_of(ExponentialMean(WINDOWS, 0.0)), epochs)
