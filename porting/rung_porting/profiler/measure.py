"""What one loaded version can do: saturated, searched, and under every load of its curve.

The search is an open loop (requests leave at their own times), so a rate that the server can't keep shows as latency.
A closed loop with every caller busy comes first: what it reaches bounds the search from above, and keeps short probes
honest, whose queue had no time to grow. Every run is a point of the latency-over-load curve.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from rung_loadgen.arrivals import steady_arrivals
from rung_loadgen.closedloop import Saturation, saturate
from rung_loadgen.kserve import Channel, ServerError
from rung_loadgen.openloop import Limits, OpenLoop, Stream
from rung_loadgen.result import Result, StreamResult
from rung_porting.profiler import client_share
from rung_porting.profiler.client_share import LARGEST_TAKEN_SHARE, Shares
from rung_porting.profiler.document import CurvePoint
from rung_porting.profiler.errors import ClientBoundError, ProfileError
from rung_porting.profiler.gauges import Gauge
from rung_porting.profiler.search import Effort, Found, Verdict, ceiling, highest_kept_rate

SEED = 20_111
FEWEST_REQUESTS = 30
"""A probe of a slow version goes on until it has this many, four times its usual length at most."""
MOST_CALLERS = 128
_ALONE_SECONDS = 0.3
"""How long one caller asks, one request after the other, before anything else is measured."""
_SAME_LOAD = 0.03
"""Loads closer than this are one point of the curve."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured, and how its answers and its CPU are seen."""

    channel: Channel
    model: str
    payloads: tuple[bytes, ...]
    slo_seconds: float
    version: int | None = None
    """The version that has to answer; None where any may, as long as it is one."""
    gauge: Gauge | None = None
    parallel: int = 1
    """Inferences that the server may work on at once: batch size times instances."""
    cpu_limit_cores: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What one version did. Latencies and CPU are of the moderate load."""

    found: Found
    saturation_rps: float
    moderate: CurvePoint
    curve: tuple[CurvePoint, ...]
    """By rate, ascending."""
    probes: tuple[tuple[float, bool], ...]
    version: int
    """The version that answered."""
    client_cpu_share: float
    """The highest of any run, in cores."""
    client_lateness_p99_seconds: float
    shares: Shares | None
    """Who used the cores while the server was asked for all it can do; None where that isn't known."""


class VersionMeasurement:
    """One measurement of one version. Made, warmed up, measured once."""

    def __init__(self, subject: Subject, effort: Effort) -> None:
        self._subject = subject
        self._effort = effort
        self._server_is_local = client_share.is_local(subject.channel.target)
        self._versions: set[int] = set()
        self._cpu_share = 0.0
        self._lateness = 0.0
        self._probes: list[tuple[float, bool]] = []
        self._curve: list[CurvePoint] = []
        self._shares: Shares | None = None

    async def warm_up(self) -> None:
        """Keep the version busy for a moment, so that first calls and growing arenas are in no number."""
        await self._saturate(self._effort.warm_up_seconds, self._callers)

    async def measure(self) -> Measured:
        """Saturate, search, look at a moderate load and at the curve's. Raises ProfileError, also for the client."""
        effort, slo = self._effort, self._subject.slo_seconds
        alone = await self._saturate(_ALONE_SECONDS, callers=1)
        if alone.fastest_seconds > slo:
            raise ProfileError(
                f"one request alone takes {alone.fastest_seconds * 1e3:.1f} ms at best, and {slo * 1e3:g} ms are "
                "allowed; it is too slow for this task's service level"
            )
        saturation = await self._trusted_saturation()
        if saturation.throughput_rps <= 0:
            raise ProfileError(f"one inference takes longer than {effort.saturation_seconds:g} s")
        found = await highest_kept_rate(
            saturation.throughput_rps,
            self._probe,
            tolerance=effort.tolerance,
            max_probes=effort.max_probes,
            ceiling_rps=ceiling(saturation.throughput_rps, effort.probe_seconds, slo),
        )
        if found is None:
            raise ProfileError(
                f"keeps {slo * 1e3:g} ms at no rate down to {self._probes[-1][0]:.2f} inferences/s; "
                "it is too slow for this task's service level"
            )
        moderate = await self.point(found.rate_rps * effort.moderate_share, effort.moderate_seconds)
        for share in effort.loads:
            rate = share * found.rate_rps
            if all(abs(point.rate - rate) > _SAME_LOAD * found.rate_rps for point in self._curve):
                # A server above its limit may make the client late: then there is no such point, and a profile still.
                with suppress(ClientBoundError):
                    await self.point(rate, effort.load_seconds, failures_allowed=True)
        return Measured(
            found=found,
            saturation_rps=saturation.throughput_rps,
            moderate=moderate,
            curve=tuple(sorted(self._curve, key=lambda point: point.rate)),
            probes=tuple(self._probes),
            version=self._answered_version(),
            client_cpu_share=self._cpu_share,
            client_lateness_p99_seconds=self._lateness,
            shares=self._shares,
        )

    async def point(
        self, rate_rps: float, seconds: float, *, failures_allowed: bool = False, decides: bool = False
    ) -> CurvePoint:
        """Measure one load and keep it as a point of the curve.

        `decides`: a rate that is not kept makes the number smaller, so it must not be the client's doing.
        Raises ProfileError.
        """
        seconds = min(4 * seconds, max(seconds, FEWEST_REQUESTS / rate_rps))
        result, shares = await self._trusted_run(rate_rps, seconds, failures_allowed=failures_allowed, decides=decides)
        answers = result.streams[0]
        point = curve_point(answers, rate_rps, self._deadline_seconds)
        if shares is not None and shares.server_cores is not None and answers.offered > answers.failed:
            cost = shares.server_cores * result.client.wall_seconds / (answers.offered - answers.failed)
            point = point.model_copy(update={"cpu_seconds_per_inference": round(cost, 7)})
        self._curve.append(point)
        return point

    async def _probe(self, rate_rps: float) -> Verdict:
        point = await self.point(rate_rps, self._effort.probe_seconds, failures_allowed=True, decides=True)
        kept = point.late_share <= self._effort.largest_late_share
        self._probes.append((rate_rps, kept))
        return Verdict(kept, point.p99_seconds / self._subject.slo_seconds)

    async def _trusted_saturation(self) -> Saturation:
        reason = None
        for _ in range(3):
            saturation = await self._saturate(self._effort.saturation_seconds, self._callers)
            reason = self._taken(self._shares)
            if reason is None:
                return saturation
        raise ClientBoundError(f"no number, three times: {reason}")

    async def _saturate(self, seconds: float, callers: int) -> Saturation:
        subject = self._subject
        cpu_before, before = await self._server_cpu_seconds(), client_share.look()
        try:
            saturation = await saturate(subject.channel, subject.payloads, callers=callers, seconds=seconds)
        except ServerError as error:
            raise ProfileError(str(error)) from None
        after, cpu_after = client_share.look(), await self._server_cpu_seconds()
        self._shares = client_share.shares(before, after, _difference(cpu_before, cpu_after))
        self._check_versions(saturation.versions)
        if saturation.client_cpu_share > 0.8:
            raise ClientBoundError(
                f"the client used {saturation.client_cpu_share:.2f} cores at {saturation.throughput_rps:.0f} "
                "inferences/s: that is its own limit, not the server's; give it a faster core"
            )
        self._cpu_share = max(self._cpu_share, saturation.client_cpu_share)
        return saturation

    async def _trusted_run(
        self, rate_rps: float, seconds: float, *, failures_allowed: bool, decides: bool
    ) -> tuple[Result, Shares | None]:
        subject = self._subject
        reason: str | None = None
        for attempt in range(3):
            arrivals = steady_arrivals(rate_rps, seconds, np.random.default_rng(SEED + attempt))
            stream = Stream("profile", arrivals, subject.payloads, subject.slo_seconds)
            limits = Limits(request_deadline_seconds=self._deadline_seconds)
            cpu_before, before = await self._server_cpu_seconds(), client_share.look()
            result = await OpenLoop([subject.channel], [stream], limits).run()
            after, cpu_after = client_share.look(), await self._server_cpu_seconds()
            answers = result.streams[0]
            self._check_versions({int(version) for version in answers.versions})
            if answers.failed and (not failures_allowed or answers.failures.keys() - {"DEADLINE_EXCEEDED"}):
                raise ProfileError(f"requests failed at {rate_rps:.1f} inferences/s: {answers.failures}")
            shares = client_share.shares(before, after, _difference(cpu_before, cpu_after))
            # A client that is a twentieth of the service level late moves the number it is there to find.
            # Latency counts from the intended time, so a late client makes the number smaller, never larger.
            reason = result.client.bound(max_lateness_seconds=max(0.02, 0.1 * subject.slo_seconds))
            if decides and answers.violation_share > self._effort.largest_late_share:
                reason = reason or self._taken(shares)
            if reason is None:
                self._cpu_share = max(self._cpu_share, result.client.cpu_share)
                self._lateness = max(self._lateness, result.client.lateness_p99_seconds)
                return result, shares
        raise ClientBoundError(f"no number at {rate_rps:.1f} inferences/s, three times: {reason}")

    def _taken(self, shares: Shares | None) -> str | None:
        """Return why the server was held back by the client on the same cores, or None."""
        if shares is None:
            return None
        taken = shares.taken_share(server_is_local=self._server_is_local, cpu_limit_cores=self._subject.cpu_limit_cores)
        if taken <= LARGEST_TAKEN_SHARE:
            return None
        return (
            f"the client used {shares.client_cores:.2f} of {shares.cores} cores and none was idle: the server, on the "
            f"same machine, could have done up to {min(taken, 9.99):.0%} more; run the client on another machine, or "
            "give the server a CPU limit and say it with --cpu"
        )

    @property
    def _callers(self) -> int:
        return min(MOST_CALLERS, max(self._effort.fewest_callers, 2 * self._subject.parallel))

    @property
    def _deadline_seconds(self) -> float:
        return max(5.0, 4 * self._subject.slo_seconds)

    async def _server_cpu_seconds(self) -> float | None:
        return None if self._subject.gauge is None else await self._subject.gauge.cpu_seconds()

    def _check_versions(self, versions: set[int] | frozenset[int]) -> None:
        self._versions |= versions
        others = self._versions - {self._subject.version}
        if self._subject.version is not None and others:
            raise ProfileError(f"version {sorted(others)} answered instead; something else changes this server")
        if len(self._versions) > 1:
            raise ProfileError(f"versions {sorted(self._versions)} answered in turn; something changes this server")

    def _answered_version(self) -> int:
        return next(iter(self._versions))


def curve_point(answers: StreamResult, rate_rps: float, deadline_seconds: float) -> CurvePoint:
    """Return the point of the curve that one run is; a request without an answer counts as its deadline."""
    failed = np.full(answers.failed, deadline_seconds)
    p50, p95, p99 = np.percentile(np.concatenate([answers.latencies_seconds, failed]), (50, 95, 99))
    return CurvePoint(
        rate=round(rate_rps, 3),
        p50_seconds=round(float(p50), 6),
        p95_seconds=round(float(p95), 6),
        p99_seconds=round(float(p99), 6),
        late_share=round(answers.violation_share, 5),
        requests=answers.offered,
    )


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0.0, after - before)
