"""ModelSwitching, InFaaS, InfAdapter and Proteus by their papers' rules, on cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rung.core.plan import Code, Memory, Plan
from rung.core.policies.base import Policy
from rung.core.policies.infaas import InFaaS
from rung.core.policies.infadapter import InfAdapter, InfAdapterParameters
from rung.core.policies.model_switching import ModelSwitching
from rung.core.policies.proteus import Proteus
from rung.core.snapshot import PoolSnapshot, Profile, Sample, ServerState, TaskState, Version

NOW = 1000.0
LADDER = ((1, 0.60, 100.0), (2, 0.75, 30.0), (3, 0.90, 10.0))
"""Number, accuracy, inferences a second that it sustains."""


def task(name: str = "digits", **more: Any) -> TaskState:
    versions = tuple(Version(n, accuracy, {"pi": Profile(rate)}) for n, accuracy, rate in LADDER)
    return replace(TaskState(name, versions, 0.4), **more)


def server(rates: dict[str, float], active: dict[str, int], name: str = "a", seconds: int = 60) -> ServerState:
    return ServerState(
        name, "pi", 1.0,
        utilization=tuple(Sample(NOW - 9 + k, 0.5) for k in range(10)),
        demand={t: tuple(Sample(NOW - seconds + 1 + k, rate) for k in range(seconds)) for t, rate in rates.items()},
        active=active,
        loaded={t: frozenset({n}) for t, n in active.items()},
    )  # fmt: skip


def decide(
    policy: Policy, servers: list[ServerState], *tasks: TaskState, memory: Memory | None = None, now: float = NOW
) -> tuple[dict[str, int], Plan, Memory]:
    moved = [
        replace(
            each,
            demand={
                name: tuple(Sample(s.time_seconds + now - NOW, s.value) for s in samples)
                for name, samples in each.demand.items()
            },
        )
        for each in servers
    ]
    plan, after = policy.decide(PoolSnapshot(now, tuple(moved), tasks), memory or {})
    chosen = {f"{p.server}/{name}": target.active for p in plan.servers for name, target in p.targets.items()}
    return chosen, plan, after


# ------------------------------------------------------------------------------------------------- ModelSwitching


@pytest.mark.parametrize(("rate", "version"), [(0.0, 3), (2.0, 3), (9.0, 2), (60.0, 1), (500.0, 1)])
def test_model_switching_takes_the_highest_effective_accuracy(rate: float, version: int) -> None:
    chosen, plan, _ = decide(ModelSwitching(), [server({"digits": rate}, {"digits": 3})], task())
    assert chosen == {"a/digits": version}
    assert "an effective accuracy of" in plan.reasons[0].sentence


def test_model_switching_gives_each_task_its_part_of_the_server() -> None:
    two = {"digits": 3, "parity": 3}
    alone, _, _ = decide(ModelSwitching(), [server({"digits": 4.0}, {"digits": 3})], task())
    both, _, _ = decide(ModelSwitching(), [server({"digits": 4.0, "parity": 0.0}, two)], task(), task("parity"))
    assert (alone["a/digits"], both["a/digits"]) == (3, 2)


# --------------------------------------------------------------------------------------------------------- InFaaS


def test_infaas_never_seeks_accuracy_and_keeps_the_floor() -> None:
    chosen, _, _ = decide(InFaaS(), [server({"digits": 1.0}, {})], task())
    assert chosen == {"a/digits": 1}
    above = tuple(v for v in task().versions if v.accuracy >= 0.7)
    chosen, plan, _ = decide(InFaaS(), [server({"digits": 1.0}, {})], task(versions=above, min_accuracy=0.7))
    assert chosen == {"a/digits": 2}
    assert "the cheapest above 70 % accuracy that carries 1.0 inferences/s" in plan.reasons[0].sentence


def small_first() -> TaskState:
    """The slower a version, the less memory it holds: then cheap and fast are two things."""
    held = {1: 300, 2: 200, 3: 100}
    versions = tuple(
        replace(v, profiles={"pi": replace(v.profiles["pi"], memory_bytes=held[v.number])}) for v in task().versions
    )
    return task(versions=versions)


def test_infaas_upgrades_at_once_and_downgrades_after_ten_quiet_votes() -> None:
    policy, slow = InFaaS(), small_first()
    chosen, _, memory = decide(policy, [server({"digits": 20.0}, {"digits": 3})], slow)
    assert chosen == {"a/digits": 2}, "10/s are too few, 30/s are enough"
    for vote in range(1, 10):
        chosen, plan, memory = decide(policy, [server({"digits": 5.0}, {"digits": 2})], slow, memory=memory)
        assert chosen == {"a/digits": 2}
        assert f"{vote} decisions in a row" in plan.reasons[0].sentence
    _, _, broken = decide(policy, [server({"digits": 20.0}, {"digits": 2})], slow, memory=memory)
    assert broken == {"servers": {}}, "one busy decision, and they are counted anew"
    chosen, _, memory = decide(policy, [server({"digits": 5.0}, {"digits": 2})], slow, memory=memory)
    assert (chosen, memory) == ({"a/digits": 3}, {"servers": {}})


def test_infaas_takes_the_fastest_when_nothing_carries_the_demand() -> None:
    chosen, plan, _ = decide(InFaaS(), [server({"digits": 1e4}, {"digits": 3})], small_first())
    assert chosen == {"a/digits": 1}
    assert "no version carries" in plan.reasons[0].sentence


# -------------------------------------------------------------------------------------------------------- Proteus


def test_proteus_fills_the_server_and_meets_the_demand() -> None:
    rates = {"digits": 5.0, "parity": 12.0}
    servers = [server(rates, {"digits": 3, "parity": 3})]
    chosen, plan, memory = decide(Proteus(), servers, task(), task("parity"))
    # 5/10 + 12/30 = 0.9 fits; 5/10 + 12/10 does not; 5/30 + 12/10 does not.
    assert chosen == {"a/digits": 3, "a/parity": 2}
    assert plan.reasons[0].numbers["optimality_gap"] == 0
    assert memory == {"servers": {"a": {"solved_seconds": NOW}}}
    busier = [server({"digits": 5.0, "parity": 40.0}, chosen_of(chosen))]
    held, plan, _ = decide(Proteus(), busier, task(), task("parity"), memory=memory, now=NOW + 9)
    assert held == chosen
    assert plan.reasons[0].code is Code.SETTLING
    later, _, _ = decide(Proteus(), busier, task(), task("parity"), memory=memory, now=NOW + 10)
    assert later == {"a/digits": 3, "a/parity": 1}


def chosen_of(chosen: dict[str, int]) -> dict[str, int]:
    return {name.partition("/")[2]: number for name, number in chosen.items()}


def test_proteus_falls_short_by_the_least_where_the_demand_cannot_be_met() -> None:
    chosen, plan, _ = decide(Proteus(), [server({"digits": 300.0}, {"digits": 3})], task())
    assert chosen == {"a/digits": 1}
    assert "can't be met" in plan.reasons[0].sentence


# ----------------------------------------------------------------------------------------------------- InfAdapter


def adapter(**more: Any) -> InfAdapter:
    return InfAdapter(InfAdapterParameters(weighted=True, **more))


def test_infadapter_mixes_versions_over_servers_and_weighs_them() -> None:
    servers = [server({"digits": 12.0}, {}, name) for name in ("a", "b")]
    chosen, plan, _ = decide(adapter(margin=0.0), servers, task())
    # 24/s over two: 8 + 24 carries them and is the most accurate that does.
    assert sorted(chosen.values()) == [2, 3]
    weights = {each.server: each.weights["digits"] for each in plan.servers}
    by_version = {chosen[f"{name}/digits"]: weight for name, weight in weights.items()}
    assert by_version == {3: pytest.approx(8 / 12), 2: pytest.approx(16 / 12)}


def test_infadapter_without_weights_runs_one_version_on_a_class() -> None:
    servers = [server({"digits": 12.0}, {}, name) for name in ("a", "b")]
    chosen, plan, _ = decide(InfAdapter(InfAdapterParameters(margin=0.0)), servers, task())
    assert chosen == {"a/digits": 2, "b/digits": 2}
    assert all(each.weights["digits"] == 1 for each in plan.servers)


def test_infadapter_waits_two_minutes_and_gives_up_capacity_after_four_that_agree() -> None:
    policy, busy = adapter(), [server({"digits": 30.0}, {"digits": 3})]
    chosen, _, memory = decide(policy, busy, task())
    assert chosen == {"a/digits": 3}, "the first two minutes"
    chosen, _, memory = decide(policy, busy, task(), memory=memory, now=NOW + 120)
    assert chosen == {"a/digits": 1}
    quiet = [server({"digits": 1.0}, {"digits": 1})]
    times = range(150, 240, 30)
    for agreed, second in enumerate(times, start=1):
        chosen, plan, memory = decide(policy, quiet, task(), memory=memory, now=NOW + second)
        assert chosen == {"a/digits": 1}
        assert f"{agreed} of 4 decisions agree" in plan.reasons[0].sentence
        between, _, _ = decide(policy, quiet, task(), memory=memory, now=NOW + second + 29)
        assert between == {"a/digits": 1}
    chosen, _, _ = decide(policy, quiet, task(), memory=memory, now=NOW + 240)
    assert chosen == {"a/digits": 3}


def test_infadapter_says_when_nothing_carries_the_load() -> None:
    chosen, plan, _ = decide(adapter(), [server({"digits": 1000.0}, {})], task())
    assert chosen == {"a/digits": 1}
    assert "which nothing carries" in plan.reasons[0].sentence


@pytest.mark.parametrize("policy", [ModelSwitching(), InFaaS(), Proteus(), InfAdapter()], ids=lambda p: p.name)
def test_without_known_demand_everything_stays(policy: Policy) -> None:
    chosen, plan, _ = decide(policy, [server({}, {"digits": 2})], task(), now=NOW + 500)
    assert chosen == {"a/digits": 2}
    assert plan.reasons[0].code is Code.STALE_METRICS
