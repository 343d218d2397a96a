"""A trained network as a forecaster: InfAdapter's LSTM, run by onnxruntime. `rung-port forecaster` trains one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

from rung.core.forecast import Forecast

WINDOWS = 10
"""How many one-minute maxima the network looks at."""
MOST_BYTES = 16 * 1024 * 1024


class NoForecaster(Exception):  # noqa: N818 - a sentence for a person
    """A network can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Lstm:
    """Foresees the highest rate of the next minute. Rates are divided by their highest, so any scale will do."""

    path: str
    session: Any

    def forecast(self, rates_rps: Sequence[float]) -> Forecast:
        """See `rung.core.forecast.Forecaster.forecast`; `rates_rps` are the maxima of the last minutes."""
        import numpy as np  # noqa: PLC0415 - only where a network is used

        known = [rate for rate in rates_rps if isfinite(rate) and rate >= 0][-WINDOWS:]
        highest = max(known, default=0.0)
        if highest <= 0:
            return Forecast(0.0, 0.0)
        # With less than ten minutes of the past, the oldest minute stands for those before.
        padded = [known[0]] * (WINDOWS - len(known)) + known
        maxima = np.array([padded], dtype=np.float32) / np.float32(highest)
        try:
            (ratio,) = self.session.run(None, {self.session.get_inputs()[0].name: maxima})
            foreseen = float(np.asarray(ratio).reshape(-1)[0]) * highest
        except Exception:  # onnxruntime has no common class for its errors, and a policy never raises
            foreseen = highest
        foreseen = foreseen if isfinite(foreseen) and foreseen >= 0 else highest
        return Forecast(foreseen, foreseen)


def open_forecaster(path: str) -> Lstm:
    """Return the forecaster of a file, the same one while the file stays as it is. Raises NoForecaster."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:
        raise NoForecaster(f"the network {path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    if found.st_size > MOST_BYTES:
        raise NoForecaster(f"the network {path} has {found.st_size:,} bytes; {MOST_BYTES:,} are the most")
    opened = _open(path, found.st_mtime_ns, found.st_size)
    if isinstance(opened, str):
        raise NoForecaster(opened)
    return opened


@lru_cache(maxsize=8)
def _open(path: str, changed_ns: int, size: int) -> Lstm | str:
    """Return the forecaster, or why there is none: a pass a second must not read a bad file each time."""
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError:
        return "a network needs onnxruntime: pip install 'rung[lstm]'"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return f"the network {path} can't be used: {str(error)[:200]}"
    shapes = [each.shape for each in session.get_inputs()]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] != WINDOWS:
        return f"the network {path} takes {shapes}; one that rung-port forecaster trained takes (batch, {WINDOWS})"
    return Lstm(path, session)
