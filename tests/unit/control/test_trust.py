"""Doubt in the profiles is told when the server works and it lasts, and goes when it stays away."""

from __future__ import annotations

from rung.control.trust import DOUBTED_AFTER_SECONDS, FORGOTTEN_AFTER_SECONDS, TRUSTED_AFTER_SECONDS, Doubt, judge
from rung.core.plan import ServerPlan
from rung.core.snapshot import Sample, ServerState


def _judge(before: dict[str, Doubt], now: float, *, trusted: bool, utilization: float) -> dict[str, Doubt]:
    samples = tuple(Sample(now - back, utilization) for back in range(9, -1, -1))
    server = ServerState("s", "default", 1.0, utilization=samples)
    return judge(before, [server], {"s": ServerPlan("s", {}, 0.1, trusted)}, now)


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


def test_doubt_at_each_step_up_is_told_although_steps_are_far_apart() -> None:
    doubts = _judge({}, 1000.0, trusted=False, utilization=0.4)
    doubts = _judge(doubts, 1001.0, trusted=True, utilization=0.4)
    assert _judge(doubts, 1030.0, trusted=False, utilization=0.4)["s"].told


def test_what_was_told_does_not_flap() -> None:
    doubts = {"s": Doubt(1000.0, 1010.0, told=True)}
    assert _judge(doubts, 1010.0 + TRUSTED_AFTER_SECONDS - 1, trusted=True, utilization=0.4)["s"].told
    assert _judge(doubts, 1010.0 + TRUSTED_AFTER_SECONDS, trusted=True, utilization=0.4) == {}
    assert judge(doubts, [], {}, 1011.0) == {}, "a server that is gone takes its doubt along"
