"""Whether a server may be drained: taken out of the balancing while it loads, so that no request meets the load.

A load takes CPU, and makes the requests late that come meanwhile. Where other servers can answer them, none comes. The
requests that a drained server does not get go to the others, and that is known before it happens: a server is drained
only if what the others have then still leaves them room.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rung.core.policies import base
from rung.core.policies.lane import cpu_seconds, usable_cores
from rung.core.snapshot import PoolSnapshot, ServerState, TaskState, Version

DEMAND_WINDOW_SECONDS = 10.0
MOST_UTILIZATION = 0.8
"""Of a server that takes over requests, by the demand of the last ten seconds and the versions that answer now."""


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
    by_name = {server.name: server for server in snapshot.servers}
    server = by_name.get(name)
    if server is None:
        return Refusal(f"{name} is not seen")
    demand = {one.name: base.demands(snapshot, one, DEMAND_WINDOW_SECONDS) for one in snapshot.servers if one.ready}
    more: dict[str, float] = {}
    for task in base.tasks_of(snapshot, server):
        if task.name not in server.active:
            continue
        rate = demand.get(name, {}).get(task.name)
        if rate is None:
            return Refusal(f"the demand of {task.name} is not known")
        others = [one for one in by_name.values() if one.name != name and _answers(one, task)]
        free = [one for one in others if one.name not in drained]
        if not others:
            return Refusal(f"no other server answers {task.name}")
        if len(free) < len(others):
            taken = ", ".join(sorted(one.name for one in others if one.name in drained))
            return Refusal(f"{taken}, which also has {task.name}, is drained", passes=True)
        for one in free:
            cost = _cost(task, one)
            more[one.name] = more.get(one.name, 0.0) + rate / len(free) * cost
    for other, cores in more.items():
        one = by_name[other]
        used = sum((demand[other].get(task.name) or 0.0) * _cost(task, one) for task in base.tasks_of(snapshot, one))
        share = (used + cores) / usable_cores(one.capacity_cores)
        if share > MOST_UTILIZATION:
            return Refusal(f"{other} would come to {base.percent(share)} of its CPU")
    return None


def _answers(server: ServerState, task: TaskState) -> bool:
    return server.ready and base.serves(task, server) and task.name in server.active


def _cost(task: TaskState, server: ServerState) -> float:
    """Return the CPU-seconds of an inference by the version that answers there; 0 where nobody measured it."""
    active = server.active.get(task.name)
    version: Version | None = next((each for each in task.versions if each.number == active), None)
    return cpu_seconds(version, server) if version is not None else 0.0
