"""How two tasks slow each other on one server, at given loads.

The operator predicts a server's utilisation as the sum of demand / maximal throughput over its tasks, as if each cost
the same beside the other as alone. Caches, memory bandwidth and context switches say otherwise. Two versions are
loaded; each is measured alone at some shares of its maximal throughput (the other one loaded and idle), then both
together at every pair of shares that adds up to no more than the server. What is kept is relative: latency together by
latency alone, and the CPU of both together by the sum of their CPU alone, the factor that the operator's sum lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

import numpy as np

from rung_loadgen.arrivals import steady_arrivals
from rung_loadgen.openloop import Limits, OpenLoop, Stream
from rung_porting.profiler.document import MOST_CONFIGURATIONS, CoLocation, CurvePoint, ProfileDocument, SharedLoad
from rung_porting.profiler.errors import ProfileError
from rung_porting.profiler.measure import SEED, Subject, curve_point

SHARES = (0.2, 0.4, 0.6)
SECONDS_A_LOAD = 4.0
_FULL = 1.0 + 1e-9


@dataclass(frozen=True, slots=True)
class Tenant:
    """One of the two: what is loaded, and what it can do alone (inferences a second)."""

    subject: Subject
    max_throughput_rps: float

    @property
    def version(self) -> int:
        """The version that has to answer."""
        assert self.subject.version is not None
        return self.subject.version


@dataclass(frozen=True, slots=True)
class Seen:
    """One run of one or two tenants: a point of each, and the CPU seconds of the server."""

    points: tuple[CurvePoint, ...]
    cpu_seconds: float | None


async def co_locate(
    tenants: tuple[Tenant, Tenant],
    shares: Sequence[float] = SHARES,
    seconds: float = SECONDS_A_LOAD,
) -> tuple[CoLocation, CoLocation]:
    """Measure two loaded versions beside each other; returns each one's view of it.

    Takes (2 x shares + pairs) x seconds. Raises ProfileError when requests fail or the client was the limit.
    """
    alone = [
        {share: await _run([(tenant, share)], seconds) for share in shares}
        for tenant in tenants
    ]  # fmt: skip
    pairs = [(a, b) for a in shares for b in shares if a + b <= _FULL]
    if not pairs:
        raise ProfileError(f"no two of the shares {', '.join(f'{s:g}' for s in shares)} add up to 1 or less")
    views: tuple[list[SharedLoad], list[SharedLoad]] = ([], [])
    for own, other in pairs:
        together = await _run([(tenants[0], own), (tenants[1], other)], seconds)
        cpu = cpu_factor(together.cpu_seconds, alone[0][own].cpu_seconds, alone[1][other].cpu_seconds)
        views[0].append(shared_load(own, other, together.points[0], alone[0][own].points[0], cpu))
        views[1].append(shared_load(other, own, together.points[1], alone[1][other].points[0], cpu))
    first, second = (
        co_location(rival.subject.model, rival.version, loads)
        for rival, loads in ((tenants[1], views[0]), (tenants[0], views[1]))
    )
    return first, second


async def _run(loads: Sequence[tuple[Tenant, float]], seconds: float) -> Seen:
    """Run tenants at shares of their maximal throughput, for the same time."""
    reason = None
    for attempt in range(3):
        streams = [
            Stream(
                tenant.subject.model,
                steady_arrivals(share * tenant.max_throughput_rps, seconds, np.random.default_rng((SEED, attempt, n))),
                tenant.subject.payloads,
                tenant.subject.slo_seconds,
            )
            for n, (tenant, share) in enumerate(loads)
        ]
        gauge = loads[0][0].subject.gauge
        slo = min(stream.slo_seconds for stream in streams)
        deadline = max(5.0, 4 * max(stream.slo_seconds for stream in streams))
        before = None if gauge is None else await gauge.cpu_seconds()
        result = await OpenLoop([loads[0][0].subject.channel], streams, Limits(request_deadline_seconds=deadline)).run()
        cpu = None if gauge is None or before is None else await gauge.cpu_seconds() - before
        for (tenant, _), answers in zip(loads, result.streams, strict=True):
            if answers.failures.keys() - {"DEADLINE_EXCEEDED"}:
                raise ProfileError(f"requests of {answers.name} failed: {answers.failures}")
            others = {int(version) for version in answers.versions} - {tenant.version}
            if others:
                raise ProfileError(f"version {sorted(others)} of {answers.name} answered instead of {tenant.version}")
        reason = result.client.bound(max_lateness_seconds=max(0.02, 0.1 * slo))
        if reason is None:
            points = tuple(
                curve_point(answers, share * tenant.max_throughput_rps, deadline)
                for (tenant, share), answers in zip(loads, result.streams, strict=True)
            )
            return Seen(points, cpu)
    raise ProfileError(f"no number, three times: {reason}")


def cpu_factor(together: float | None, first: float | None, second: float | None) -> float | None:
    """Return the CPU of both together by the sum of each alone; None where one isn't known or nothing was used."""
    if not together or first is None or second is None or first + second <= 0:
        return None
    return round(together / (first + second), 4)


def shared_load(own: float, other: float, together: CurvePoint, alone: CurvePoint, cpu: float | None) -> SharedLoad:
    """Return one load of a view: latency beside the other one, and by what it was alone."""
    return SharedLoad(
        own=own,
        other=other,
        p50_seconds=together.p50_seconds,
        p95_seconds=together.p95_seconds,
        p99_seconds=together.p99_seconds,
        late_share=together.late_share,
        p50_factor=round(max(together.p50_seconds, 1e-6) / max(alone.p50_seconds, 1e-6), 3),
        p95_factor=round(max(together.p95_seconds, 1e-6) / max(alone.p95_seconds, 1e-6), 3),
        cpu_factor=cpu,
    )


def co_location(task: str, version: int, loads: Sequence[SharedLoad]) -> CoLocation:
    """Return one view; its factor is the median, which a moment's disturbance doesn't move."""
    factors = [load.cpu_factor for load in loads if load.cpu_factor is not None]
    return CoLocation(
        task=task,
        version=version,
        measured_at=datetime.now(UTC).replace(microsecond=0),
        cpu_factor=round(median(factors), 4) if factors else None,
        loads=tuple(loads),
    )


def with_co_location(profile: ProfileDocument, seen: CoLocation) -> ProfileDocument:
    """Return the profile with one more co-location, in place of an earlier one with the same task.

    `coLocationFactor`, which the cluster gets, is the largest of them: a first guess has to be on the safe side.
    """
    kept = (*(each for each in profile.co_location if each.task != seen.task), seen)[-MOST_CONFIGURATIONS:]
    factors = [each.cpu_factor for each in kept if each.cpu_factor is not None]
    return profile.model_copy(
        update={"co_location": kept, "co_location_factor": max(factors) if factors else profile.co_location_factor}
    )
