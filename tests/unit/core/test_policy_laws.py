"""What holds for every policy on any snapshot with any memory."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, isfinite, nan
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.core.decide import FallbackBehavior, Settings, decide
from rung.core.frontier import Metric, ladder, metric_of
from rung.core.plan import Code, Plan
from rung.core.policies import base
from rung.core.policies.base import Policy
from rung.core.policies.frontier import Frontier
from rung.core.policies.frontier_parameters import FrontierParameters
from rung.core.policies.infaas import InFaaS
from rung.core.policies.infadapter import InfAdapter, InfAdapterParameters
from rung.core.policies.model_switching import ModelSwitching
from rung.core.policies.proteus import Proteus
from rung.core.policies.static import Static, StaticChoice
from rung.core.policies.stepwise import Stepwise, StepwiseParameters
from rung.core.servable import servable
from rung.core.snapshot import Mode, PoolSnapshot, Profile, Sample, ServerState, TaskState, Version

TASKS = ("digits", "parity", "süß")
SERVERS = ("a", "b")
numbers = st.integers(1, 8)
# Sampled, not drawn: whole snapshots of drawn floats take seconds to make.
HOSTILE = [nan, inf, -inf, -1.0, 1e308, 5e-324]
rough = st.sampled_from([0.0, 0.3, 0.45, 0.6, 0.8, 1.0, *HOSTILE])
rates = st.sampled_from([0.0, 1.0, 5.0, 20.0, 1e6, *HOSTILE])
profiles = st.builds(Profile, st.sampled_from([1.0, 2.0, 10.0, 50.0, 200.0]) | rough, st.none() | rough)
versions = st.builds(
    Version,
    numbers,
    rough,
    st.dictionaries(st.sampled_from(["pi", "n100"]), profiles, max_size=2),
    st.none() | rough,
)
tasks = st.builds(
    TaskState,
    st.sampled_from(TASKS),
    st.lists(versions, max_size=5).map(tuple),
    st.just(0.4),
    min_accuracy=st.none() | rough,
    max_metric=st.none() | rough,
    weight=st.just(1.0) | rough,
    mode=st.sampled_from(Mode),
    pinned_version=st.none() | numbers,
    servers=st.none() | st.frozensets(st.sampled_from(SERVERS)),
    declared_demand_rps=st.none() | rates,
)


def samples(now: float, values: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[Sample, ...]]:
    steady = values.map(lambda value: tuple(Sample(now - 9 + second, value) for second in range(10)))
    return steady | st.lists(
        st.builds(Sample, st.sampled_from([now - 20, now - 2, now, now + 9, *HOSTILE]), values), max_size=3
    ).map(tuple)


def by_task(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(TASKS), values, max_size=3)


def servers(now: float) -> st.SearchStrategy[ServerState]:
    sets = by_task(st.frozensets(numbers, max_size=3))
    return st.builds(
        ServerState,
        st.sampled_from(SERVERS),
        st.sampled_from(["pi", "n100", "other"]),
        rough,
        ready=st.sampled_from([True, True, True, False]),
        utilization=samples(now, rough),
        demand=by_task(samples(now, rates)),
        pending=by_task(samples(now, rates)),
        active=by_task(numbers),
        loaded=sets,
        available=st.none() | sets,
        broken=sets,
    )


def snapshots(now: float) -> st.SearchStrategy[PoolSnapshot]:
    return st.builds(
        PoolSnapshot,
        st.just(now),
        st.lists(servers(now), max_size=3).map(tuple),
        st.lists(tasks, max_size=4).map(tuple),
    )


policies: st.SearchStrategy[Policy] = st.one_of(
    st.builds(Stepwise, st.builds(StepwiseParameters, metric=st.sampled_from(Metric))),
    st.builds(
        Frontier,
        st.builds(
            FrontierParameters,
            late_share=st.none() | st.just(0.3),
            utilization_limit=st.none() | st.just(0.7),
            strictness=st.sampled_from([0.5, 1.0]),
            drain_seconds=st.sampled_from([0.0, 3.0]),
        ),
    ),
    st.builds(ModelSwitching),
    st.builds(InFaaS, st.integers(1, 3)),
    st.builds(
        InfAdapter,
        st.builds(
            InfAdapterParameters, weighted=st.booleans(), agreeing=st.integers(1, 2), first_after_seconds=st.just(0.0)
        ),
    ),
    st.builds(Proteus),
    st.builds(Static, st.sampled_from(StaticChoice), st.dictionaries(st.sampled_from(TASKS), numbers)),
)
pool_settings = st.builds(
    Settings, recommend=st.booleans(), fallback=st.sampled_from(FallbackBehavior), standby_below=st.integers(0, 3)
)
junk = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "format",
                    "servers",
                    "tasks",
                    "policy",
                    "policyName",
                    "a",
                    "digits@pi",
                    "wanted",
                    "digits",
                    "last_change_seconds",
                    "factor",
                    "since_seconds",
                    "looseness",
                    "judged_seconds",
                    "loaded",
                    "loaded_seconds",
                    "down_seconds",
                    "solved_seconds",
                    "decided_seconds",
                    "first_seconds",
                    "agreed",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def check(policy: Policy, snapshot: PoolSnapshot, plan: Plan, pool: Settings) -> None:
    latest = {server.name: server for server in snapshot.servers}
    ready = {name: server for name, server in latest.items() if server.ready}
    by_name = {task.name: task for task in snapshot.tasks}
    here = {(name, task.name) for name, server in ready.items() for task in base.tasks_of(snapshot, server)}

    assert {one.server for one in plan.servers} == set(ready)
    assert len(plan.reasons) == len(here)
    assert {(reason.server, reason.task) for reason in plan.reasons} == here
    for reason in plan.reasons:
        assert reason.sentence.endswith(".")
        assert all(isinstance(value, float) and isfinite(value) for value in reason.numbers.values())
    for one in plan.servers:
        server = ready[one.server]
        assert one.expected_utilization is None or isfinite(one.expected_utilization)
        assert all(isfinite(weight) and weight >= 0 for weight in one.weights.values())
        for name, target in one.targets.items():
            task = by_name[name]
            chosen = next(v for v in reversed(task.versions) if v.number == target.active)
            allowed = servable(task, server, policy.metric)
            on_frontier = {version.number for version in allowed.ladder}
            assert target.active in on_frontier
            assert set(target.standby) <= on_frontier
            assert all(number < target.active for number in target.standby)
            assert len(target.standby) <= pool.standby_below
            assert task.min_accuracy is None or chosen.accuracy >= task.min_accuracy
            answers = server.active.get(name) == target.active or (
                name not in server.active and target.active in server.loaded.get(name, ())
            )
            assert answers or target.active not in server.broken.get(name, ())
            assert answers or server.available is None or target.active in server.available.get(name, ())
            if task.mode is Mode.PINNED:
                assert target.active == task.pinned_version
            acted = not pool.recommend and task.mode is not Mode.RECOMMEND
            assert (name in one.apply) is acted


def unique(snapshot: PoolSnapshot) -> PoolSnapshot:
    """Two objects of one name are none in Kubernetes, where these come from; the laws speak of one."""
    by_name = {task.name: task for task in snapshot.tasks}
    return replace(
        snapshot,
        tasks=tuple(replace(t, versions=tuple({v.number: v for v in t.versions}.values())) for t in by_name.values()),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(policies, pool_settings, snapshots(1000.0), snapshots(1031.0), st.just({}) | junk)
def test_any_run_gives_lawful_plans_and_a_memory_that_survives_json(
    policy: Policy, pool: Settings, first: PoolSnapshot, second: PoolSnapshot, memory: object
) -> None:
    for snapshot in (unique(first), unique(second)):
        plan, after = decide(policy, snapshot, memory, pool)
        check(policy, snapshot, plan, pool)
        assert decide(policy, snapshot, memory, pool) == (plan, after)
        memory = json.loads(json.dumps(after, allow_nan=False))
        assert memory == after


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(policies, snapshots(1000.0), junk)
def test_policies_alone_are_total(policy: Policy, snapshot: PoolSnapshot, memory: Any) -> None:
    plan, after = policy.decide(snapshot, memory)
    json.dumps(after, allow_nan=False)
    assert {one.server for one in plan.servers} == {server.name for server in snapshot.servers if server.ready}


honest = st.lists(
    st.builds(lambda accuracy, throughput: (accuracy, throughput), st.floats(0.1, 1), st.floats(1, 1000)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(TASKS), st.tuples(honest, st.floats(0.1, 100)), min_size=1), st.data())
def test_a_step_down_saves_40_percent_or_reaches_the_bottom(
    pool: dict[str, tuple[list[tuple[float, float]], float]], data: st.DataObject
) -> None:
    now = 1000.0
    states = []
    active = {}
    for name, (points, _) in pool.items():
        made = tuple(Version(k + 1, a, {"pi": Profile(t)}) for k, (a, t) in enumerate(points))
        states.append(TaskState(name, made, 0.4))
        active[name] = data.draw(st.sampled_from(ladder(made, "pi"))).number
    times = [now - 9 + second for second in range(10)]
    server = ServerState(
        "a",
        "pi",
        1.0,
        utilization=tuple(Sample(time, 0.9) for time in times),
        demand={name: tuple(Sample(time, rate) for time in times) for name, (_, rate) in pool.items()},
        active=active,
        wanted=active,
    )

    plan, _ = Stepwise().decide(
        PoolSnapshot(now, (server,), tuple(states)), {"servers": {"a": {"last_change_seconds": 0.0}}}
    )

    chosen = {name: target.active for name, target in plan.servers[0].targets.items()}

    def total(allocation: dict[str, int]) -> float:
        metrics = {task.name: {v.number: metric_of(v, "pi") or 0.0 for v in task.versions} for task in states}
        return sum(metrics[name][number] * pool[name][1] for name, number in allocation.items())

    before, after = total(active), total(chosen)
    bottom = total({task.name: ladder(task.versions, "pi")[0].number for task in states})
    assert after <= 0.6 * before * (1 + 1e-6) or after == pytest.approx(bottom)
    codes = {reason.code for reason in plan.reasons}
    assert codes == {Code.AT_BOTTOM} if chosen == active else codes <= {Code.STEP_DOWN, Code.STEADY}


@pytest.mark.parametrize(
    "policy",
    [Frontier(), Stepwise(), ModelSwitching(), InFaaS(), InfAdapter(), Proteus(), Static()],
    ids=lambda policy: policy.name,
)
def test_a_thousand_tasks_on_one_server_have_a_plan_and_a_reason_each(policy: Policy) -> None:
    made = tuple(Version(n, 0.5 + 0.08 * n, {"pi": Profile(2000.0 / 2**n)}) for n in range(1, 6))
    states = tuple(TaskState(f"task-{n:04}", made, 0.4, weight=1 + n % 7) for n in range(1000))
    second = {state.name: tuple(Sample(991.0 + k, 0.2 + n % 5) for k in range(10)) for n, state in enumerate(states)}
    busy = tuple(Sample(991.0 + k, 0.9) for k in range(10))
    server = ServerState("a", "pi", 1.0, utilization=busy, demand=second, active={s.name: 5 for s in states})
    snapshot = PoolSnapshot(1000.0, (server,), states)
    memory: object = {}
    for now in (900.0, 1000.0):
        plan, memory = decide(policy, replace(snapshot, time_seconds=now), memory, Settings())
        assert len(plan.reasons) == len(plan.servers[0].targets) == 1000
