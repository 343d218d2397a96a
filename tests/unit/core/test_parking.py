"""A task of which a server gets no requests stands by there at its cheapest version."""

from __future__ import annotations

from rung.core.plan import Code, Plan
from rung.core.policies.frontier import PARK_SECONDS, Frontier
from rung.core.snapshot import PoolSnapshot, Profile, Sample, ServerState, TaskState, Version

NOW = 1001.0
"""Not a moment at which shares are thought over."""
LADDER = tuple(
    Version(number, accuracy, {"default": Profile(1 / seconds, None, seconds)})
    for number, accuracy, seconds in ((1, 0.6, 0.005), (2, 0.8, 0.01), (3, 0.9, 0.02))
)
TIMES = tuple(NOW - 60 + second for second in range(61))


def decided(share: float, changed_ago_seconds: float, ready: tuple[str, ...] = ("s1", "s2")) -> tuple[Plan, object]:
    """Decide for two servers with both tasks, of which s2 gets this share of the requests of `far`."""
    rates = {"s1": {"far": 10 * (1 - share), "near": 5.0}, "s2": {"far": 10 * share, "near": 5.0}}
    servers = tuple(
        ServerState(
            name, "default", 1.0, ready=name in ready, utilization=tuple(Sample(time, 0.2) for time in TIMES),
            demand={task: tuple(Sample(time, rate) for time in TIMES) for task, rate in mine.items()},
            active={"far": 3, "near": 3}, loaded={"far": frozenset({1, 3}), "near": frozenset({3})},
            wanted={"far": 3, "near": 3},
        )
        for name, mine in rates.items()
    )  # fmt: skip
    tasks = tuple(TaskState(name, LADDER, 0.4) for name in ("far", "near"))
    since = {"factor": 1.0, "since_seconds": NOW - changed_ago_seconds}
    shares = {"far": {"s1": 1 - share, "s2": share}, "near": {"s1": 0.5, "s2": 0.5}}
    memory = {"servers": dict.fromkeys(("s1", "s2"), since), "shares": shares}
    return Frontier().decide(PoolSnapshot(NOW, servers, tasks, balanced=True), memory)


def targets(plan: Plan) -> dict[str, dict[str, int]]:
    return {each.server: {task: target.active for task, target in each.targets.items()} for each in plan.servers}


def test_without_requests_it_stands_by_at_its_cheapest_version_after_a_while() -> None:
    plan, _ = decided(0.0, PARK_SECONDS)
    assert targets(plan) == {"s1": {"far": 3, "near": 3}, "s2": {"far": 1, "near": 3}}
    (reason,) = [each for each in plan.reasons if (each.task, each.server) == ("far", "s2")]
    assert reason.code is Code.STEP_DOWN
    assert "the other servers answer its requests, and it stands by here" in reason.sentence


def test_not_just_after_a_change_nor_with_any_requests() -> None:
    assert targets(decided(0.0, PARK_SECONDS - 1)[0])["s2"]["far"] == 3
    assert targets(decided(0.1, 10 * PARK_SECONDS)[0])["s2"]["far"] == 3


def test_it_is_not_parked_where_it_is_the_only_one() -> None:
    assert targets(decided(0.0, 10 * PARK_SECONDS, ready=("s2",))[0])["s2"]["far"] == 3
