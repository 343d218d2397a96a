"""Frontier on cases worked out by hand: what it learns, what it never believes, and when it moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rung.core.decide import Settings, decide
from rung.core.plan import Code
from rung.core.policies.frontier import Frontier
from rung.core.policies.frontier_parameters import FrontierParameters
from rung.core.policies.remembered import digest
from rung.core.snapshot import PoolSnapshot, Profile, Sample, ServerState, TaskState, Version

NOW = 1000.0
CPU_SECONDS = {1: 0.01, 2: 0.03, 3: 0.1}
TASK = TaskState(
    "digits",
    tuple(Version(n, 0.5 + 0.15 * n, {"pi": Profile(1 / c, None, c)}) for n, c in CPU_SECONDS.items()),
    0.4,
)


def samples(value: float, until: float = NOW, seconds: int = 60) -> tuple[Sample, ...]:
    return tuple(Sample(until - seconds + 1 + k, value) for k in range(seconds))


def server(rate: float, active: int = 3, **more: Any) -> ServerState:
    state = ServerState(
        "a", "pi", 1.0, utilization=samples(rate * CPU_SECONDS[active]), demand={"digits": samples(rate)},
        active={"digits": active}, loaded={"digits": frozenset({active, max(1, active - 1)})},
    )  # fmt: skip
    return replace(state, **more)


def after(
    state: ServerState, task: TaskState = TASK, policy: Frontier | None = None, **remembered: Any
) -> tuple[int, Code, Any]:
    """Return what is wanted, why, and what is remembered of the server, a minute after the last change."""
    memory = {"servers": {"a": {"factor": 1.0, "since_seconds": NOW - 60, **remembered}}}
    plan, kept = (policy or Frontier()).decide(PoolSnapshot(NOW, (state,), (task,)), memory)
    found: Any = kept["servers"]
    return plan.servers[0].targets["digits"].active, plan.reasons[0].code, found["a"]


@pytest.mark.parametrize(
    ("rate", "active", "wanted"), [(0.2, 1, 3), (5.0, 1, 2), (5.0, 3, 2), (12.0, 3, 2), (0.2, 3, 3)]
)
def test_demand_decides(rate: float, active: int, wanted: int) -> None:
    assert after(server(rate, active))[0] == wanted


def test_it_goes_down_through_what_is_loaded() -> None:
    busy = server(30.0, 3, loaded={"digits": frozenset({2, 3})})
    assert after(busy)[0] == 2, "a load takes its time; until then the standby answers"


def test_however_loose_the_limit_an_overloaded_server_is_no_good_one() -> None:
    lenient = replace(TASK, objective=0.9)
    calm_for_an_hour: dict[str, Any] = {"looseness": 100.0, "judged_seconds": NOW - 3600}
    assert after(server(15.0, 3), lenient, **calm_for_an_hour)[0] < 3
    assert after(server(15.0, 2), lenient, **calm_for_an_hour)[0] == 2


def test_answers_that_are_late_make_it_strict_at_once_and_calm_loose_again() -> None:
    late = server(5.0, 2, pending={"digits": samples(30.0)})
    _, _, kept = after(late, looseness=8.0, judged_seconds=NOW - 60)
    assert (kept["looseness"], kept["judged_seconds"]) == (8.0, NOW), "twice as loose after a minute, then half of it"
    _, _, calm = after(server(5.0, 2), looseness=8.0, judged_seconds=NOW - 60)
    assert (calm["looseness"], calm["judged_seconds"]) == (8.0, NOW - 60), "nothing is written while nothing happens"


def test_costs_are_learned_from_settled_seconds_and_from_nothing_else() -> None:
    dear = server(4.0, 2, utilization=samples(0.24))
    plan, _ = Frontier().decide(PoolSnapshot(NOW, (dear,), (TASK,)), {"servers": {"a": {"since_seconds": NOW - 60}}})
    assert plan.reasons[0].numbers["factor"] == pytest.approx(1.73, abs=0.02), "twice what the profile says, in time"
    assert not plan.servers[0].profile_trusted
    on_its_way = replace(dear, wanted={"digits": 3})
    plan, _ = Frontier().decide(
        PoolSnapshot(NOW, (on_its_way,), (TASK,)), {"servers": {"a": {"since_seconds": NOW - 60}}}
    )
    assert plan.reasons[0].numbers["factor"] == 1.0
    plan, _ = Frontier(FrontierParameters(calibrate=False)).decide(PoolSnapshot(NOW, (dear,), (TASK,)), {})
    assert plan.reasons[0].numbers["factor"] == 1.0


def test_old_samples_decide_nothing() -> None:
    """The last that was seen was a flood; then nothing more was scraped."""
    flood = server(30.0, 3)
    old = replace(
        flood, utilization=samples(1.0, NOW - 20), demand={"digits": samples(30.0, NOW - 20)},
        pending={"digits": samples(50.0, NOW - 20)},
    )  # fmt: skip
    plan, _ = decide(Frontier(), PoolSnapshot(NOW, (old,), (TASK,)), {}, Settings())
    assert plan.servers[0].targets["digits"].active == 3
    assert plan.reasons[0].code is Code.STALE_METRICS
    fresh, _ = decide(Frontier(), PoolSnapshot(NOW, (flood,), (TASK,)), {}, Settings())
    assert fresh.servers[0].targets["digits"].active < 3


def test_a_task_whose_demand_is_not_known_stays_where_it_is() -> None:
    other = replace(TASK, name="parity")
    state = replace(server(0.2, 1), active={"digits": 1, "parity": 2}, loaded={})
    plan, _ = Frontier().decide(
        PoolSnapshot(NOW, (state,), (TASK, other)), {"servers": {"a": {"since_seconds": NOW - 60}}}
    )
    assert {name: target.active for name, target in plan.servers[0].targets.items()} == {"digits": 3, "parity": 2}


@pytest.mark.parametrize("seconds", [5.0, 6.0, 45.0])
def test_a_step_up_has_room_for_what_was_just_asked(seconds: float) -> None:
    """For as long as is remembered: a wave of 40/s that has just gone."""
    wave = (*samples(40.0, NOW - 1, 30), *samples(0.0, NOW, 1))
    policy = Frontier(FrontierParameters(remember_seconds=seconds))
    assert after(server(0.2, 1, demand={"digits": wave}), policy=policy)[0] == 1


def test_where_the_reflex_saves_single_requests_the_allocation_need_not_be_safe_by_itself() -> None:
    careful, behind_a_gate = server(5.0, 3), server(5.0, 3, late={"digits": samples(0.0)})
    assert after(careful)[0] == 2
    assert after(behind_a_gate)[0] == 3
    assert after(server(15.0, 3, late={"digits": samples(0.0)}))[0] < 3, "an overload is one all the same"


def test_what_clients_saw_late_counts_instead_of_what_waits() -> None:
    queue = server(5.0, 2, pending={"digits": samples(30.0)}, late={"digits": samples(0.0)})
    assert after(queue, looseness=8.0, judged_seconds=NOW - 60)[2]["judged_seconds"] == NOW - 60
    late = server(5.0, 2, late={"digits": samples(1.0)})
    assert after(late, looseness=8.0, judged_seconds=NOW - 60)[2]["judged_seconds"] == NOW


def test_what_is_late_while_its_cause_is_given_up_is_no_news() -> None:
    late = server(5.0, 2, late={"digits": samples(1.0)})
    before: dict[str, Any] = {"looseness": 1.0, "judged_seconds": NOW - 60}
    for since_down, judged in ((1.0, NOW - 60), (4.0, NOW - 60), (10.0, NOW), (-10.0, NOW)):
        assert after(late, down_seconds=NOW - since_down, **before)[2]["judged_seconds"] == judged, since_down
    too_much = server(40.0, 2, late={"digits": samples(1.0)})
    wanted, code, kept = after(too_much, **before)
    assert (wanted, code, kept["judged_seconds"]) == (1, Code.STEP_DOWN, NOW - 60)
    assert kept["down_seconds"] == NOW
    assert after(server(5.0, 2, pending={"digits": samples(30.0)}), down_seconds=NOW - 1.0, **before)[2][
        "judged_seconds"
    ] == NOW, "without the reflex a queue that is late is measured, and grows on"  # fmt: skip


def test_what_a_load_uses_is_no_cost_of_inferences() -> None:
    """A standby was loaded ten seconds ago, and has taken more CPU than all inferences together."""
    loads = (*samples(0.15, NOW - 12, 48), *samples(0.6, NOW - 6, 6), *samples(0.15, NOW, 6))
    busy = server(5.0, 2, utilization=loads)

    def factor(**remembered: Any) -> tuple[float, Any]:
        memory = {"servers": {"a": {"since_seconds": NOW - 20, **remembered}}}
        plan, kept = Frontier().decide(PoolSnapshot(NOW, (busy,), (TASK,)), memory)
        found: Any = kept["servers"]
        return plan.reasons[0].numbers["factor"], found["a"]

    same = digest(busy.loaded)
    assert factor(loaded=same)[0] > 1.5
    assert factor(loaded=same, loaded_seconds=NOW - 11)[0] == pytest.approx(1.0)
    assert factor(loaded=same + 1)[0] == 1.0, "something has been loaded just now"
    assert factor(loaded=same + 1)[1] | {"loaded": same, "loaded_seconds": NOW} == factor(loaded=same + 1)[1]
    assert "loaded_seconds" not in factor()[1], "an operator that starts knows of no change"


def test_a_small_gain_is_worth_its_load_once_it_has_been_calm() -> None:
    """From 97 to 100 % of the best accuracy, with a load between."""
    close = tuple(
        replace(version, accuracy=accuracy) for version, accuracy in zip(TASK.versions, (0.7, 0.92, 0.95), strict=True)
    )
    task, calm = replace(TASK, versions=close), server(0.2, 2, loaded={"digits": frozenset({1, 2})})
    for waited, wanted in ((10, 2), (20, 2), (50, 3), (600, 3)):
        assert after(calm, task, since_seconds=NOW - waited)[0] == wanted, waited
    assert after(calm, task, Frontier(FrontierParameters(price_seconds=1e9)), since_seconds=NOW - 600)[0] == 2


@pytest.mark.parametrize(("gain", "wanted"), [(0.12, {"left": 2, "right": 1}), (0.15, {"left": 1, "right": 2})])
def test_one_task_steps_down_for_another_only_for_more_than_a_little(gain: float, wanted: dict[str, int]) -> None:
    """There is room for one of two; `left` has it, and loses a tenth of its accuracy without."""
    profiles = {1: {"pi": Profile(100, None, 0.01)}, 2: {"pi": Profile(10, None, 0.1)}}
    tasks = tuple(
        TaskState(name, (Version(1, 1.0 - less, profiles[1]), Version(2, 1.0, profiles[2])), 0.4)
        for name, less in (("left", 0.1), ("right", gain))
    )
    state = ServerState(
        "a", "pi", 1.0, utilization=samples(0.495), demand={"left": samples(4.5), "right": samples(4.5)},
        active={"left": 2, "right": 1}, loaded={"left": frozenset({1, 2}), "right": frozenset({1, 2})},
    )  # fmt: skip
    loose = {"looseness": 100.0, "judged_seconds": NOW - 3600}
    memory = {"servers": {"a": {"factor": 1.0, "since_seconds": NOW - 600, **loose}}}
    for trade_price, expected in ((FrontierParameters().trade_price, wanted), (0.0, {"left": 1, "right": 2})):
        policy = Frontier(FrontierParameters(trade_price=trade_price))
        plan, _ = policy.decide(PoolSnapshot(NOW, (state,), tasks), memory)
        assert {name: target.active for name, target in plan.servers[0].targets.items()} == expected


def test_however_short_the_inferences_a_full_server_is_no_plan() -> None:
    """At 10 ms against 400, theory would let a core be 97 % busy."""
    assert after(server(80.0, 1))[0] == 1
    short = replace(
        TASK,
        versions=tuple(
            replace(v, profiles={"pi": Profile(10 / c, None, c / 10)})
            for v, c in zip(TASK.versions, CPU_SECONDS.values(), strict=True)
        ),
    )
    state = server(92.0, 3, utilization=samples(0.92))
    assert after(state, short)[0] < 3
    assert after(replace(state, late={"digits": samples(0.0)}), short)[0] == 3, (
        "but where the reflex saves what is late"
    )


def test_with_the_reflex_a_stricter_objective_is_planned_for_and_forgives_later() -> None:
    gated = server(5.0, 3, late={"digits": samples(0.0)})
    assert after(gated)[0] == 3
    assert after(gated, replace(TASK, objective=0.999999))[0] == 2, "a thousand times as many are not half of all"
    # Five requests a second: 99.9 % allow a late one each 200 s.
    minute_ago: dict[str, Any] = {"looseness": 0.01, "judged_seconds": NOW - 60}
    assert after(gated, **minute_ago)[0] == 2
    assert after(gated, **minute_ago | {"judged_seconds": NOW - 2000})[0] == 3
