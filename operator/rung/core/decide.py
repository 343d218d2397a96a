"""From a snapshot to a plan: what every policy shares, whatever it thinks.

`decide` prepares the snapshot (what may be served where, which signals are fresh, what was wanted before), asks the
policy once for the whole pool, and completes its answer: standbys, fallback, what is to be applied, and one reason for
each task on each server. It is total: any snapshot and any memory give a plan, and never an exception.

The rules, where there was a choice:

- A server that is not ready is left alone: it has neither a plan nor reasons, and keeps its memory. A server that is
  not in the snapshot is forgotten after ten minutes.
- A task without any version that may be served has no target: what answers there goes on answering, and the reason says
  why. The same for a pinned task whose version is not there: nothing else may take its place.
- Signals are stale when the newest CPU sample is older than `max_age_seconds`. The policy then gets no samples, so it
  holds; nor does it get those of a task whose newest sample of demand is as old. `fallback_after_seconds` later,
  `Cheapest` lets the cheapest rung of each task answer, pinned ones excepted; not under a policy that needs no signals.
- A task that answered before and does not now (a restart) gets back what was wanted, at once. The moment is noted as a
  disturbance of the server; the policy's own timers are not touched. A task whose version never comes back disturbs
  once, not for ever.
- Recommend, of a task or of the pool: the plan holds the target, `ServerPlan.apply` does not name the task. A pinned
  task of a pool that recommends is not applied either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from rung.core import memory as memories
from rung.core import signals
from rung.core.memory import PoolMemory, ServerMemory
from rung.core.plan import Code, Memory, Plan, Reason, ServerPlan, Target
from rung.core.policies import base
from rung.core.policies.base import Ladder, Policy
from rung.core.servable import Exclusion, Servable, servable
from rung.core.snapshot import Mode, PoolSnapshot, Sample, ServerState, TaskState


class FallbackBehavior(StrEnum):
    """What to do when signals stay away."""

    HOLD = "Hold"
    CHEAPEST = "Cheapest"


@dataclass(frozen=True, slots=True)
class Settings:
    """The parts of a pool's specification that every policy obeys."""

    recommend: bool = False
    """True when the whole pool only recommends."""
    max_age_seconds: float = 5.0
    fallback_after_seconds: float = 60.0
    fallback: FallbackBehavior = FallbackBehavior.HOLD
    standby_below: int = 1
    demand_window_seconds: float = 10.0
    """What `expected_utilization` calls today's demand, where the policy does not say."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One ready server: as the policy sees it, and what is needed to complete the policy's answer."""

    state: ServerState
    tasks: Mapping[str, TaskState]
    servable: Mapping[str, Servable]
    memory: ServerMemory
    stale_age_seconds: float | None
    """Age of the newest CPU sample when it is too old; None when there is none."""

    def ladder(self, task: str) -> Ladder:
        return self.servable[task].ladder


def decide(policy: Policy, snapshot: PoolSnapshot, memory: object, settings: Settings) -> tuple[Plan, Memory]:
    """Return the plan for a pool, and what to hand back as `memory` next time (plain JSON data).

    `memory` is what the last call returned, an empty mapping or None at the first start; anything else is dropped, with
    a sentence in `Plan.notes`.
    """
    now = snapshot.time_seconds
    remembered, notes = memories.read(memory, now)
    tasks = tuple({task.name: _in_mode(task, settings) for task in snapshot.tasks}.values())
    by_name = {server.name: server for server in snapshot.servers}
    in_modes = replace(snapshot, servers=tuple(by_name.values()), tasks=tasks)
    prepared = {
        name: _prepare(server, in_modes, policy, remembered.servers.get(name, ServerMemory()), settings)
        for name, server in by_name.items()
        if server.ready
    }
    seen = replace(in_modes, servers=tuple(one.state for one in prepared.values()))
    policy_memory = remembered.policy if remembered.policy_name == policy.name else {}
    plan, policy_memory = policy.decide(seen, policy_memory)
    raw_plans = {server_plan.server: server_plan for server_plan in plan.servers}
    raw_reasons = {(reason.server, reason.task): reason for reason in plan.reasons}

    servers = _absent(remembered, by_name, now)
    plans: list[ServerPlan] = []
    reasons: list[Reason] = []
    for name, one in prepared.items():
        raw = raw_plans.get(name, ServerPlan(name, {}))
        fell_back = policy.needs_signals and _falls_back(one, now, settings)
        server_plan, server_reasons = _complete(one, raw, raw_reasons, seen, settings, fell_back=fell_back)
        plans.append(server_plan)
        reasons.extend(server_reasons)
        wanted = {task: target.active for task, target in server_plan.targets.items()}
        servers[name] = replace(one.memory, wanted=_unserved(one) | wanted)
    for name, server in by_name.items():
        if not server.ready and name in remembered.servers:
            servers[name] = replace(remembered.servers[name], absent_since_seconds=None)
    policy_memory = _only(policy_memory, servers)
    new_memory = memories.write(PoolMemory(servers, policy.name, policy_memory))
    return Plan(tuple(plans), tuple(reasons), (*notes, *plan.notes)), new_memory


def _in_mode(task: TaskState, settings: Settings) -> TaskState:
    """Return the task as the policy has to see it where the whole pool only recommends."""
    return replace(task, mode=Mode.RECOMMEND) if settings.recommend and task.mode is Mode.AUTO else task


def _prepare(
    server: ServerState, snapshot: PoolSnapshot, policy: Policy, memory: ServerMemory, settings: Settings
) -> _Prepared:
    now = snapshot.time_seconds
    here = {task.name: task for task in base.tasks_of(snapshot, server)}
    allowed = {name: servable(task, server, policy.metric) for name, task in here.items()}
    age = signals.age_seconds(server.utilization, now)
    fresh = age is not None and age <= settings.max_age_seconds
    stale_since = None
    if not fresh:
        stale_since = now if memory.stale_since_seconds is None else memory.stale_since_seconds

    answering = frozenset(server.active)
    missing = (memory.answered & frozenset(here)) - answering
    memory = replace(
        memory,
        answered=(memory.answered | answering) & frozenset(here),
        missing=missing,
        disturbed_seconds=now if missing - memory.missing else memory.disturbed_seconds,
        stale_since_seconds=stale_since,
        absent_since_seconds=None,
    )
    state = replace(
        server,
        utilization=server.utilization if fresh else (),
        demand=_fresh(server.demand, now, settings) if fresh else {},
        observed_demand=None
        if server.observed_demand is None
        else _fresh(server.observed_demand, now, settings)
        if fresh
        else {},
        pending=_fresh(server.pending, now, settings) if fresh else {},
        late=_fresh(server.late, now, settings) if fresh else {},
        ladders={name: one.ladder for name, one in allowed.items()},
        wanted={name: number for name, number in memory.wanted.items() if name in here},
        disturbed_seconds=memory.disturbed_seconds,
    )
    return _Prepared(state, here, allowed, memory, age)


def _fresh(by_task: Mapping[str, tuple[Sample, ...]], now: float, settings: Settings) -> dict[str, tuple[Sample, ...]]:
    """Leave out the tasks whose newest sample is too old."""
    return {
        task: samples for task, samples in by_task.items() if signals.is_fresh(samples, now, settings.max_age_seconds)
    }


def _complete(
    one: _Prepared,
    raw: ServerPlan,
    raw_reasons: Mapping[tuple[str, str], Reason],
    seen: PoolSnapshot,
    settings: Settings,
    *,
    fell_back: bool,
) -> tuple[ServerPlan, list[Reason]]:
    """Turn the policy's answer for one server into the plan: fallback, standbys, what to apply, every reason."""
    chosen: dict[str, int] = {}
    for task, target in raw.targets.items():
        rung = base.rung_of(one.ladder(task), target.active) if task in one.servable else None
        if rung is not None:
            chosen[task] = 0 if fell_back else rung
    versions = {task: one.ladder(task)[rung] for task, rung in chosen.items()}
    expected = raw.expected_utilization
    if fell_back:
        demand = base.demands(seen, one.state, settings.demand_window_seconds)
        expected = base.expected_utilization(versions, demand, one.state.hardware_class)
    targets = {
        task: Target(versions[task].number, _standby(one.ladder(task), rung, settings.standby_below))
        for task, rung in chosen.items()
    }
    apply = frozenset(task for task in targets if not settings.recommend and one.tasks[task].mode is not Mode.RECOMMEND)
    plan = ServerPlan(raw.server, targets, expected, raw.profile_trusted, raw.weights, apply)
    reasons = [
        _reason(
            one,
            task,
            targets.get(task),
            raw_reasons.get((raw.server, task)),
            fell_back=fell_back,
            now=seen.time_seconds,
        )
        for task in one.tasks
    ]
    return plan, reasons


def _falls_back(one: _Prepared, now: float, settings: Settings) -> bool:
    since = one.memory.stale_since_seconds
    return (
        settings.fallback is FallbackBehavior.CHEAPEST
        and since is not None
        and now - since >= settings.fallback_after_seconds
    )


def _standby(ladder: Ladder, rung: int, below: int) -> tuple[int, ...]:
    """Return the next rungs below whose number is lower: Triton answers with the highest number that is loaded."""
    active = ladder[rung].number
    nearest = [version.number for version in reversed(ladder[max(0, rung - max(0, below)) : rung])]
    return tuple(number for number in nearest if number < active)


def _reason(
    one: _Prepared, task: str, target: Target | None, raw: Reason | None, *, fell_back: bool, now: float
) -> Reason:
    """Return the one reason of a task on a server: the policy's, unless something weightier than the policy decided."""
    name = one.state.name
    state = one.tasks[task]
    numbers = dict(raw.numbers) if raw is not None else {}
    active = one.state.active.get(task)
    if target is None:
        return _nothing(one, state, active, numbers)
    version = next(version for version in one.ladder(task) if version.number == target.active)
    words = base.describe(version)
    code, sentence = (raw.code, raw.sentence) if raw is not None else (Code.STEADY, f"{task} stays at {words}.")
    numbers |= {"version": float(version.number), "accuracy": version.accuracy}
    lost = _lost(one, task)
    if state.mode is Mode.PINNED:
        code, sentence = Code.PINNED, f"{task} is pinned to {words} by its owner."
    elif fell_back or code is Code.STALE_METRICS:
        age = one.stale_age_seconds
        since = one.memory.stale_since_seconds
        if since is not None:
            gone = "No CPU sample was found" if age is None else f"The newest CPU sample is {age:.0f} s old"
            numbers |= {"stale_seconds": now - since} | ({} if age is None else {"age_seconds": age})
            if fell_back:
                code = Code.FALLBACK
                sentence = f"{gone}, for {now - since:.0f} s now: {task} falls back to its cheapest version, {words}."
            else:
                sentence = f"{gone}: {task} keeps {words} until the signals are back."
    elif lost is not None and code is not Code.VERSION_UNAVAILABLE:
        code = Code.VERSION_UNAVAILABLE
        sentence = (
            f"{one.state.wanted[task]} of {task} was wanted on {name} and {lost.value}: {words} instead. {sentence}"
        )
    elif code is Code.RESTORED and task not in one.memory.answered:
        # Nothing was lost: the first version is still on its way.
        code = Code.INITIAL
        sentence = f"{task} waits for its first version on {name}, {words}, to be loaded."
    if state.mode is Mode.RECOMMEND and target.active != active:
        sentence = f"{sentence} This is a recommendation: {active or 'nothing'} goes on answering."
    return Reason(task, name, code, sentence, numbers)


def _nothing(one: _Prepared, task: TaskState, active: int | None, numbers: Mapping[str, float]) -> Reason:
    """Return the reason of a task that has no target."""
    stays = "nothing answers" if active is None else f"{active} goes on answering"
    name = one.state.name
    if task.mode is Mode.PINNED:
        why = one.servable[task.name].excluded.get(task.pinned_version if task.pinned_version is not None else -1)
        what = why.value if why is not None else "is not registered"
        sentence = f"{task.name} is pinned to {task.pinned_version}, which {what} on {name}: {stays}."
        return Reason(task.name, name, Code.VERSION_UNAVAILABLE, sentence, numbers)
    why_empty = one.servable[task.name].why_empty(task, one.state)
    sentence = f"{why_empty[:1].upper()}{why_empty[1:]}: {stays}."
    return Reason(task.name, name, Code.NO_VERSIONS, sentence, numbers)


def _lost(one: _Prepared, task: str) -> Exclusion | None:
    """Return why the version that was wanted can't be had now: broken or not there; None when it can."""
    wanted = one.state.wanted.get(task)
    reason = one.servable[task].excluded.get(wanted) if wanted is not None else None
    return reason if reason in (Exclusion.BROKEN, Exclusion.UNAVAILABLE) else None


def _unserved(one: _Prepared) -> dict[str, int]:
    """Return what was wanted of tasks that can't be served now: it is what they get when they can again."""
    return {task: number for task, number in one.state.wanted.items() if not one.ladder(task)}


def _absent(remembered: PoolMemory, present: Mapping[str, ServerState], now: float) -> dict[str, ServerMemory]:
    """Return the memory of servers that are not in the pool now and were there not long ago."""
    kept: dict[str, ServerMemory] = {}
    for name, server in remembered.servers.items():
        if name in present:
            continue
        since = now if server.absent_since_seconds is None else server.absent_since_seconds
        if now - since < memories.LONGEST_ABSENCE_SECONDS:
            kept[name] = replace(server, absent_since_seconds=since)
    return kept


def _only(policy_memory: Memory, servers: Mapping[str, ServerMemory]) -> Memory:
    """Drop what a policy remembers by server of servers that are forgotten."""
    by_server = policy_memory.get("servers")
    if not isinstance(by_server, Mapping):
        return policy_memory
    return {**policy_memory, "servers": {name: value for name, value in by_server.items() if name in servers}}
