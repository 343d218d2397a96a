"""What the operator knows of one pool at one moment: the input of every policy.

Everything here is frozen and free of I/O. Times are seconds since the epoch unless a name says otherwise;
rates are inferences per second; utilisation is CPU used divided by CPU that the server may use, 0 to 1
(it may pass 1 for a moment, because a CPU limit is enforced per period).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple


class Mode(StrEnum):
    """Who decides about a task: Rung, Rung without acting on it, or its owner."""

    AUTO = "Auto"
    RECOMMEND = "Recommend"
    PINNED = "Pinned"


class Sample(NamedTuple):
    """One value of a signal and the moment it was measured."""

    time_seconds: float
    value: float


@dataclass(frozen=True, slots=True)
class Profile:
    """What a version was measured to do on one hardware class."""

    max_throughput_rps: float
    latency_p95_seconds: float | None = None
    cpu_seconds_per_inference: float | None = None
    memory_bytes: int | None = None
    load_seconds: float | None = None
    cpu_cores: float | None = None
    """What the server that was measured could use; None when nobody noted it."""
    co_location_factor: float | None = None
    """How many times the CPU an inference costs beside another task; None when nobody measured it."""
    assumed_from: str | None = None
    """The hardware class from which this was taken, as nobody measured this one; None: it was measured."""


@dataclass(frozen=True, slots=True)
class Version:
    """One servable version: its Triton version number, its accuracy (0 to 1), its profiles by hardware class."""

    number: int
    accuracy: float
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    flops: float | None = None
    """Floating-point operations of one inference; None when nobody counted them."""

    def __hash__(self) -> int:
        """Return a hash: what follows from versions alone is computed once, and found again by them."""
        return hash((self.number, self.accuracy))


@dataclass(frozen=True, slots=True)
class TaskState:
    """One task as its owner declared it, with every version that is registered for it."""

    name: str
    versions: tuple[Version, ...]
    slo_latency_seconds: float
    objective: float = 0.999
    min_accuracy: float | None = None
    max_metric: float | None = None
    weight: float = 1.0
    mode: Mode = Mode.AUTO
    pinned_version: int | None = None
    servers: frozenset[str] | None = None
    """Names of the servers that serve this task; None means every server of the pool."""
    declared_demand_rps: float | None = None
    """The owner's word on the demand of the whole pool; it replaces what was observed, shared evenly by its servers."""
    best_effort: bool = False
    """Whether requests may be refused before those of other tasks are late."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server as it was last seen. A server that is not ready is left alone by every policy."""

    name: str
    hardware_class: str
    capacity_cores: float
    ready: bool = True
    utilization: tuple[Sample, ...] = ()
    """CPU utilisation, one sample a second, oldest first."""
    demand: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    """By task: arrivals per second at this server, oldest first; where a balancer spreads them, its usual part."""
    observed_demand: Mapping[str, tuple[Sample, ...]] | None = None
    """By task: what came, where `demand` is something else (`rung.core.balance.steady`)."""
    pending: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    """By task: requests that waited for their turn at a moment, oldest first."""
    late: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    """By task: requests a second that were late, as clients see it, oldest first. Only of those for which something in
    front of the server counts them and chooses for each one (`rung.core.reflex`): absent means no reflex."""
    active: Mapping[str, int] = field(default_factory=dict)
    """By task: the version that answers now (absent when none does)."""
    loaded: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """By task: every version that is loaded, the active one among them."""
    available: Mapping[str, frozenset[int]] | None = None
    """By task: versions whose files are on the server; None when that is not known."""
    broken: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """By task: versions that failed to load here and wait for their back-off to pass."""
    wanted: Mapping[str, int] = field(default_factory=dict)
    """By task: the version that the last plan chose. `rung.core.decide` fills it from its memory."""
    ladders: Mapping[str, tuple[Version, ...]] | None = None
    """By task: the versions that may be served here, cheapest first. `rung.core.decide` fills it; None (a snapshot as
    observed) means the frontier of every registered version."""
    disturbed_seconds: float | None = None
    """When something beside a plan last upset the server (a restart): samples from just after it judge nothing.
    `rung.core.decide` fills it."""


@dataclass(frozen=True)
class PoolSnapshot:
    """One pool at one moment."""

    time_seconds: float
    servers: tuple[ServerState, ...]
    tasks: tuple[TaskState, ...]
    balanced: bool = False
    """Whether a balancer spreads the requests as the plan's weights say."""

    @cached_property
    def tasks_by_server(self) -> Mapping[str, tuple[TaskState, ...]]:
        """By server: the tasks that belong on it, each name once, in order of name."""
        found: dict[str, list[TaskState]] = {server.name: [] for server in self.servers}
        everywhere = frozenset(found)
        by_name = {task.name: task for task in self.tasks}
        for name in sorted(by_name):
            task = by_name[name]
            for server in everywhere if task.servers is None else task.servers & everywhere:
                found[server].append(task)
        return {server: tuple(tasks) for server, tasks in found.items()}
