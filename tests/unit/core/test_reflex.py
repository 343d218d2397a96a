"""The reflex: never above the allocation, in time where that can be, and as accurate as that allows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rung.core.frontier import Metric
from rung.core.reflex import NOTHING, ReflexTask, choose, reflex_tasks
from rung.core.snapshot import Mode, PoolSnapshot, Profile, ServerState, TaskState, Version

ladders = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6).map(sorted)
CPU_SECONDS = {1: 0.01, 2: 0.03, 3: 0.1}
TASK = TaskState(
    "digits",
    tuple(Version(n, 0.5 + 0.15 * n, {"pi": Profile(1 / c, None, c)}) for n, c in CPU_SECONDS.items()),
    0.4,
)
SERVER = ServerState("a", "pi", 1.0)


@given(ladders, st.integers(0, 20), st.floats(-1, 2), st.data())
def test_its_laws(seconds: list[float], in_flight: int, slack: float, data: st.DataObject) -> None:
    loaded = sorted(data.draw(st.sets(st.sampled_from(range(len(seconds))), min_size=1)))
    chosen = choose(loaded, in_flight, seconds, slack)
    assert chosen in loaded
    fits = [rung for rung in loaded if (in_flight + 1) * seconds[rung] <= slack]
    assert chosen == (max(fits) if fits else loaded[0])
    assert choose(loaded, in_flight + 1, seconds, slack) <= chosen, "a longer queue never asks for more"
    assert choose(loaded, in_flight, seconds, slack + 1) >= chosen


def test_nothing_loaded_gives_nothing() -> None:
    assert choose([], 0, [0.1], 1.0) == NOTHING


def test_the_gate_is_held_against_the_same_cases() -> None:
    """`gate/reflex` is the same function in Go: its own tests read this file, too."""
    cases = json.loads((Path(__file__).parents[3] / "gate/reflex/testdata/choose.json").read_text())
    for case in cases:
        seconds = case["serviceSeconds"]
        assert choose(range(len(seconds)), case["waiting"], seconds, case["slackSeconds"]) == case["place"], case
    assert {case["place"] for case in cases} >= {NOTHING, 0, 1, 2, 3}


def tasks(*states: TaskState) -> dict[str, ReflexTask]:
    return reflex_tasks(PoolSnapshot(0.0, (SERVER,), states), SERVER, Metric.INVERSE_THROUGHPUT)


def test_a_server_may_choose_among_what_may_be_served_there() -> None:
    assert tasks(replace(TASK, best_effort=True)) == {"digits": ReflexTask(0.4, True, CPU_SECONDS)}
    assert tasks(replace(TASK, min_accuracy=0.8))["digits"].service_seconds == {2: 0.03, 3: 0.1}


def test_who_leaves_no_choice_is_not_chosen_for() -> None:
    unmeasured = replace(TASK, versions=(Version(1, 0.9, {}),))
    elsewhere = replace(TASK, servers=frozenset({"b"}))
    modes = [replace(TASK, mode=mode, pinned_version=1) for mode in (Mode.PINNED, Mode.RECOMMEND)]
    for state in (unmeasured, elsewhere, *modes):
        assert tasks(state) == {}
