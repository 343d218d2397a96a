from __future__ import annotations

import json
from dataclasses import replace
from math import nan
from typing import Any

import pytest

from rung.core.decide import FallbackBehavior, Settings, decide
from rung.core.plan import Code, Plan, Reason, Target
from rung.core.policies.base import Policy
from rung.core.policies.static import Static, StaticChoice
from rung.core.policies.stepwise import Stepwise
from rung.core.snapshot import Mode, PoolSnapshot, Profile, Sample, ServerState, TaskState, Version

LOW, MIDDLE, BEST = 1_090_000, 1_095_000, 1_100_000


def version(number: int, accuracy: float, throughput: float) -> Version:
    return Version(number, accuracy, {"pi": Profile(throughput)})


DIGITS = TaskState("digits", (version(LOW, 0.9, 100), version(MIDDLE, 0.95, 50), version(BEST, 1.0, 20)), 0.4)


class Pool:
    """A pool of one server over time; `decide` hands its memory on through JSON, as the status does."""

    def __init__(self, policy: Policy | None = None, **settings: Any) -> None:
        self.policy: Policy = policy or Stepwise()
        self.settings = Settings(**settings)
        self.memory: object = {}
        self.tasks: tuple[TaskState, ...] = (DIGITS,)
        self.server = ServerState("edge-a", "pi", 1.0)
        self.cpu: float | None = 0.6
        self.demand: float | None = 6.0

    def at(self, time: float, **changes: Any) -> Plan:
        self.server = replace(self.server, **changes)
        times = [time - 9 + second for second in range(10)]
        signals = replace(
            self.server,
            utilization=() if self.cpu is None else tuple(Sample(t, self.cpu) for t in times),
            demand={}
            if self.demand is None
            else {task.name: tuple(Sample(t, self.demand) for t in times) for task in self.tasks},
        )
        plan, memory = decide(self.policy, PoolSnapshot(time, (signals,), self.tasks), self.memory, self.settings)
        self.memory = json.loads(json.dumps(memory, allow_nan=False))
        return plan

    def only(self, time: float, **changes: Any) -> tuple[Target | None, Reason]:
        """Decide, and return the one task's target and reason."""
        plan = self.at(time, **changes)
        (reason,) = plan.reasons
        assert reason.sentence.endswith(".")
        return plan.servers[0].targets.get("digits"), reason


def active(number: int) -> dict[str, Any]:
    return {"active": {"digits": number}, "loaded": {"digits": frozenset({number})}}


NOTHING: dict[str, Any] = {"active": {}, "loaded": {}}


class TestFirstAllocation:
    def test_is_the_best_that_fits_the_demand(self) -> None:
        pool = Pool()
        pool.demand = 15  # BEST needs .75 of the CPU, MIDDLE .30; the goal is .65
        target, reason = pool.only(100)
        assert target == Target(MIDDLE, (LOW,))
        assert reason.code is Code.INITIAL

    def test_is_the_best_when_demand_is_not_known(self) -> None:
        pool = Pool()
        pool.demand = pool.cpu = None
        target, reason = pool.only(100)
        assert target == Target(BEST, (MIDDLE,))
        assert reason.code is Code.INITIAL

    def test_is_the_cheapest_when_nothing_fits(self) -> None:
        pool = Pool()
        pool.demand = 500
        assert pool.only(100)[0] == Target(LOW)

    def test_stays_initial_while_it_is_loaded(self) -> None:
        pool = Pool()
        pool.only(100)
        target, reason = pool.only(103)
        assert target is not None
        assert (target.active, reason.code) == (BEST, Code.INITIAL)
        assert pool.only(104, **active(BEST))[1].code is Code.SETTLING

    def test_makes_room_for_what_is_there(self) -> None:
        pool = Pool()
        pool.at(100, **active(BEST))
        parity = replace(DIGITS, name="parity")
        pool.tasks = (DIGITS, parity)
        plan = pool.at(200)
        # digits holds .30 of the CPU; parity at BEST would add .30: together .60, within the goal.
        assert plan.servers[0].targets["parity"].active == BEST
        pool.demand = 9  # .45 and .45; MIDDLE adds .18
        pool.memory = {}
        assert pool.at(300).servers[0].targets["parity"].active == MIDDLE

    def test_adopts_what_answers_already(self) -> None:
        pool = Pool()
        target, reason = pool.only(100, **active(LOW))
        assert target == Target(LOW)
        assert reason.code is Code.SETTLING


class TestWhatMayBeServed:
    def test_floor(self) -> None:
        pool = Pool()
        pool.tasks = (replace(DIGITS, min_accuracy=0.95),)
        pool.demand = 500
        assert pool.only(100)[0] == Target(MIDDLE)

    def test_floor_that_rises_takes_effect_at_once(self) -> None:
        pool = Pool()
        pool.only(100, **active(LOW))
        pool.tasks = (replace(DIGITS, min_accuracy=0.95),)
        target, reason = pool.only(101)
        assert target == Target(MIDDLE)
        assert reason.code is Code.REPLACED
        assert str(LOW) in reason.sentence

    def test_broken_and_missing_versions(self) -> None:
        pool = Pool()
        target, _ = pool.only(
            100, broken={"digits": frozenset({BEST})}, available={"digits": frozenset({LOW, BEST, MIDDLE})}
        )
        assert target == Target(MIDDLE, (LOW,))
        pool.memory = {}
        assert pool.only(101, available={"digits": frozenset({LOW})})[0] == Target(LOW)

    def test_what_answers_is_never_dropped_for_its_files(self) -> None:
        pool = Pool()
        target, _ = pool.only(100, **active(BEST), available={}, broken={"digits": frozenset({BEST})})
        assert target == Target(BEST)

    def test_a_version_that_broke_on_its_way_is_given_up(self) -> None:
        pool = Pool()
        pool.only(100, **active(BEST))
        pool.cpu = 0.9
        assert pool.only(120)[0] == Target(MIDDLE, (LOW,))
        target, reason = pool.only(125, broken={"digits": frozenset({MIDDLE})})
        assert target is not None
        assert (target.active, reason.code) == (BEST, Code.VERSION_UNAVAILABLE)
        assert "failed to load" in reason.sentence
        # The failure starts no new wait: 15 s after the step it is judged again, without the broken version.
        target, reason = pool.only(135)
        assert target is not None
        assert (target.active, reason.code) == (LOW, Code.STEP_DOWN)

    @pytest.mark.parametrize(
        ("task", "words"),
        [
            (replace(DIGITS, versions=()), "no version of digits is registered"),
            (replace(DIGITS, min_accuracy=1.0, versions=DIGITS.versions[:2]), "2 are below minAccuracy"),
            (replace(DIGITS, max_metric=1e-9), "3 are above maxMetric"),
            (
                replace(DIGITS, max_metric=1.0, versions=(Version(1, 0.9),)),
                "the only version of digits may be served on edge-a (1 has no profile to hold against maxMetric)",
            ),
        ],
    )
    def test_nothing(self, task: TaskState, words: str) -> None:
        pool = Pool()
        pool.tasks = (task,)
        target, reason = pool.only(100, **active(LOW))
        assert target is None
        assert reason.code is Code.NO_VERSIONS
        assert words.casefold() in reason.sentence.casefold()
        assert f"{LOW} goes on answering" in reason.sentence

    def test_nothing_on_the_server_yet(self) -> None:
        target, reason = Pool().only(100, available={})
        assert target is None
        assert "3 are not on the server yet" in reason.sentence

    def test_a_task_without_profiles_is_served_with_its_best(self) -> None:
        pool = Pool()
        pool.tasks = (replace(DIGITS, versions=(Version(1, 0.8), Version(2, 0.9))),)
        for time, cpu in ((100, 0.1), (150, 0.99), (200, 0.6)):
            pool.cpu = cpu
            assert pool.only(time)[0] == Target(2)


class TestModes:
    def test_pinned_at_once_and_alone(self) -> None:
        pool = Pool()
        pool.only(100, **active(BEST))
        pool.tasks = (replace(DIGITS, mode=Mode.PINNED, pinned_version=LOW),)
        pool.cpu = 0.1
        target, reason = pool.only(101)
        assert target == Target(LOW)
        assert reason.code is Code.PINNED
        assert pool.only(200, **active(LOW))[0] == Target(LOW)

    @pytest.mark.parametrize("pinned", [42, None, BEST])
    def test_pinned_to_what_is_not_there(self, pinned: int | None) -> None:
        pool = Pool()
        pool.tasks = (replace(DIGITS, mode=Mode.PINNED, pinned_version=pinned),)
        target, reason = pool.only(100, **active(LOW), broken={"digits": frozenset({BEST})})
        assert target is None
        assert reason.code is Code.VERSION_UNAVAILABLE
        assert f"{LOW} goes on answering" in reason.sentence

    @pytest.mark.parametrize("whole_pool", [True, False])
    def test_recommend_is_planned_and_not_applied(self, whole_pool: bool) -> None:
        pool = Pool(recommend=whole_pool)
        if not whole_pool:
            pool.tasks = (replace(DIGITS, mode=Mode.RECOMMEND),)
        pool.at(100, **active(BEST))
        pool.cpu = 0.9
        plan = pool.at(120)
        assert plan.servers[0].targets["digits"].active == MIDDLE
        assert plan.servers[0].apply == frozenset()
        assert "recommendation" in plan.reasons[0].sentence
        # The recommendation stands while it is judged, stands while the CPU stays high, and goes with it.
        assert pool.only(121)[0] == pool.only(140)[0] == Target(MIDDLE, (LOW,))
        pool.cpu = 0.6
        assert pool.only(160)[0] == Target(BEST, (MIDDLE,))

    def test_auto_is_applied(self) -> None:
        assert Pool().at(100).servers[0].apply == {"digits"}

    def test_static(self) -> None:
        for choice, expected in ((StaticChoice.BEST, BEST), (StaticChoice.CHEAPEST, LOW)):
            pool = Pool(Static(choice))
            pool.cpu = 0.99
            for time in (100, 200):
                target, reason = pool.only(time, **active(MIDDLE))
                assert target is not None
                assert (target.active, reason.code) == (expected, Code.STATIC)

    def test_static_version(self) -> None:
        pool = Pool(Static(StaticChoice.VERSION, {"digits": MIDDLE}))
        assert pool.only(100)[0] == Target(MIDDLE, (LOW,))
        target, reason = pool.only(101, broken={"digits": frozenset({MIDDLE})})
        assert target is not None
        assert (target.active, reason.code) == (LOW, Code.VERSION_UNAVAILABLE)

    def test_static_needs_no_signals(self) -> None:
        pool = Pool(Static(), fallback=FallbackBehavior.CHEAPEST)
        pool.cpu = pool.demand = None
        pool.only(100)
        target, reason = pool.only(1000)
        assert target is not None
        assert (target.active, reason.code) == (BEST, Code.STATIC)

    def test_another_policy_forgets_what_the_one_before_remembered(self) -> None:
        pool = Pool()
        pool.only(100, **active(BEST))
        pool.policy = Static(StaticChoice.CHEAPEST)
        target, _ = pool.only(101)
        assert target == Target(LOW)
        assert isinstance(pool.memory, dict)
        assert pool.memory["policy"] == {}


class TestStandbys:
    def test_are_the_next_rungs_below(self) -> None:
        assert Pool(standby_below=2).only(100)[0] == Target(BEST, (MIDDLE, LOW))
        assert Pool(standby_below=0).only(100)[0] == Target(BEST)

    def test_with_a_higher_number_are_not_kept(self) -> None:
        pool = Pool(standby_below=2)
        pool.tasks = (replace(DIGITS, versions=(version(9, 0.9, 100), version(1, 0.95, 50), version(5, 1.0, 20))),)
        assert pool.only(100)[0] == Target(5, (1,))


class TestSignalsGone:
    def test_hold_then_fall_back_then_go_on(self) -> None:
        pool = Pool(fallback=FallbackBehavior.CHEAPEST)
        pool.only(100, **active(BEST))
        pool.cpu = None
        target, reason = pool.only(120)
        assert target is not None
        assert (target.active, reason.code) == (BEST, Code.STALE_METRICS)
        assert "No CPU sample was found" in reason.sentence
        assert pool.only(179)[1].code is Code.STALE_METRICS
        target, reason = pool.only(180)
        assert target == Target(LOW)
        assert reason.code is Code.FALLBACK
        # Back again: it goes on from where it fell, by the policy's own rules.
        pool.cpu = 0.6
        target, reason = pool.only(181, **active(LOW))
        assert target == Target(LOW)
        assert reason.code is Code.STEADY

    def test_hold_for_ever(self) -> None:
        pool = Pool()
        pool.only(100, **active(BEST))
        pool.cpu = None
        target, reason = pool.only(100_000)
        assert target is not None
        pool.only(200_000)
        assert (target.active, reason.code) == (BEST, Code.STALE_METRICS)

    def test_old_samples_are_as_good_as_none(self) -> None:
        pool = Pool(max_age_seconds=5)
        pool.only(100, **active(BEST))
        old = ServerState(
            "edge-a", "pi", 1.0, utilization=tuple(Sample(120 + s, 0.99) for s in range(10)), **active(BEST)
        )
        plan, _ = decide(pool.policy, PoolSnapshot(134.5, (old,), (DIGITS,)), pool.memory, pool.settings)
        assert plan.reasons[0].code is Code.STALE_METRICS
        assert plan.reasons[0].numbers["age_seconds"] == pytest.approx(5.5)
        plan, _ = decide(pool.policy, PoolSnapshot(134, (old,), (DIGITS,)), pool.memory, pool.settings)
        assert plan.reasons[0].code is Code.STEP_DOWN


class TestRestart:
    def test_gives_back_what_was_wanted_and_keeps_the_timers(self) -> None:
        pool = Pool()
        pool.only(100, **active(MIDDLE))
        pool.cpu = 0.1
        target, reason = pool.only(125, **NOTHING)
        assert target == Target(MIDDLE, (LOW,))
        assert reason.code is Code.RESTORED
        # 15 s of quiet from the restart, 30 s from the last change: a step up at 140, not at 155.
        assert pool.only(139, **active(MIDDLE))[1].code is Code.SETTLING
        assert pool.only(140)[1].code is Code.STEP_UP

    def test_that_never_ends_blocks_nobody(self) -> None:
        pool = Pool()
        pool.tasks = (DIGITS, replace(DIGITS, name="parity"))
        pool.at(100, active={"digits": BEST, "parity": BEST})
        pool.cpu = 0.9
        pool.at(120, active={"digits": BEST})
        plan = pool.at(135)
        codes = {reason.task: reason.code for reason in plan.reasons}
        assert codes["digits"] is Code.STEP_DOWN

    def test_while_not_ready_nothing_is_planned_or_forgotten(self) -> None:
        pool = Pool()
        pool.only(100, **active(LOW))
        plan = pool.at(101, ready=False, **NOTHING)
        assert plan.servers == ()
        assert plan.reasons == ()
        target, reason = pool.only(130, ready=True)
        assert target == Target(LOW)
        assert reason.code is Code.RESTORED


class TestMemory:
    def test_is_the_same_while_nothing_happens(self) -> None:
        pool = Pool()
        pool.at(100, **active(BEST))
        before = pool.memory
        for second in range(101, 200):
            pool.at(second)
        assert pool.memory == before

    def test_of_a_server_that_is_gone_is_dropped_after_ten_minutes(self) -> None:
        pool = Pool()
        pool.at(100, **active(BEST))
        for time, known in ((101, True), (600, True), (701, False)):
            _, memory = decide(pool.policy, PoolSnapshot(time, (), pool.tasks), pool.memory, pool.settings)
            pool.memory = memory
            assert ("edge-a" in memory["servers"]) is known  # type: ignore[operator]
            assert ("edge-a" in memory["policy"]["servers"]) is known  # type: ignore[index]

    @pytest.mark.parametrize(
        "memory",
        [
            "nonsense",
            [1],
            {"format": 99},
            {"format": 1, "servers": 3, "policy": 4, "policyName": 5},
            {"format": 1, "servers": {"edge-a": None}},
            {"format": 1, "servers": {"edge-a": {"wanted": {"digits": "high"}}}},
            {"format": 1, "servers": {"edge-a": {"wanted": {"digits": nan}}}},
            {"format": 1, "servers": {"edge-a": {"wanted": {"digits": 10**400}}}},
            {"format": 1, "servers": {"edge-a": {"wanted": {"digits": 0}}}},
            {"format": 1, "servers": {"edge-a": {"wanted": {"digits": -1}}}},
            {"format": 1, "servers": {"edge-a": {"answered": [3]}}},
            {"format": 1, "servers": {"edge-a": {"disturbedSeconds": "soon"}}},
        ],
    )
    def test_that_cannot_be_read_is_dropped_with_a_note(self, memory: object) -> None:
        pool = Pool()
        pool.memory = memory
        plan = pool.at(100, **active(MIDDLE))
        assert plan.notes
        assert plan.servers[0].targets["digits"].active == MIDDLE
        assert pool.at(101).notes == ()

    @pytest.mark.parametrize("last_change", ["x", None, nan, 10**400, True, [], 1e12])
    def test_of_the_policy_that_cannot_be_read_counts_from_now(self, last_change: object) -> None:
        pool = Pool()
        pool.memory = {
            "format": 1,
            "policyName": "Stepwise",
            "policy": {"servers": {"edge-a": {"last_change_seconds": last_change}}},
        }
        assert pool.only(100, **active(MIDDLE))[1].code is Code.SETTLING
        pool.cpu = 0.9
        assert pool.only(115)[1].code is Code.STEP_DOWN


def test_tasks_go_only_where_they_belong() -> None:
    servers = tuple(ServerState(name, "pi", 1.0) for name in ("a", "b"))
    task = replace(DIGITS, servers=frozenset({"b"}))
    plan, _ = decide(Stepwise(), PoolSnapshot(100, servers, (task,)), {}, Settings())
    assert [(plan.server, set(plan.targets)) for plan in plan.servers] == [("a", set()), ("b", {"digits"})]
    assert [reason.server for reason in plan.reasons] == ["b"]


def test_declared_demand_is_shared_by_the_servers_that_are_ready() -> None:
    servers = (ServerState("a", "pi", 1.0), ServerState("b", "pi", 1.0), ServerState("c", "pi", 1.0, ready=False))
    task = replace(DIGITS, declared_demand_rps=20.0)
    plan, _ = decide(Stepwise(), PoolSnapshot(100, servers, (task,)), {}, Settings())
    assert [one.expected_utilization for one in plan.servers] == [pytest.approx(10 / 20)] * 2
