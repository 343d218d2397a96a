"""The demand of servers that share tasks behind a balancer, as it is when no one of them is drained.

Which requests a server gets is the balancer's choice: while one is drained, the others get its part, and it gets none.
Nothing of that is a trend. So the demand of a shared task is foreseen as a whole, and each server has its usual part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isfinite

from rung.core.policies import base
from rung.core.snapshot import PoolSnapshot, Sample, ServerState

USUAL_SECONDS = 60.0
"""A server's part is what it got of the requests of these last seconds."""

_BySecond = Mapping[int, float]


def steady(snapshot: PoolSnapshot) -> PoolSnapshot:
    """Return the same moment with each server's usual part of the demand of every task that several servers answer.

    Seconds of which not every server has a sample stay as they were seen.
    """
    mine: dict[str, dict[str, tuple[Sample, ...]]] = {server.name: dict(server.demand) for server in snapshot.servers}
    for task in snapshot.tasks:
        if task.declared_demand_rps is not None:
            continue
        sharing = [s for s in snapshot.servers if s.ready and base.serves(task, s) and s.demand.get(task.name)]
        if len(sharing) < 2:
            continue
        rates = {server.name: _by_second(server.demand[task.name]) for server in sharing}
        common = frozenset.intersection(*(frozenset(each) for each in rates.values()))
        total = {second: sum(each[second] for each in rates.values()) for second in common}
        after = snapshot.time_seconds - USUAL_SECONDS
        lately = [second for second in common if second > after]
        whole = sum(total[second] for second in lately)
        if whole <= 0:
            continue
        for server in sharing:
            part = sum(rates[server.name][second] for second in lately) / whole
            mine[server.name][task.name] = tuple(_usual(server.demand[task.name], total, part))
    servers: tuple[ServerState, ...] = tuple(replace(server, demand=mine[server.name]) for server in snapshot.servers)
    return replace(snapshot, servers=servers)


def _by_second(samples: Iterable[Sample]) -> _BySecond:
    return {
        int(sample.time_seconds): sample.value
        for sample in samples
        if isfinite(sample.time_seconds) and isfinite(sample.value)
    }


def _usual(samples: Iterable[Sample], total: _BySecond, part: float) -> Iterable[Sample]:
    for sample in samples:
        whole = total.get(int(sample.time_seconds)) if isfinite(sample.time_seconds) else None
        yield sample if whole is None else Sample(sample.time_seconds, whole * part)
