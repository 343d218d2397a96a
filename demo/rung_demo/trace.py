"""The demo's own trace: five minutes that climb past what the best versions sustain, twice, and come back.

Rates are multiples of what the machine was measured to do, so the same shape fits every machine: it starts at a part
of what the best versions sustain together, and its peak stays below what the cheapest ones carry together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rung_loadgen.trace import Trace, TraceError, read_trace

DEFAULT_SECONDS = 300
START_UTILIZATION = 0.35
"""Utilisation at the start if the best versions answer: quiet enough to stay on them."""
PEAK_UTILIZATION = 0.55
"""Utilisation at the peak if the cheapest versions answer: the machine can carry it."""
LEAST_CLIMB = 1.3
"""The peak has to ask for this much of what the best versions sustain, or nothing would have to step down."""

_CLIMB = (
    # (share of the trace, level): two climbs with quiet after each, long enough for a step up after 30 s of calm.
    (0.00, 0.00), (0.05, 0.00), (0.36, 1.00), (0.43, 1.00), (0.50, 0.30), (0.54, 0.00),
    (0.68, 0.00), (0.81, 0.62), (0.85, 0.62), (0.88, 0.00), (1.00, 0.00),
)  # fmt: skip
"""Levels are orders of growth, not rates: half way up is the geometric mean of the lowest and the highest rate. Demand
that grows by a steady factor is what a policy that takes one step at a time can follow."""


@dataclass(frozen=True, slots=True)
class TaskCapacity:
    """What a task's best and cheapest versions sustain alone on the server, in inferences a second."""

    task: str
    best_rps: float
    cheapest_rps: float


def demo_traces(
    capacities: Sequence[TaskCapacity],
    *,
    seconds: int = DEFAULT_SECONDS,
    seed: int = 7,
    start_utilization: float = START_UTILIZATION,
    peak_utilization: float = PEAK_UTILIZATION,
) -> dict[str, Trace]:
    """Return the built-in trace of each task, scaled to what was measured.

    Each task gets an equal part of the server. The tasks climb a little apart from each other, ride on a daily wave of
    their own and have bursts of a few seconds. The same seed gives the same trace. Raises TraceError when a capacity
    is not positive, or when the cheapest versions carry too little more than the best for a climb between them.
    """
    _check(capacities, start_utilization, peak_utilization)
    share = 1 / len(capacities)
    traces = {}
    for number, capacity in enumerate(capacities):
        low = start_utilization * share * capacity.best_rps
        high = max(low, peak_utilization * share * capacity.cheapest_rps)
        rates = _rates(low, high, seconds, number, np.random.default_rng((seed, number)))
        traces[capacity.task] = Trace(f"demo trace of {capacity.task}", np.round(rates, 2))
    return traces


def read_start(path: Path, seconds: int) -> Trace:
    """Read the first seconds of a trace file; the name says how much of it that is.

    Raises TraceError for a bad file, and when nothing would be sent in that time.
    """
    whole = read_trace(path)
    start = whole.truncated(seconds)
    if not start.rates_rps.any():
        raise TraceError(f"{path}: every rate of the first {seconds} seconds is 0; nothing would be sent")
    part = f"the first {seconds:,} of {whole.seconds:,} s of " if start.seconds < whole.seconds else ""
    return Trace(f"{part}{path.name}", start.rates_rps)


def scaled_traces(trace: Trace, capacities: Sequence[TaskCapacity]) -> dict[str, Trace]:
    """Return a trace for every task, scaled so that its highest second is the built-in trace's peak.

    The tasks take the same curve, each scaled to its own versions. Raises TraceError for bad capacities.
    """
    _check(capacities, 0.0, PEAK_UTILIZATION)
    share = PEAK_UTILIZATION / len(capacities) / float(trace.rates_rps.max())
    return {c.task: trace.scaled(share * c.cheapest_rps) for c in capacities}


def _check(capacities: Sequence[TaskCapacity], start_utilization: float, peak_utilization: float) -> None:
    if not capacities:
        raise TraceError("no task to make a trace for")
    for capacity in capacities:
        if not (np.isfinite(capacity.cheapest_rps) and 0 < capacity.best_rps <= capacity.cheapest_rps):
            raise TraceError(
                f"{capacity.task}: its best version sustains {capacity.best_rps:g} inferences/s and its cheapest "
                f"{capacity.cheapest_rps:g}; both must be above 0 and the cheapest at least as fast"
            )
    climb = peak_utilization / len(capacities) * sum(c.cheapest_rps / c.best_rps for c in capacities)
    if climb < LEAST_CLIMB or climb <= start_utilization:
        raise TraceError(
            f"the cheapest versions carry too little more than the best: the peak would ask for {climb:.0%} of what "
            f"the best sustain, {LEAST_CLIMB:.0%} is needed for a step down; prune further"
        )


def _rates(
    low_rps: float, high_rps: float, seconds: int, number: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return the rate of each second: climb, daily wave, bursts and a little unrest. Float64, shape (seconds,)."""
    time = np.arange(seconds, dtype=np.float64)
    shares, levels = np.array(_CLIMB).T
    # The second task follows a few seconds after the first.
    climb = np.interp(time - 5 * number, shares * seconds, levels)
    wave = 1 + 0.08 * np.sin(2 * np.pi * (time / max(seconds, 1) * 2.5 + 0.5 * number))
    rates = low_rps * (high_rps / low_rps) ** climb * wave * (1 + 0.03 * rng.standard_normal(seconds))
    for _ in range(max(1, seconds // 40)):
        start = int(rng.integers(0, seconds))
        rates[start : start + int(rng.integers(2, 5))] *= rng.uniform(1.2, 1.35)
    return np.asarray(np.clip(rates, 0.8 * low_rps, high_rps), dtype=np.float64)
