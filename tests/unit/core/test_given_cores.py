"""A server that gets fewer cores than its limit says is seen, planned with, and relieved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example
from hypothesis import given as examples
from hypothesis import strategies as st

from rung.core.plan import Plan
from rung.core.policies.frontier import Frontier
from rung.core.policies.given import GROW_SECONDS, Given, given_cores, planned_cores
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
    return given_cores(state, before, NOW)


def test_what_is_used_while_requests_wait_is_what_it_gets() -> None:
    assert seen(server(0.3, 4.0)) == Given(0.3, NOW)
    assert seen(server(0.3, 4.0, cores=0.5)) == Given(0.15, NOW)
    assert seen(server(0.97, 4.0)) is None, "a full server gets what it should"
    assert seen(server(0.3, 0.0)) is None, "an idle one needs no more"
    assert seen(server(0.3, 4.0, cores=2.0)) is None, "one task that waits may have no use for a second core"
    assert seen(server(0.0, 4.0)) == Given(0.25, NOW), "one that hangs is another matter"


def test_it_was_busy_only_if_it_was_looked_at_often_and_all_the_time() -> None:
    busy = server(0.3, 4.0)
    now_and_then = replace(busy, pending={"digits": samples(4.0)[::15]})
    assert seen(now_and_then) is None, "between two looks it may have been idle"
    for_a_moment = replace(busy, pending={"digits": samples(0.0, 4.0, 4.0, 4.0)})
    assert seen(for_a_moment) is None, "the one measure of CPU is of the time before, too"
    measured = replace(for_a_moment, utilization=samples(0.1, 0.3, 0.29, 0.3))
    assert seen(measured) == Given(0.3, NOW)
    assert seen(replace(measured, utilization=samples(0.1, 0.3, 0.6, 0.8))) is None, "not what a full server looks like"
    assert seen(replace(measured, utilization=samples(0.1, 0.3, 0.29, 0.3)[:-5])) is None, "measured before it was busy"


def test_what_was_seen_is_believed_less_and_less() -> None:
    state, before = server(0.3, 0.0), Given(0.3, NOW - GROW_SECONDS)
    assert seen(state, before) == before
    assert planned_cores(state, before, NOW) == pytest.approx(0.6)
    assert seen(server(0.55, 0.0), before) == before, "no more than it is thought to get by now"
    assert seen(server(0.7, 0.0), before) == Given(1.0, NOW - GROW_SECONDS), "it uses more than that"
    assert seen(server(1.0, 4.0), before) == Given(1.0, NOW - GROW_SECONDS), "it is full"
    assert seen(state, Given(0.3, NOW - 3600)) is None
    assert seen(replace(state, disturbed_seconds=NOW - 30), before) is None, "it is another container since"
    assert seen(state, Given(0.3, NOW + 3600)) == Given(0.3, NOW), "of a clock that was wrong"


@example(used=0.0, waiting=1.0, cores=5e-324, before=None)
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


def test_what_it_used_while_it_was_short_says_nothing_of_costs_afterwards() -> None:
    """For 40 s it used 0.15 cores where 0.3 were asked for, then ten seconds what it should."""
    state = server(0.3, 0.0)
    short = replace(state, utilization=samples(0.15, *[0.3] * 10))
    since = {"factor": 1.0, "since_seconds": NOW - 50, "given_cores": 0.5, "given_seconds": NOW - 10}
    _, kept = Frontier().decide(PoolSnapshot(NOW, (short,), (TASK,)), {"servers": {"a": since}})
    assert kept["servers"]["a"]["factor"] == pytest.approx(1.0, abs=0.01)  # type: ignore[index]


def test_the_others_get_its_requests_at_once() -> None:
    states = server(0.2, 3.0, "a"), server(0.3, 0.0, "b")
    half = {"digits": {"a": 0.5, "b": 0.5}}
    plan, _ = decided(states, shares=half)
    weights = {each.server: each.weights["digits"] for each in plan.servers}
    assert weights["a"] == pytest.approx(0.3)
    assert weights["b"] == pytest.approx(0.7)
