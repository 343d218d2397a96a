"""How hard is searched, and the search: a rate after the other until the interval is narrow or the budget ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rung_porting.profiler.belief import Belief, trust


@dataclass(frozen=True, slots=True)
class Effort:
    """How long each part of a measurement takes."""

    warm_up_seconds: float
    saturation_seconds: float
    probe_seconds: float
    moderate_seconds: float
    tolerance: float
    """The search ends when the 90 % interval is this narrow, relative."""
    max_probes: int = 5
    """It ends after this many probes in any case, the budget; after twice as many while no rate was kept."""
    loads: tuple[float, ...] = ()
    """Shares of the highest rate at which the curve gets points of its own, beside the search's."""
    load_seconds: float = 4.0
    largest_late_share: float = 0.01
    fewest_callers: int = 8
    moderate_share: float = 0.6
    """Latency percentiles and CPU are of this share of the highest rate."""


LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
"""With the moderate load these are twelve, three of them at the limit or above."""
QUICK = Effort(warm_up_seconds=0.5, saturation_seconds=1.5, probe_seconds=1.5, moderate_seconds=2.5, tolerance=0.06)
THOROUGH = Effort(
    warm_up_seconds=2,
    saturation_seconds=5,
    probe_seconds=8,
    moderate_seconds=10,
    tolerance=0.03,
    max_probes=12,
    loads=LOADS,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one probe said: whether the rate was kept, and the latency that decides by the service level."""

    kept: bool
    latency_by_limit: float


@dataclass(frozen=True, slots=True)
class Found:
    """The highest kept rate and the rates between which it lies with a probability of 90 %, in inferences a second."""

    rate_rps: float
    low_rps: float
    high_rps: float
    narrow: bool
    """False when the budget ended before the interval was as narrow as asked."""


async def highest_kept_rate(
    bound_rps: float,
    probe: Callable[[float], Awaitable[Verdict]],
    *,
    tolerance: float,
    max_probes: int = 5,
    ceiling_rps: float | None = None,
) -> Found | None:
    """Search the highest rate that `probe` says is kept, up to `ceiling_rps` (by default `bound_rps`).

    `bound_rps` is what a closed loop reached. Returns None when none of 2 x `max_probes` probes was kept.
    """
    belief = Belief.before(bound_rps, ceiling_rps or bound_rps)
    any_kept = False
    for count in range(1, 2 * max_probes + 1):
        rate = belief.next_rate
        verdict = await probe(rate)
        any_kept = any_kept or verdict.kept
        belief = belief.after(rate, verdict.kept, trust(verdict.latency_by_limit))
        if any_kept and (belief.width() <= tolerance or count >= max_probes):
            break
    if not any_kept:
        return None
    low, high = belief.interval()
    return Found(belief.best, low, high, narrow=belief.width() <= tolerance)


def ceiling(bound_rps: float, probe_seconds: float, slo_seconds: float) -> float:
    """Return the highest rate to consider, given what a closed loop reached.

    A closed loop may not fill the largest batches, so a longer queue can do more than it reached. But only a long
    probe shows that a rate is too high: in `probe_seconds` the queue of a rate f times too high grows by
    (f - 1) x probe_seconds, which has to be more than the service level. Short probes stay below the closed loop.
    """
    return bound_rps * (1.25 if probe_seconds * 0.1 >= slo_seconds else 1.0)
