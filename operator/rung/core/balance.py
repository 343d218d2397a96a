"""The demand of servers that share tasks behind a balancer, as it is when no one of them is drained.

Which requests a server gets is the balancer's choice: while one is drained, the others get its part, and it gets none.
Nothing of that is a trend. So the demand of a shared task is foreseen as a whole, and each server has its part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isfinite

from rung.core.policies import base
from rung.core.snapshot import PoolSnapshot, Sample, ServerState

USUAL_SECONDS = 60.0
"""A server's usual part is what it got of the requests of these last seconds."""

_BySecond = Mapping[int, float]


def steady(snapshot: PoolSnapshot, shares: Mapping[str, Mapping[str, float]] | None = None) -> PoolSnapshot:
    """Return the same moment with each server's part of the demand of every task that several servers answer.

    Seconds of which not every server has a sample stay as they were seen. What came is kept in `observed_demand`.

    Args:
        snapshot: the pool.
        shares: by task and server, the part that it is to get; where none is given, it is the usual one.
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
        parts = (shares or {}).get(task.name) or _usual(rates, total, snapshot.time_seconds)
        for server in sharing:
            part = parts.get(server.name)
            if part is not None:
                mine[server.name][task.name] = tuple(_part(server.demand[task.name], total, part))
    return replace(snapshot, servers=tuple(_expecting(server, mine[server.name]) for server in snapshot.servers))


def _expecting(server: ServerState, demand: Mapping[str, tuple[Sample, ...]]) -> ServerState:
    if demand == server.demand:
        return server
    observed = server.demand if server.observed_demand is None else server.observed_demand
    return replace(server, demand=demand, observed_demand=observed)


def _by_second(samples: Iterable[Sample]) -> _BySecond:
    return {
        int(sample.time_seconds): sample.value
        for sample in samples
        if isfinite(sample.time_seconds) and isfinite(sample.value)
    }


def _usual(rates: Mapping[str, _BySecond], total: _BySecond, now_seconds: float) -> Mapping[str, float]:
    """Return each server's part of what came lately; nothing where nothing came."""
    lately = [second for second in total if second > now_seconds - USUAL_SECONDS]
    whole = sum(total[second] for second in lately)
    if whole <= 0:
        return {}
    return {name: sum(mine[second] for second in lately) / whole for name, mine in rates.items()}


def _part(samples: Iterable[Sample], total: _BySecond, part: float) -> Iterable[Sample]:
    for sample in samples:
        whole = total.get(int(sample.time_seconds)) if isfinite(sample.time_seconds) else None
        yield sample if whole is None else Sample(sample.time_seconds, whole * part)
