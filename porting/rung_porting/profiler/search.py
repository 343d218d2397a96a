"""What one loaded version can do: the highest Poisson rate at which its answers keep the service level.

The search is an open loop (requests leave at their own times), so a rate that the server can't keep shows as latency.
A closed loop with every caller busy comes first: what it reaches bounds the search from above, and keeps short probes
honest, whose queue had no time to grow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from rung_loadgen.arrivals import steady_arrivals
from rung_loadgen.closedloop import Saturation, saturate
from rung_loadgen.kserve import Channel, ServerError
from rung_loadgen.openloop import Limits, OpenLoop, Stream
from rung_loadgen.result import Result

SEED = 20_111


class ProfileError(RuntimeError):
    """A version that can't be profiled; the message says which and why. No number is reported for it."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long each part of a measurement takes."""

    warm_up_seconds: float
    saturation_seconds: float
    probe_seconds: float
    moderate_seconds: float
    tolerance: float
    """The search ends when what was kept and what was not are this close, relative."""
    largest_late_share: float = 0.01
    callers: int = 8
    moderate_share: float = 0.6
    """Latency percentiles and CPU are of this share of the highest rate."""


QUICK = Effort(warm_up_seconds=0.5, saturation_seconds=1.5, probe_seconds=1.5, moderate_seconds=2.5, tolerance=0.051)
THOROUGH = Effort(warm_up_seconds=2, saturation_seconds=5, probe_seconds=10, moderate_seconds=20, tolerance=0.02)


async def highest_kept_rate(
    bound_rps: float, kept: Callable[[float], Awaitable[bool]], *, tolerance: float, max_probes: int = 12
) -> float | None:
    """Bisect for the highest rate below `bound_rps` for which `kept(rate)` holds.

    The first probe is close below the bound, since most servers keep that. Returns the highest rate that was kept, or
    None when none of `max_probes` was. Ends when the gap to the lowest rate not kept is within `tolerance`, relative.
    """
    lowest_not_kept, highest = bound_rps, 0.0
    rate = 0.9 * bound_rps
    for _ in range(max_probes):
        if await kept(rate):
            highest = rate
        else:
            lowest_not_kept = rate
        if highest > 0 and (lowest_not_kept - highest) <= tolerance * lowest_not_kept:
            break
        rate = (lowest_not_kept + highest) / 2 if highest > 0 else lowest_not_kept * 0.75
    return highest or None


@dataclass(frozen=True, slots=True)
class Measured:
    """What one version did. Latencies are of the moderate load."""

    saturation_rps: float
    max_throughput_rps: float
    latency_p50_seconds: float
    latency_p95_seconds: float
    latency_p99_seconds: float
    inferences: int
    """Answers given from the start of the saturation on: what the CPU seconds are divided by."""
    client_cpu_share: float
    """The highest share of any part."""
    client_lateness_p99_seconds: float
    probes: tuple[tuple[float, bool], ...]


class VersionMeasurement:
    """Measures the version that answers on a channel. `version` is checked in every answer."""

    def __init__(
        self, channel: Channel, payloads: tuple[bytes, ...], *, version: int, slo_seconds: float, effort: Effort
    ) -> None:
        self._channel = channel
        self._payloads = payloads
        self._version = version
        self._slo_seconds = slo_seconds
        self._effort = effort
        self._inferences = 0
        self._cpu_share = 0.0
        self._lateness = 0.0
        self._probes: list[tuple[float, bool]] = []

    async def warm_up(self) -> None:
        """Keep the version busy for a moment, so that first calls and growing arenas are in no number."""
        await self._saturate(self._effort.warm_up_seconds)
        self._inferences = 0

    async def measure(self) -> Measured:
        """Saturate, search, and look at a moderate load. Raises ProfileError, also for a client that is the limit."""
        saturation = await self._saturate(self._effort.saturation_seconds)
        if saturation.throughput_rps <= 0:
            raise ProfileError(f"one inference takes longer than {self._effort.saturation_seconds:g} s")
        highest = await highest_kept_rate(saturation.throughput_rps, self._keeps, tolerance=self._effort.tolerance)
        if highest is None:
            raise ProfileError(
                f"keeps {self._slo_seconds * 1e3:g} ms at no rate down to {self._probes[-1][0]:.2f} inferences/s; "
                "it is too slow for this task's service level"
            )
        moderate = await self._trusted_run(highest * self._effort.moderate_share, self._effort.moderate_seconds)
        p50, p95, p99 = np.percentile(moderate.streams[0].latencies_seconds, (50, 95, 99))
        return Measured(
            saturation_rps=saturation.throughput_rps,
            max_throughput_rps=highest,
            latency_p50_seconds=float(p50),
            latency_p95_seconds=float(p95),
            latency_p99_seconds=float(p99),
            inferences=self._inferences,
            client_cpu_share=self._cpu_share,
            client_lateness_p99_seconds=self._lateness,
            probes=tuple(self._probes),
        )

    async def _saturate(self, seconds: float) -> Saturation:
        try:
            saturation = await saturate(self._channel, self._payloads, callers=self._effort.callers, seconds=seconds)
        except ServerError as error:
            raise ProfileError(str(error)) from None
        self._check_versions(saturation.versions)
        if saturation.client_cpu_share > 0.8:
            raise ProfileError(
                f"the client used {saturation.client_cpu_share:.2f} cores at {saturation.throughput_rps:.0f} "
                "inferences/s: that is its own limit, not the server's; give it a faster core"
            )
        self._inferences += saturation.requests
        self._cpu_share = max(self._cpu_share, saturation.client_cpu_share)
        return saturation

    async def _keeps(self, rate_rps: float) -> bool:
        result = await self._trusted_run(rate_rps, self._effort.probe_seconds, failures_allowed=True)
        kept = result.streams[0].violation_share <= self._effort.largest_late_share
        self._probes.append((rate_rps, kept))
        return kept

    async def _trusted_run(self, rate_rps: float, seconds: float, *, failures_allowed: bool = False) -> Result:
        reason: str | None = None
        for attempt in range(3):
            arrivals = steady_arrivals(rate_rps, seconds, np.random.default_rng(SEED + attempt))
            stream = Stream("profile", arrivals, self._payloads, self._slo_seconds)
            limits = Limits(request_deadline_seconds=max(5.0, 4 * self._slo_seconds))
            result = await OpenLoop([self._channel], [stream], limits).run()
            answers = result.streams[0]
            self._inferences += answers.offered - answers.failed
            self._check_versions({int(version) for version in answers.versions})
            if answers.failed and (not failures_allowed or answers.failures.keys() - {"DEADLINE_EXCEEDED"}):
                raise ProfileError(f"requests failed at {rate_rps:.1f} inferences/s: {answers.failures}")
            # A client that is a twentieth of the service level late moves the number it is there to find.
            # Latency counts from the intended time, so a late client makes the number smaller, never larger.
            reason = result.client.bound(max_lateness_seconds=max(0.02, 0.1 * self._slo_seconds))
            if reason is None:
                self._cpu_share = max(self._cpu_share, result.client.cpu_share)
                self._lateness = max(self._lateness, result.client.lateness_p99_seconds)
                return result
        raise ProfileError(f"no number at {rate_rps:.1f} inferences/s, three times: {reason}")

    def _check_versions(self, versions: set[int] | frozenset[int]) -> None:
        others = versions - {self._version}
        if others:
            raise ProfileError(f"version {sorted(others)} answered instead; something else changes this server")
