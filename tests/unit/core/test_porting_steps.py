"""What a porting job does next, from the Jobs that there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.core.porting_steps import (
    MadeVersion,
    Plan,
    Report,
    StepState,
    Trials,
    Verdict,
    frontier,
    next_steps,
    trials,
)

PLAN = Plan(trials=5, parallel=2, family=1, classes=("fast", "slow"))
BASE = MadeVersion(0.95, 1000, "base")
DONE = StepState(finished=True, succeeded=True)
RUNS = StepState(running=True)
MADE = StepState(finished=True, succeeded=True, reports=(Report(made=True, versions=(MadeVersion(0.9, 100, "l1"),)),))
SEARCHED = {f"search-{place}": MADE for place in range(5)}


def keys(states: dict[str, StepState], plan: Plan = PLAN) -> list[str]:
    return [step.key for step in next_steps(plan, states).start]


def test_the_rounds_are_the_unpruned_network_the_family_and_the_trials_in_parallel() -> None:
    assert [(step.key, step.pods) for step in PLAN.rounds()] == [
        ("search-0", 1), ("search-1", 1), ("search-2", 2), ("search-3", 2), ("search-4", 1),
    ]  # fmt: skip
    assert [step.pods for step in Plan(0, 2, 0, ()).rounds()] == [1]


def test_one_step_after_the_other_and_all_classes_side_by_side() -> None:
    states: dict[str, StepState] = {}
    order = []
    while (found := next_steps(PLAN, states)).verdict is Verdict.GOES_ON:
        assert found.start, "nothing runs, so something is started"
        order.append([step.key for step in found.start])
        for step in found.start:
            states[step.key] = RUNS
        assert not next_steps(PLAN, states).start, "what runs is not started twice"
        states |= {step.key: DONE for step in found.start}
    assert found.verdict is Verdict.SUCCEEDED
    assert order == [
        *([f"search-{place}"] for place in range(5)), ["publish"], ["profile-fast", "profile-slow"], ["register"],
    ]  # fmt: skip


def test_a_search_that_says_it_is_over_is_not_asked_again() -> None:
    over = StepState(finished=True, succeeded=True, reports=(Report(over="the targets are met"),))
    assert keys({"search-0": MADE, "search-1": MADE, "search-2": over}) == ["publish"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (StepState(finished=True, message="no such module"), "the unpruned network: no such module"),
        (
            StepState(finished=True, succeeded=True, reports=(Report(made=True, failure="the loss became nan"),)),
            "the unpruned network: the loss became nan",
        ),
    ],
)
def test_without_the_unpruned_network_nothing_goes_on(state: StepState, message: str) -> None:
    found = next_steps(PLAN, {"search-0": state})
    assert (found.verdict, found.message, found.start) == (Verdict.FAILED, message, ())


def test_a_failed_trial_is_lost_and_no_other_one() -> None:
    failed = StepState(finished=True, failed_indexes=1, message="out of memory", reports=MADE.reports)
    states = {**SEARCHED, "search-2": failed}
    assert keys(states) == ["publish"]
    assert trials(PLAN, states) == Trials(planned=6, made=5, failed=1)
    assert next_steps(PLAN, {**SEARCHED, "publish": StepState(finished=True, message="denied")}).message == (
        "publishing: denied"
    )


def test_when_nothing_comes_of_two_trials_in_a_row_something_else_is_wrong() -> None:
    nothing = StepState(finished=True, failed_indexes=2, message="S3 does not answer")
    found = next_steps(PLAN, {**SEARCHED, "search-2": nothing})
    assert (found.verdict, found.message) == (
        Verdict.FAILED, "no pod of the last 2 trials came to an end: S3 does not answer"
    )  # fmt: skip
    alone = Plan(trials=3, parallel=1, family=0, classes=())
    states = {"search-0": MADE, "search-1": nothing, "search-2": MADE, "search-3": nothing}
    assert keys(states, alone) == ["publish"], "single ones are lost, and the others go on"
    assert next_steps(alone, {**states, "search-2": nothing}).verdict is Verdict.FAILED


def test_a_class_that_fails_is_said_at_the_end_and_stops_nothing() -> None:
    failed = StepState(finished=True, message="no node of this class")
    states = {**SEARCHED, "publish": DONE, "profile-fast": failed}
    assert keys(states) == ["profile-slow"]
    states |= {"profile-slow": DONE}
    assert keys(states) == ["register"]
    found = next_steps(PLAN, {**states, "register": DONE})
    assert found.verdict is Verdict.FAILED
    assert found.message == "the versions are registered, but profiling failed on fast: no node of this class"


def test_the_frontier_so_far_and_what_was_published() -> None:
    beaten = MadeVersion(0.89, 500, "l2")
    reports = (Report(made=True, versions=(BASE,)), Report(made=True, versions=(beaten,)))
    states = {"search-0": StepState(finished=True, succeeded=True, reports=reports), "search-2": MADE}
    assert frontier(PLAN, states) == (BASE, MadeVersion(0.9, 100, "l1"))
    published = MadeVersion(0.95, 1000, "base", 1_095_000)
    states["publish"] = StepState(finished=True, succeeded=True, reports=(Report(versions=(published,)),))
    assert frontier(PLAN, states) == (published,)


STATES = st.dictionaries(
    st.sampled_from([*SEARCHED, "publish", "profile-fast", "profile-slow", "register"]),
    st.builds(StepState, finished=st.booleans(), succeeded=st.booleans(), failed_indexes=st.integers(0, 3)),
)


@given(STATES)
def test_whatever_there_is_it_starts_only_what_is_not_there(states: dict[str, StepState]) -> None:
    found = next_steps(PLAN, states)
    assert not {step.key for step in found.start} & set(states)
    if found.verdict is not Verdict.GOES_ON:
        assert not found.start
        assert found.message
    running = any(not state.finished for state in states.values())
    assert found.verdict is not Verdict.SUCCEEDED or not running
