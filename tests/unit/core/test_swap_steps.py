"""The order of a swap's steps, against its laws and against hand-made cases."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.core.plan import Target
from rung.core.swap_steps import Purpose, Step, plan_steps, wanted_versions

numbers = st.integers(min_value=1, max_value=9)
loaded_sets = st.frozensets(numbers, max_size=6)
targets = st.builds(Target, active=numbers, standby=st.lists(numbers, max_size=4).map(tuple))


def _sets(loaded: frozenset[int], steps: tuple[Step, ...]) -> list[frozenset[int]]:
    return [loaded, *(step.versions for step in steps)]


@given(loaded_sets, targets, st.booleans())
def test_steps_end_at_what_is_wanted_and_the_active_version_answers(
    loaded: frozenset[int], target: Target, free_first: bool
) -> None:
    final = _sets(loaded, plan_steps(loaded, target, free_first=free_first))[-1]
    assert final == wanted_versions(target)
    assert max(final) == target.active


@given(loaded_sets, targets, st.booleans())
def test_each_step_only_adds_or_only_drops_so_something_loaded_always_stays(
    loaded: frozenset[int], target: Target, free_first: bool
) -> None:
    sets = _sets(loaded, plan_steps(loaded, target, free_first=free_first))
    for before, after in itertools.pairwise(sets):
        assert before != after
        assert before < after or after < before
        assert after


@given(loaded_sets, targets, st.booleans())
def test_what_answers_changes_once_from_the_old_version_to_the_new(
    loaded: frozenset[int], target: Target, free_first: bool
) -> None:
    answering = [
        max(versions) for versions in _sets(loaded, plan_steps(loaded, target, free_first=free_first)) if versions
    ]
    changes = [pair for pair in itertools.pairwise(answering) if pair[0] != pair[1]]
    old = max(loaded, default=target.active)
    assert changes == ([] if old == target.active else [(old, target.active)])


@given(loaded_sets, targets, st.booleans(), st.data())
def test_a_swap_that_was_cut_short_anywhere_converges_from_there(
    loaded: frozenset[int], target: Target, free_first: bool, data: st.DataObject
) -> None:
    sets = _sets(loaded, plan_steps(loaded, target, free_first=free_first))
    left = sets[data.draw(st.integers(min_value=0, max_value=len(sets) - 1))]
    assert _sets(left, plan_steps(left, target))[-1] == sets[-1]


@given(targets)
def test_nothing_is_done_twice(target: Target) -> None:
    assert plan_steps(wanted_versions(target), target) == ()


@given(loaded_sets, targets)
def test_a_warm_swap_drops_before_anything_is_loaded(loaded: frozenset[int], target: Target) -> None:
    steps = plan_steps(loaded | {target.active}, target)
    assert all(step.purpose in {Purpose.SWITCH, Purpose.STANDBY} for step in steps)
    assert [step.purpose for step in steps].count(Purpose.SWITCH) <= 1
    assert all(step.purpose is not Purpose.SWITCH for step in steps[1:])


def _step(purpose: Purpose, *versions: int) -> Step:
    return Step(purpose, frozenset(versions))


@pytest.mark.parametrize(
    ("loaded", "target", "expected"),
    [
        pytest.param({2, 3}, Target(2), [_step(Purpose.SWITCH, 2)], id="warm down: one drop"),
        pytest.param(
            {2, 3},
            Target(2, (1,)),
            [_step(Purpose.SWITCH, 2), _step(Purpose.STANDBY, 1, 2)],
            id="warm down, then the next standby",
        ),
        pytest.param(
            {3}, Target(1), [_step(Purpose.READY, 1, 3), _step(Purpose.SWITCH, 1)], id="cold down: beside, then drop"
        ),
        pytest.param(
            {1, 2},
            Target(3, (2,)),
            [_step(Purpose.READY, 1, 2, 3), _step(Purpose.SWITCH, 2, 3)],
            id="up, old one stays",
        ),
        pytest.param({2}, Target(3, (2,)), [_step(Purpose.READY, 2, 3)], id="up: nothing to drop"),
        pytest.param(set(), Target(3), [_step(Purpose.READY, 3)], id="first load"),
        pytest.param(
            {1}, Target(2, (3, 1)), [_step(Purpose.READY, 1, 2)], id="a standby with a higher number is never loaded"
        ),
        pytest.param(
            {1, 3}, Target(1, (3,)), [_step(Purpose.SWITCH, 1)], id="and is dropped, as it would answer instead"
        ),
        pytest.param(
            {5}, Target(5, (3, 4)), [_step(Purpose.STANDBY, 3, 5), _step(Purpose.STANDBY, 3, 4, 5)], id="nearest first"
        ),
    ],
)
def test_cases_by_hand(loaded: set[int], target: Target, expected: list[Step]) -> None:
    assert list(plan_steps(frozenset(loaded), target)) == expected


def test_short_of_memory_the_standbys_go_before_the_new_version_is_loaded() -> None:
    steps = plan_steps(frozenset({1, 2, 3}), Target(4, (3,)), free_first=True)
    assert list(steps) == [_step(Purpose.FREE, 3), _step(Purpose.READY, 3, 4)]
