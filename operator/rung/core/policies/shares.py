"""Which part of a task's requests each of its servers is to get, where a balancer follows.

The best split (`core.split`) is asked for now and then; shares move towards it by steps, so that the servers that get
more find the time to step down before, and a forecast that was wrong harms little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum, isfinite

from rung.core import tail
from rung.core.memory import entries, is_number
from rung.core.plan import Memory
from rung.core.policies.given import Given, planned_cores
from rung.core.policies.lane import Lane, usable_cores
from rung.core.snapshot import PoolSnapshot, ServerState
from rung.core.split import Option, Split, best_split

Shares = Mapping[str, Mapping[str, float]]
"""By task, by server: its part of the task's requests; those of a task sum to 1."""

EVERY_SECONDS, SHORT_EVERY_SECONDS = 30, 5
"""The second while a server is seen to get less than its cores: what it can't answer, others can."""
SEEN_SECONDS = 10.0
MOST_MORE = 0.2
"""So much more of a task's requests a server gets at a time."""
PLANNED = 0.7
"""Of a server's cores. What its versions sustain in time it then finds by itself, each second."""
LEAST_SHARE = 0.005
"""Less than this is nothing."""


def next_shares(
    snapshot: PoolSnapshot,
    lanes: Mapping[str, Sequence[Lane]],
    factors: Mapping[str, float],
    given: Mapping[str, Given | None],
    memory: Memory,
) -> Shares:
    """Return the shares of every task that several servers answer.

    Args:
        snapshot: the pool; its `servers` are those that are ready.
        lanes: by server.
        factors: by server, what its profiles have to be multiplied by.
        given: by server, the cores it gets where these are fewer than its limit says.
        memory: the policy's, with what `plain` wrote.
    """
    servers = {server.name: server for server in snapshot.servers}
    sharing: dict[str, dict[str, Lane]] = {}
    for server, mine in lanes.items():
        for one in mine:
            sharing.setdefault(one.state.name, {})[server] = one
    sharing = {task: by_server for task, by_server in sharing.items() if len(by_server) > 1}
    known = _read(memory)
    now = {task: _present(by_server, known.get(task, {}), servers) for task, by_server in sharing.items()}
    is_short = any(each and snapshot.time_seconds - each.time_seconds <= SEEN_SECONDS for each in given.values())
    every = SHORT_EVERY_SECONDS if is_short else EVERY_SECONDS
    if int(snapshot.time_seconds) % every and all(_same(now[task], known.get(task, {})) for task in now):
        return now
    cores = {name: planned_cores(each, given.get(name), snapshot.time_seconds) for name, each in servers.items()}
    wanted = _wanted(cores, sharing, lanes, factors, now)
    return {task: _towards(now[task], wanted.get(task, now[task]), known.get(task, {})) for task in now}


def plain(shares: Shares) -> dict[str, dict[str, float]]:
    """Return what is to be remembered."""
    return {task: {name: round(share, 4) for name, share in mine.items()} for task, mine in shares.items()}


def remembered(snapshot: PoolSnapshot, memory: Memory) -> Shares:
    """Return the shares that the tasks had when a balancer followed last."""
    known = _read(memory)
    return {task.name: known[task.name] for task in snapshot.tasks if known.get(task.name)}


def _read(memory: Memory) -> dict[str, dict[str, float]]:
    """Read what `plain` wrote; what is malformed is as if it had never been."""
    return {
        task: {name: float(share) for name, share in mine.items() if is_number(share) and 0 <= share <= 1}
        for task, mine in entries(memory, "shares").items()
    }


def _present(
    by_server: Mapping[str, Lane], known: Mapping[str, float], servers: Mapping[str, ServerState]
) -> dict[str, float]:
    """Return the shares that the servers that are there have; by their cores where nothing is known."""
    mine = {name: known.get(name) for name in by_server}
    total = fsum(share for share in mine.values() if share)
    if total <= 0:
        cores = {name: usable_cores(servers[name].capacity_cores) for name in by_server}
        return {name: each / fsum(cores.values()) for name, each in cores.items()}
    return {name: (share or 0.0) / total for name, share in mine.items()}


def _same(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return one.keys() == other.keys() and all(abs(one[name] - other[name]) < LEAST_SHARE for name in one)


def _wanted(
    whole: Mapping[str, float],
    sharing: Mapping[str, Mapping[str, Lane]],
    lanes: Mapping[str, Sequence[Lane]],
    factors: Mapping[str, float],
    now: Shares,
) -> Shares:
    """Return the best split of the tasks whose demand is known. What else a server has to do takes its cores first."""
    tasks = [task for task, by_server in sharing.items() if all(one.rates_rps for one in by_server.values())]
    names = [name for name in lanes if any(name in sharing[task] for task in tasks)]
    place = {name: number for number, name in enumerate(names)}
    demand = [fsum(_mean(one) for one in sharing[task].values()) for task in tasks]
    cores = []
    for name in names:
        own = fsum(_mean(one) * min(one.costs) * factors[name] for one in lanes[name] if one.state.name not in tasks)
        cores.append(max(0.05 * whole[name], PLANNED * whole[name] - own))
    options = [
        Option(number, place[name], one.weight * worth, cost * factors[name])
        for number, task in enumerate(tasks)
        for name, one in sharing[task].items()
        for worth, cost in _rungs(one, factors[name], whole[name])
    ]
    before = {(number, place[name]): share for number, task in enumerate(tasks) for name, share in now[task].items()}
    found = best_split(demand, cores, options, before)
    return _named(found, tasks, names) if found is not None else {}


def _rungs(one: Lane, factor: float, cores: float) -> list[tuple[float, float]]:
    """Return worth and cost of the rungs that answer one request alone in time; the cheapest one in any case."""
    pairs = [*zip(one.worths, one.costs, strict=True)]
    limit = one.state.slo_latency_seconds
    fit = [pair for pair in pairs if tail.late_share(1e-6, pair[1] * factor, 0.0, cores, limit) < 1.0]
    return fit or pairs[:1]


def _mean(one: Lane) -> float:
    """Return the demand of all the time that is known: shares are for minutes, not for a burst."""
    rates = [rate for rate in one.rates_rps if isfinite(rate)]
    return fsum(rates) / max(1, len(rates))


def _named(found: Split, tasks: Sequence[str], names: Sequence[str]) -> Shares:
    shares: dict[str, dict[str, float]] = {task: {} for task in tasks}
    for (task, server), share in found.shares.items():
        shares[tasks[task]][names[server]] = share if share >= LEAST_SHARE else 0.0
    return shares


def _towards(now: Mapping[str, float], wanted: Mapping[str, float], known: Mapping[str, float]) -> dict[str, float]:
    """Return shares on the way to what is wanted. A server that had none begins with what it is to have."""
    most = {name: share + MOST_MORE if name in known else 1.0 for name, share in now.items()}
    taken = {name: min(wanted.get(name, 0.0), most[name]) for name in now}
    left = 1.0 - fsum(taken.values())
    losing = {name: now[name] - taken[name] for name in now if now[name] > taken[name]}
    total = fsum(losing.values())
    if left > 0 and total > 0:
        # What one may not have yet stays where it was.
        for name, lost in losing.items():
            taken[name] += left * lost / total
    whole = fsum(taken.values())
    return {name: share / whole for name, share in taken.items()} if whole > 0 else dict(now)
