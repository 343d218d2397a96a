"""A service whose versions get cores of their own: what InfAdapter and VPA decide about, request by request.

Each backend is one version with some cores. A core serves one request at a time, in first-come order; requests are
spread over the backends by smooth weighted round robin. A backend that is made takes the version's load time to be
ready and costs its cores from its beginning on; the one that it replaces answers until then, and costs, too. What has
been given to a backend is answered there, also when it goes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rung_sim.engine import Floats


@dataclass(frozen=True, slots=True)
class ScaledVersion:
    """One version. `capacity_rps` is what it is said to carry by its cores, `service_seconds` what a request takes."""

    name: str
    accuracy: float
    load_seconds: float
    capacity_rps: tuple[float, ...]
    service_seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scaler is told: arrivals, used cores and waiting requests of each second before, and what is to run."""

    second: int
    arrivals: Sequence[float] | Floats
    used_cores: Sequence[float]
    waiting: Sequence[int]
    answering: int
    """The most accurate version that answers now."""
    cores: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Cores by version, and what part of the requests each gets."""

    cores: Mapping[int, int]
    weights: Mapping[int, float]


class Scaler(Protocol):
    """Decides, once a second."""

    def decide(self, seen: Seen) -> Wanted | None:
        """Return what is to run; None: what runs."""
        ...


@dataclass
class _Backend:
    version: int
    cores: int
    ready_seconds: float
    service_seconds: float
    free: list[float] = field(default_factory=list)
    """When each core is free, a heap."""
    credit: float = 0.0
    starts: deque[float] = field(default_factory=deque)
    """When those begin that wait for a core."""
    ends_seconds: float = float("inf")

    def __post_init__(self) -> None:
        self.free = [self.ready_seconds] * self.cores

    def serve(self, time: float) -> float:
        start = max(time, self.free[0])
        heapq.heapreplace(self.free, start + self.service_seconds)
        self.starts.append(start)
        return start + self.service_seconds


@dataclass(frozen=True, slots=True)
class Scaled:
    """What came of it. Per request: latency and accuracy, in order of arrival; `core_seconds` for all backends."""

    arrival_seconds: Floats
    latency_seconds: Floats
    accuracy: Floats
    core_seconds: float
    changes: int
    cores: Floats
    """By second."""


def replay(
    versions: Sequence[ScaledVersion],
    arrivals: Floats,
    seconds: int,
    scaler: Scaler,
    start: Wanted,
    *,
    in_place: bool = False,
) -> Scaled:
    """Replay arrivals under a scaler.

    Args:
        versions: what may be run.
        arrivals: in seconds, ascending.
        seconds: how long.
        scaler: decides.
        start: what runs, and is ready, when they begin.
        in_place: a version takes over the very cores of the one before it, so both together cost them once.
    """
    service = _Service(versions)
    service.go_to(start, -1e9)
    counts = np.bincount(arrivals.astype(int), minlength=seconds)[:seconds].astype(float)
    finish = np.empty(arrivals.size)
    accuracy = np.empty(arrivals.size)
    used: list[float] = []
    waiting: list[int] = []
    cores = np.zeros(seconds)
    place = 0
    for second in range(seconds):
        wanted = scaler.decide(
            Seen(second, counts[:second], used, waiting, service.answering(second), service.running())
        )
        if wanted is not None:
            service.go_to(wanted, float(second))
        busy = 0.0
        while place < arrivals.size and arrivals[place] < second + 1:
            backend = service.pick(arrivals[place])
            finish[place] = backend.serve(arrivals[place])
            accuracy[place] = versions[backend.version].accuracy
            busy += backend.service_seconds
            place += 1
        cores[second] = sum(service.running().values()) if in_place else service.cores(float(second))
        used.append(min(busy, cores[second]))
        waiting.append(service.waiting(second + 1.0))
    return Scaled(arrivals, finish - arrivals, accuracy, float(cores.sum()), service.changes, cores)


class _Service:
    def __init__(self, versions: Sequence[ScaledVersion]) -> None:
        self.versions = versions
        self.backends: list[_Backend] = []
        self.weights: Mapping[int, float] = {}
        self.changes = 0

    def running(self) -> dict[int, int]:
        """Return the cores by version of what is there to stay."""
        return {backend.version: backend.cores for backend in self.backends if backend.ends_seconds == float("inf")}

    def go_to(self, wanted: Wanted, now: float) -> None:
        """Make the backends that are missing; the others go once these are ready."""
        there = self.running()
        target = {version: cores for version, cores in wanted.cores.items() if cores > 0}
        self.weights = wanted.weights
        if there == target:
            return
        self.changes += 1
        ready = now
        for version, cores in sorted(target.items()):
            if there.get(version) != cores and not self._still_runs(version, cores, now):
                kind = self.versions[version]
                made = _Backend(version, cores, now + kind.load_seconds, kind.service_seconds[cores])
                ready = max(ready, made.ready_seconds)
                self.backends.append(made)
        for backend in self.backends:
            if backend.ends_seconds <= now or backend.ready_seconds > now:
                continue
            # One that was about to go and is wanted again stays; the others answer until all is ready.
            stays = target.get(backend.version) == backend.cores
            backend.ends_seconds = float("inf") if stays else ready
        # What was still being made for an earlier plan is not wanted any more.
        self.backends = [b for b in self.backends if b.ready_seconds <= now or target.get(b.version) == b.cores]

    def _still_runs(self, version: int, cores: int, now: float) -> bool:
        return any(b.version == version and b.cores == cores and b.ready_seconds <= now < b.ends_seconds
                   for b in self.backends)  # fmt: skip

    def answering(self, now: float) -> int:
        """Return the most accurate version that is ready."""
        ready = [b.version for b in self.backends if b.ready_seconds <= now < b.ends_seconds]
        return max(ready or [b.version for b in self.backends], key=lambda version: self.versions[version].accuracy)

    def waiting(self, now: float) -> int:
        """Return how many requests wait for a core."""
        for backend in self.backends:
            while backend.starts and backend.starts[0] <= now:
                backend.starts.popleft()
        return sum(len(backend.starts) for backend in self.backends)

    def pick(self, time: float) -> _Backend:
        """Return the backend of the next request."""
        self.backends = [backend for backend in self.backends if backend.ends_seconds > time]
        ready = [backend for backend in self.backends if backend.ready_seconds <= time]
        if not ready:
            return min(self.backends, key=lambda backend: backend.ready_seconds)
        shares = [max(self.weights.get(backend.version, 0.0), 0.0) for backend in ready]
        total = sum(shares)
        if total <= 0:  # the plan's versions are not ready yet: by what each can do
            shares = [backend.cores / backend.service_seconds for backend in ready]
            total = sum(shares)
        for backend, share in zip(ready, shares, strict=True):
            backend.credit += share / total
        chosen = max(ready, key=lambda backend: backend.credit)
        chosen.credit -= 1.0
        return chosen

    def cores(self, now: float) -> float:
        """Return the cores that are paid for."""
        return float(sum(backend.cores for backend in self.backends if backend.ends_seconds > now))
