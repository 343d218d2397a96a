"""A server that gets fewer cores than its limit says is seen, planned with, and relieved."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from rung.core.plan import Plan
from rung.core.policies.frontier import Frontier
from rung.core.policies.lane import lanes_on
from rung.core.policies.learning import GROW_SECONDS, Given, given_cores, planned_cores
from rung.core.snapshot import PoolSnapshot, Profile, Sample, ServerState, TaskState, Version

NOW = 1000.0
COSTS = {1: 0.02, 2: 0.06, 3: 0.1}
LADDER = tuple(Version(n, 0.4 + 0.2 * n, {"pi": Profile(1 / c, None, c)}) for n, c in COSTS.items())
TASK = TaskState("digits", LADDER, 0.4)


def samples(*values: float, seconds: int = 60) -> tuple[Sample, ...]:
    """Return one sample a second until now; the first value counts for all seconds before."""
    whole = [values[0]] * (seconds - len(values)) + list(values)
    return tuple(Sample(NOW - seconds + 1 + k, value) for k, value in enumerate(whole))


def server(used: float, waiting: float, name: str = "a", cores: float = 1.0, active: int = 2) -> ServerState:
    return ServerState(
        name, "pi", cores, utilization=samples(used), demand={"digits": samples(5.0)},
        pending={"digits": samples(waiting)}, active={"digits": active}, loaded={"digits": frozenset({1, 2, 3})},
        wanted={"digits": active},
    )  # fmt: skip


def seen(state: ServerState, before: Given | None = None) -> Given | None:
    return given_cores(state, lanes_on(PoolSnapshot(NOW, (state,), (TASK,)), state), before, NOW)


def test_what_is_used_while_requests_wait_is_what_it_gets() -> None:
    assert seen(server(0.3, 4.0)) == Given(0.3, NOW)
    assert seen(server(0.3, 4.0, cores=0.5)) == Given(0.15, NOW)
    assert seen(server(0.97, 4.0)) is None, "a full server gets what it should"
    assert seen(server(0.3, 0.0)) is None, "an idle one needs no more"
    assert seen(server(0.3, 4.0, cores=2.0)) is None, "one task that waits may have no use for a second core"
    assert seen(server(0.0, 4.0)) == Given(0.1, NOW), "never nothing"


def test_what_was_seen_is_believed_less_and_less() -> None:
    state, before = server(0.3, 0.0), Given(0.3, NOW - GROW_SECONDS)
    assert seen(state, before) == before
    assert planned_cores(state, before, NOW) == pytest.approx(0.6)
    assert seen(state, Given(0.3, NOW - 2 * GROW_SECONDS)) is None
    assert seen(server(0.5, 0.0), before) == Given(0.5, NOW), "it uses more than was thought it gets"


@examples(
    used=st.floats(allow_nan=True), waiting=st.floats(allow_nan=True), cores=st.floats(allow_nan=True),
    before=st.none() | st.builds(Given, st.floats(1e-6, 1e6), st.floats(0, 2000)),
)  # fmt: skip
def test_there_are_always_cores_to_plan_with_and_never_more_than_there_are(
    used: float, waiting: float, cores: float, before: Given | None
) -> None:
    state = server(used, waiting, cores=cores)
    planned = planned_cores(state, seen(state, before), NOW)
    assert 0 < planned <= planned_cores(state, None, NOW)


def decided(states: tuple[ServerState, ...], **memory: Any) -> tuple[Plan, Any]:
    servers = {state.name: {"factor": 1.0, "since_seconds": NOW - 100} for state in states}
    balanced = len(states) > 1
    return Frontier().decide(PoolSnapshot(NOW, states, (TASK,), balanced=balanced), {"servers": servers, **memory})


def test_it_steps_down_for_the_cores_that_are_left_and_says_so() -> None:
    """At 5 requests a second version 2 takes 0.3 cores: of one core that is little, of a third it is all."""
    plan, kept = decided((server(0.3, 1.0),))
    assert plan.servers[0].targets["digits"].active == 1
    assert "of the 0.3 cores that it seems to get (its limit: 1)" in plan.reasons[0].sentence
    assert kept["servers"]["a"]["factor"] == 1.0, "it says nothing of what inferences cost"
    assert (kept["servers"]["a"]["given_cores"], kept["servers"]["a"]["given_seconds"]) == (0.3, NOW)
    calm, _ = decided((server(0.3, 0.0),))
    assert calm.servers[0].targets["digits"].active >= 2


def test_the_others_get_its_requests_at_once() -> None:
    states = server(0.2, 3.0, "a"), server(0.3, 0.0, "b")
    half = {"digits": {"a": 0.5, "b": 0.5}}
    plan, _ = decided(states, shares=half)
    weights = {each.server: each.weights["digits"] for each in plan.servers}
    assert weights["a"] == pytest.approx(0.3)
    assert weights["b"] == pytest.approx(0.7)
