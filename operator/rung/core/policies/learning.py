"""What Frontier learns of a server: by how much the profiles are off, and whether answers are late.

Both from what the server tells of itself, and from nothing else: the CPU it used, and the requests that wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, inf, isfinite

from rung.core import signals
from rung.core.policies.lane import Lane, usable_cores
from rung.core.snapshot import ServerState

LEAST_FACTOR, MOST_FACTOR = 0.25, 4.0
"""A profile that is off by more than this is no profile."""
LEAST_SAMPLES = 3
"""Fewer settled CPU samples say nothing of the factor."""
LEAST_SHARE = 0.01
"""Of the cores: whoever uses less says nothing of it either."""
LEAST_PACE = 0.2
"""However busy the others are, a queue moves at this share of a core."""


def bounded(factor: float) -> float:
    """Return a factor within what can be true."""
    return min(MOST_FACTOR, max(LEAST_FACTOR, factor))


def cost_factor(
    before: float, server: ServerState, lanes: Sequence[Lane], after_seconds: float, trust_seconds: float
) -> float:
    """Return by what the profiles have to be multiplied: what was used by what they predicted, since a moment.

    Blended with what was known before, which weighs as much as `trust_seconds` of samples; that alone where there is
    too little to learn from.
    """
    used = {
        s.time_seconds: _within(s.value, signals.HIGHEST_UTILIZATION)
        for s in server.utilization
        if s.time_seconds > after_seconds and isfinite(s.value)
    }
    if len(used) < LEAST_SAMPLES:
        return before
    predicted = 0.0
    came = server.demand if server.observed_demand is None else server.observed_demand
    for one in lanes:
        if one.standing.rung is None:
            continue
        rates = [
            _within(sample.value, signals.HIGHEST_DEMAND_RPS)
            for sample in came.get(one.state.name, ())
            if sample.time_seconds > after_seconds and isfinite(sample.value)
        ]
        if not rates:
            return before
        predicted += fsum(rates) / len(rates) * one.costs[one.standing.rung]
    cores = usable_cores(server.capacity_cores)
    mean = fsum(used.values()) / len(used) * cores
    if predicted <= LEAST_SHARE * cores or mean <= LEAST_SHARE * cores:
        return before
    weight = len(used) / (len(used) + trust_seconds)
    return before + weight * (bounded(mean / predicted) - before)


def seen_late(server: ServerState, lanes: Sequence[Lane], factor: float) -> float | None:
    """Return the time of the newest CPU sample if answers are late at present; None if they are not.

    A queue that takes longer than the service level makes the requests in it late: that is seen at once, and in what
    every server tells of itself. Where late answers are counted in front of the server, that counts instead.
    """
    newest = max((s.time_seconds for s in server.utilization if isfinite(s.time_seconds)), default=-inf)
    loads = [_load(one) * factor for one in lanes]
    late = any(_is_late(one, fsum(loads) - load, server, factor) for one, load in zip(lanes, loads, strict=True))
    return newest if late and newest > -inf else None


def _load(one: Lane) -> float:
    """Return the cores that a lane uses at present, as the profiles say."""
    return one.rates_rps[-1] * one.costs[one.standing.rung] if one.rates_rps and one.standing.rung is not None else 0.0


def _is_late(one: Lane, others_cores: float, server: ServerState, factor: float) -> bool:
    if one.late_rps is not None:
        return bool(one.late_rps) and one.late_rps[-1] > 0
    rung = one.standing.rung
    if rung is None or not one.pending or one.pending[-1] < 1:
        return False
    pace = min(1.0, max(LEAST_PACE, usable_cores(server.capacity_cores) - others_cores))
    return (one.pending[-1] + 1.0) * one.costs[rung] * factor / pace > one.state.slo_latency_seconds


def _within(value: float, highest: float) -> float:
    """Return a sample within what can be true: a fault of measuring must not outweigh all others."""
    return min(max(0.0, value), highest)
