"""Doubt in the profiles is told when it lasts or a step up was taken in spite of it, and goes when it stays away."""

from __future__ import annotations

from rung.control.trust import DOUBTED_AFTER_SECONDS, FORGOTTEN_AFTER_SECONDS, TRUSTED_AFTER_SECONDS, Doubt, judge
from rung.core.decide import Settings, decide
from rung.core.plan import Code, Plan, Reason, ServerPlan
from rung.core.policies.stepwise import Stepwise
from rung.core.snapshot import PoolSnapshot, Profile, Sample, ServerState, TaskState, Version


def _judge(
    before: dict[str, Doubt], now: float, *, trusted: bool, utilization: float, code: Code = Code.NO_ROOM
) -> dict[str, Doubt]:
    samples = tuple(Sample(now - back, utilization) for back in range(9, -1, -1))
    server = ServerState("s", "default", 1.0, utilization=samples)
    plan = Plan((ServerPlan("s", {}, 0.1, trusted),), (Reason("digits", "s", code, "."),))
    return judge(before, [server], plan, now)


def test_an_idle_server_is_never_doubted() -> None:
    doubts: dict[str, Doubt] = {}
    for second in range(60):
        doubts = _judge(doubts, 1000.0 + second, trusted=False, utilization=0.05)
        assert doubts == {}


def test_doubt_is_told_when_it_lasts() -> None:
    doubts: dict[str, Doubt] = {}
    told = []
    for second in range(10):
        doubts = _judge(doubts, 1000.0 + second, trusted=False, utilization=0.4)
        told.append(doubts["s"].told)
    assert told.index(True) == DOUBTED_AFTER_SECONDS


def test_one_second_of_doubt_is_forgotten() -> None:
    doubts = _judge({}, 1000.0, trusted=False, utilization=0.4)
    assert not doubts["s"].told
    assert _judge(doubts, 1000.0 + FORGOTTEN_AFTER_SECONDS, trusted=True, utilization=0.4) == {}


def test_doubts_that_are_far_apart_last_all_the_same() -> None:
    doubts = _judge({}, 1000.0, trusted=False, utilization=0.4)
    doubts = _judge(doubts, 1001.0, trusted=True, utilization=0.4)
    assert _judge(doubts, 1030.0, trusted=False, utilization=0.4)["s"].told


def test_a_step_up_that_was_taken_in_doubt_is_told_at_once_and_stays_told_for_a_while() -> None:
    assert _judge({}, 1000.0, trusted=False, utilization=0.05, code=Code.STEP_UP) == {}, "the server idles"
    assert _judge({}, 1000.0, trusted=True, utilization=0.4, code=Code.STEP_UP) == {}
    doubts = _judge({}, 1000.0, trusted=False, utilization=0.4, code=Code.STEP_UP)
    for second in range(1001, 1060):
        assert doubts["s"].told
        doubts = _judge(doubts, float(second), trusted=True, utilization=0.4)


def test_stepwise_doubts_once_when_it_steps_up_and_that_is_told() -> None:
    """Observed CPU 0.4, predicted 5 / 50: beyond 1.2 times the prediction, and there is room for the better version."""
    versions = tuple(
        Version(number, accuracy, {"default": Profile(throughput)})
        for number, accuracy, throughput in ((1, 0.9, 50.0), (2, 0.95, 40.0))
    )
    task = TaskState("digits", versions, 0.4, declared_demand_rps=5.0)
    memory: object = {}
    doubts: dict[str, Doubt] = {}
    active, steps, told = 1, 0, []
    for second in range(1000, 1060):
        samples = tuple(Sample(second - back, 0.4) for back in range(10))
        server = ServerState(
            "s", "default", 1.0, utilization=samples, active={"digits": active}, loaded={"digits": frozenset({active})}
        )
        plan, memory = decide(Stepwise(), PoolSnapshot(float(second), (server,), (task,)), memory, Settings())
        steps += any(reason.code is Code.STEP_UP for reason in plan.reasons)
        active = plan.servers[0].targets["digits"].active
        doubts = judge(doubts, [server], plan, float(second))
        told.append(any(doubt.told for doubt in doubts.values()))
    assert (active, steps) == (2, 1)
    assert told.index(True) == 30, "at the step, and not before"
    assert all(told[30:])


def test_what_was_told_does_not_flap() -> None:
    doubts = {"s": Doubt(1000.0, 1010.0, told=True)}
    assert _judge(doubts, 1010.0 + TRUSTED_AFTER_SECONDS - 1, trusted=True, utilization=0.4)["s"].told
    assert _judge(doubts, 1010.0 + TRUSTED_AFTER_SECONDS, trusted=True, utilization=0.4) == {}
    assert judge(doubts, [], Plan((), ()), 1011.0) == {}, "a server that is gone takes its doubt along"
