"""Whether a server is drained: taken out of the balancing while it loads, so that no request meets the load.

A load takes CPU, and makes requests late that come meanwhile. Where other servers answer them in time, none should
come. But the others then have more to do, and that is known before it happens: a server is drained only if the others
are expected to stay in time, and if fewer answers are expected late so than with the load beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import fsum

from rung.core import tail
from rung.core.policies import base
from rung.core.policies.lane import cpu_seconds, usable_cores
from rung.core.snapshot import PoolSnapshot, ServerState, TaskState, Version

DEMAND_WINDOW_SECONDS = 10.0
MOST_LATE = 0.01
"""Share of late answers that a server may be expected to have while it has more requests: in simulation, from a tenth
of that up to this, fewer are late than without drains; without any such limit, far more."""
LOAD_CORES = 0.5
"""What a load leaves a busy instance on a server of one core: each gets half."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a server is not drained; `passes` when it is worth waiting for that to change."""

    sentence: str
    passes: bool = False


def refusal(snapshot: PoolSnapshot, name: str, drained: Collection[str]) -> Refusal | None:
    """Return why a server must not be drained now; None: it may.

    Args:
        snapshot: the pool as it is.
        name: the server that is about to load.
        drained: the servers that get no requests at present.
    """
    server = next((one for one in snapshot.servers if one.name == name), None)
    if server is None:
        return Refusal(f"{name} is not seen")
    rates = {one.name: _known(snapshot, one) for one in snapshot.servers if one.ready}
    unknown = [task.name for task in _answered(snapshot, server) if task.name not in rates.get(name, {})]
    if unknown:
        return Refusal(f"the demand of {', '.join(unknown)} is not known")
    more = _taken_over(snapshot, server, drained, rates)
    return more if isinstance(more, Refusal) else _too_much(snapshot, server, rates, more)


def _taken_over(
    snapshot: PoolSnapshot, server: ServerState, drained: Collection[str], rates_rps: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]] | Refusal:
    """Return, by server and task, what the others would have to answer besides; a refusal where there is nobody to."""
    more: dict[str, dict[str, float]] = {}
    for task in _answered(snapshot, server):
        others = [
            one
            for one in snapshot.servers
            if one.name != server.name and one.ready and task in _answered(snapshot, one)
        ]
        free = [one for one in others if one.name not in drained]
        if not others:
            return Refusal(f"no other server answers {task.name}")
        if len(free) < len(others):
            taken = ", ".join(sorted(one.name for one in others if one.name in drained))
            return Refusal(f"{taken}, which also has {task.name}, is drained", passes=True)
        for one in free:
            more.setdefault(one.name, {})[task.name] = rates_rps[server.name][task.name] / len(free)
    return more


def _too_much(
    snapshot: PoolSnapshot,
    server: ServerState,
    rates_rps: Mapping[str, Mapping[str, float]],
    more: Mapping[str, Mapping[str, float]],
) -> Refusal | None:
    """Return why that is too much for the others; None: it is not."""
    late_away = 0.0
    for other in snapshot.servers:
        if other.name not in more:
            continue
        before = rates_rps[other.name]
        tasks = before.keys() | more[other.name].keys()
        after = {task: before.get(task, 0.0) + more[other.name].get(task, 0.0) for task in tasks}
        late = _late_rps(snapshot, other, after)
        if late > MOST_LATE * fsum(after.values()):
            share = base.percent(late / fsum(after.values()))
            return Refusal(f"{other.name} would be late with {share} of its answers")
        late_away += late - _late_rps(snapshot, other, before)
    load = LOAD_CORES * min(1.0, usable_cores(server.capacity_cores))
    if late_away > _late_rps(snapshot, server, rates_rps.get(server.name, {}), load):
        return Refusal("the others would have more late answers than a load beside them makes here")
    return None


def _answered(snapshot: PoolSnapshot, server: ServerState) -> list[TaskState]:
    return [task for task in base.tasks_of(snapshot, server) if task.name in server.active]


def _known(snapshot: PoolSnapshot, server: ServerState) -> dict[str, float]:
    demands = base.demands(snapshot, server, DEMAND_WINDOW_SECONDS)
    return {task: rate for task, rate in demands.items() if rate is not None}


def _used(snapshot: PoolSnapshot, server: ServerState, rates_rps: Mapping[str, float]) -> float:
    """Return the cores that a server uses at a demand."""
    return fsum(rates_rps.get(task.name, 0.0) * _cost(task, server) for task in _answered(snapshot, server))


def _late_rps(
    snapshot: PoolSnapshot, server: ServerState, rates_rps: Mapping[str, float], load_cores: float = 0.0
) -> float:
    """Return the late answers a second that theory expects of a server, with a load beside them."""
    cores, used = usable_cores(server.capacity_cores), _used(snapshot, server, rates_rps)
    late = 0.0
    for task in _answered(snapshot, server):
        rate, cost = rates_rps.get(task.name, 0.0), _cost(task, server)
        others = used - rate * cost + load_cores
        late += rate * tail.late_share(rate, cost, others, cores, task.slo_latency_seconds)
    return late


def _cost(task: TaskState, server: ServerState) -> float:
    """Return the CPU-seconds of an inference by the version that answers there; 0 where nobody measured it."""
    active = server.active.get(task.name)
    version: Version | None = next((each for each in task.versions if each.number == active), None)
    return cpu_seconds(version, server) if version is not None else 0.0
