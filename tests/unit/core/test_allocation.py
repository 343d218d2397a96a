"""The allocation is the optimum, whatever the choices: compared with every allocation there is."""

from __future__ import annotations

import itertools
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.core.allocation import Choice, best_allocation

limits = st.sampled_from([0.2, 0.5, 0.8, 1.0, 1.5, inf, -inf])
choices = st.builds(Choice, st.floats(0, 1), st.floats(0, 1), limits)
pools = st.lists(st.lists(choices, min_size=1, max_size=4), max_size=4)


def keeps(chosen: tuple[Choice, ...]) -> bool:
    total = sum(choice.load for choice in chosen)
    return all(total <= choice.most_total * (1 + 1e-9) for choice in chosen)


def brute_force(tasks: list[list[Choice]]) -> float:
    return max((sum(c.value for c in chosen) for chosen in itertools.product(*tasks) if keeps(chosen)), default=-inf)


@settings(max_examples=400, deadline=None)
@given(pools)
def test_it_is_the_best_of_all_that_keep_their_limits(tasks: list[list[Choice]]) -> None:
    found = best_allocation(tasks)
    best = brute_force(tasks)
    assert found.gap == 0
    if found.choices is None:
        assert best == -inf
        return
    chosen = tuple(tasks[task][place] for task, place in enumerate(found.choices))
    assert keeps(chosen)
    assert sum(choice.value for choice in chosen) == pytest.approx(found.value)
    assert found.value == pytest.approx(best, abs=1e-7)


@settings(max_examples=100, deadline=None)
@given(pools, st.floats(1, 3))
def test_higher_limits_never_lower_the_optimum(tasks: list[list[Choice]], factor: float) -> None:
    wider = [[Choice(c.value, c.load, c.most_total * factor) for c in ladder] for ladder in tasks]
    assert best_allocation(wider).value >= best_allocation(tasks).value - 1e-9


def test_no_task_is_an_empty_allocation_and_a_task_without_a_choice_none_at_all() -> None:
    assert best_allocation([]).choices == ()
    assert best_allocation([[], [Choice(1, 0, 1)]]).choices is None
    assert best_allocation([[Choice(1, 0, -inf)]]).choices is None


def test_a_search_that_is_cut_off_says_by_how_much_it_may_be_wrong() -> None:
    ladder = [Choice(step**0.9 + task * 0.01, step + task * 0.013, 7.03) for task in range(1) for step in range(6)]
    tasks = [[Choice(c.value + k * 0.011, c.load + k * 0.017, 7.03) for c in ladder] for k in range(5)]
    whole, cut = best_allocation(tasks), best_allocation(tasks, most_steps=15)
    assert whole.gap == 0
    assert cut.gap > 0
    assert cut.value + cut.gap >= whole.value - 1e-9
