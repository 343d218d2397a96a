"""Trace files: requests a second, one number for each second."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

RatesArray = npt.NDArray[np.float64]

MAX_SECONDS = 7 * 24 * 3600
"""Longest trace that is read: a week of seconds."""
MAX_RATE_RPS = 100_000.0
"""Highest rate a line may ask for; more is a typing error, or another kind of file."""


class TraceError(ValueError):
    """A trace that can't be used; the message names the file, the line and what to do."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A rate curve: `rates_rps[i]` requests a second during second `i`, as float64 of shape (seconds,)."""

    name: str
    rates_rps: RatesArray

    @property
    def seconds(self) -> int:
        """Length of the trace in seconds."""
        return int(self.rates_rps.size)

    @property
    def expected_requests(self) -> float:
        """Mean number of requests that a replay of the whole trace sends."""
        return float(self.rates_rps.sum())

    def scaled(self, factor: float) -> Trace:
        """Return the same curve times `factor` (0 or more, finite)."""
        if not math.isfinite(factor) or factor < 0:
            raise TraceError(f"{self.name}: the scale must be a number of 0 or more, not {factor}")
        return Trace(self.name, self.rates_rps * factor)

    def capped(self, max_rate_rps: float | None) -> Trace:
        """Return the same curve with every second at `max_rate_rps` or below."""
        if max_rate_rps is None:
            return self
        if not math.isfinite(max_rate_rps) or max_rate_rps <= 0:
            raise TraceError(f"{self.name}: the highest rate must be above 0, not {max_rate_rps}")
        return Trace(self.name, np.minimum(self.rates_rps, max_rate_rps))

    def truncated(self, seconds: int | None) -> Trace:
        """Return the first `seconds` seconds; a shorter trace stays as it is."""
        return self if seconds is None else Trace(self.name, self.rates_rps[:seconds])


def parse_trace(text: str, name: str) -> Trace:
    """Read a trace from text.

    One number a second: the requests of that second. Numbers stand on lines of their own or between blanks; empty lines
    and what follows a `#` are left out.
    Raises TraceError naming `name` and the line for anything else, and for a trace that never sends.
    """
    rates: list[float] = []
    for line_number, line in enumerate(text.splitlines(), start=1):
        for word in line.partition("#")[0].split():
            rates.append(_rate(word, f"{name}: line {line_number}"))
            if len(rates) > MAX_SECONDS:
                raise TraceError(f"{name}: line {line_number}: longer than {MAX_SECONDS} seconds (a week); cut it")
    if not rates:
        raise TraceError(f"{name}: no rate in it; write the requests of each second, one number for each")
    if not any(rates):
        raise TraceError(f"{name}: every rate is 0; nothing would be sent")
    return Trace(name, np.array(rates, dtype=np.float64))


def _rate(content: str, where: str) -> float:
    shown = content if len(content) <= 40 else content[:40] + "..."
    try:
        rate = float(content)
    except ValueError:
        raise TraceError(f"{where}: {shown!r} is no number; one number of requests a second is expected") from None
    if not math.isfinite(rate):
        raise TraceError(f"{where}: {shown!r} is not finite; write the requests a second of that second")
    if rate < 0:
        raise TraceError(f"{where}: {shown!r} is negative; a rate is 0 or more")
    if rate > MAX_RATE_RPS:
        raise TraceError(f"{where}: {shown!r} is above {MAX_RATE_RPS:.0f} requests a second; scale the trace down")
    return rate


def read_trace(path: Path) -> Trace:
    """Read a trace file (UTF-8, 64 MiB at most). Raises TraceError for everything that is wrong with it."""
    try:
        size = path.stat().st_size
        if size > 64 * 1024 * 1024:
            raise TraceError(f"{path}: {size} bytes is too large for a trace; 64 MiB is the most")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TraceError(f"{path}: can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise TraceError(f"{path}: not a text file; write the requests of each second, one number for each") from None
    return parse_trace(text, str(path))
