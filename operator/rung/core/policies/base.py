"""What every policy is, and what they share: where a task stands on a server, its demand, its words for people.

A policy reads a snapshot that `rung.core.decide` has prepared: only ready servers, with `ServerState.ladders` (what may
be served there), `wanted` (what the last plan chose) and no stale samples. It is total on any snapshot all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

from rung.core import frontier, signals
from rung.core.frontier import Metric
from rung.core.plan import Code, Memory, Plan
from rung.core.snapshot import PoolSnapshot, ServerState, TaskState, Version

Ladder = tuple[Version, ...]


class Policy(Protocol):
    """Decides which version of each task answers on each server."""

    @property
    def name(self) -> str:
        """Return the name that `ServingPool.spec.policy.name` uses."""
        ...

    @property
    def metric(self) -> Metric:
        """Return what a version costs in the eyes of this policy; ladders are built for it."""
        ...

    @property
    def needs_signals(self) -> bool:
        """Tell whether the policy decides by signals; without them, such a policy falls back."""
        ...

    @property
    def history_seconds(self) -> float:
        """Return how much of the signals' history the policy reads."""
        ...

    def decide(self, snapshot: PoolSnapshot, memory: Memory) -> tuple[Plan, Memory]:
        """Return the plan, and what to remember: JSON-serialisable, and unchanged while nothing happens.

        Never raises, whatever the snapshot and the memory hold. Target of a plan: `active` only, no standbys.
        """
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a task stands on a server: its rung now, and the rung that the last plan chose (None: none is known).

    `code` is set when the rung is not simply what answers: RESTORED when nothing answers and the last choice is given
    back, REPLACED when what answers is not on the ladder and its neighbour takes over.
    """

    rung: int | None
    wanted: int | None
    code: Code | None = None


def serves(task: TaskState, server: ServerState) -> bool:
    """Tell whether a task belongs on a server."""
    return task.servers is None or server.name in task.servers


def tasks_of(snapshot: PoolSnapshot, server: ServerState) -> tuple[TaskState, ...]:
    """Return the tasks that belong on a server of the pool, each name once, in order of name."""
    return snapshot.tasks_by_server.get(server.name, ())


def ladder_on(task: TaskState, server: ServerState, metric: Metric) -> Ladder:
    """Return what may be served, cheapest first: as prepared, else the frontier of every registered version."""
    if server.ladders is not None:
        return server.ladders.get(task.name, ())
    return frontier.ladder(task.versions, server.hardware_class, metric)


def rung_of(ladder: Ladder, number: int | None) -> int | None:
    """Return the rung that a version is, or None when it is not on the ladder."""
    return next((rung for rung, version in enumerate(ladder) if version.number == number), None)


def standing(task: TaskState, server: ServerState, ladder: Ladder, metric: Metric) -> Standing:
    """Return where a task stands on a server; with an empty ladder, or when nothing is known, it stands nowhere."""
    active = server.active.get(task.name)
    wanted = rung_of(ladder, server.wanted.get(task.name))
    rung = rung_of(ladder, active)
    if not ladder or rung is not None:
        return Standing(rung, wanted)
    if wanted is not None:
        return Standing(wanted, wanted, Code.RESTORED if active is None else Code.REPLACED)
    if active is None:
        return Standing(None, None)
    return Standing(neighbour(task, server, ladder, active, metric), None, Code.REPLACED)


def neighbour(task: TaskState, server: ServerState, ladder: Ladder, number: int, metric: Metric) -> int:
    """Return the rung that comes nearest to a version that is not on the ladder, without costing more than it.

    That is the highest rung that costs no more; where costs are not known, the highest that is no more accurate; where
    the version is not known either, or every rung costs more, the cheapest.
    """
    version = next((version for version in task.versions if version.number == number), None)
    if version is None:
        return 0
    cost = frontier.metric_of(version, server.hardware_class, metric)
    best = 0
    for rung, candidate in enumerate(ladder):
        candidate_cost = frontier.metric_of(candidate, server.hardware_class, metric)
        if cost is None or candidate_cost is None:
            fits = candidate.accuracy <= version.accuracy
        else:
            fits = candidate_cost <= cost
        if fits:
            best = rung
    return best


def demands(snapshot: PoolSnapshot, server: ServerState, window_seconds: float) -> dict[str, float | None]:
    """Return the demand of each task at a server, inferences per second; None where it is not known."""
    result: dict[str, float | None] = {}
    for task in tasks_of(snapshot, server):
        sharing = 1
        if task.declared_demand_rps is not None:
            sharing = sum(1 for other in snapshot.servers if other.ready and serves(task, other))
        result[task.name] = signals.demand_rps(task, server, sharing, snapshot.time_seconds, window_seconds)
    return result


def expected_utilization(
    versions: Mapping[str, Version], demand: Mapping[str, float | None], hardware_class: str
) -> float | None:
    """Return the utilisation that the profiles predict: the sum of demand / maximal throughput.

    Where more than one task has demand, that sum times the largest measured co-location factor of their versions.
    Tasks whose demand is not known are left out. None when no demand is known, or when a task with demand has no
    profile for the class.
    """
    total = 0.0
    known = False
    factors: list[float] = []
    for task, version in versions.items():
        rate = demand.get(task)
        if rate is None:
            continue
        known = True
        cost = frontier.metric_of(version, hardware_class)
        if cost is None and rate > 0:
            return None
        total += rate * (cost or 0.0)
        if rate > 0:
            factors.append(_co_location_factor(version, hardware_class))
    if len(factors) > 1:
        total *= max(factors)
    return total if known and isfinite(total) else None


def _co_location_factor(version: Version, hardware_class: str) -> float:
    """Return how many times dearer a version is beside others; 1 where no sensible factor was measured."""
    profile = version.profiles.get(hardware_class)
    factor = profile.co_location_factor if profile is not None else None
    return factor if factor is not None and 0.1 <= factor <= 10.0 else 1.0


def describe(version: Version) -> str:
    """Return a version as people read it: its number and its accuracy."""
    return f"{version.number} ({100 * version.accuracy:.1f} %)"


def percent(share: float | None) -> str:
    """Return a share as a whole percentage."""
    return "unknown" if share is None else f"{100 * share:.0f} %"
