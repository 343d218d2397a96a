"""Numbers and frontier of a ladder."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung_porting.repository.ladder import Candidate, Rung, dominators, least_missed, number_versions

CANDIDATES = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 5)), max_size=12).map(
    lambda pairs: [Candidate(f"v{i}", accuracy / 50, float(cost)) for i, (accuracy, cost) in enumerate(pairs)]
)
BUSY = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # on a machine with other work


def test_the_number_is_generation_and_accuracy() -> None:
    assert number_versions([Candidate("a", 0.9882, 1.0)], generation=1) == {"a": 1_098_820}
    assert number_versions([Candidate("a", 1.0, 1.0)], generation=3) == {"a": 3_100_000}


def test_of_equals_the_cheaper_comes_first_and_a_taken_number_is_passed_over() -> None:
    candidates = [Candidate("dear", 0.9, 3.0), Candidate("cheap", 0.9, 1.0), Candidate("above", 0.90001, 0.5)]
    assert number_versions(candidates, 1) == {"cheap": 1_090_000, "dear": 1_090_001, "above": 1_090_002}


@BUSY
@given(CANDIDATES)
def test_numbers_are_unique_rise_with_accuracy_and_ignore_the_order(candidates: list[Candidate]) -> None:
    numbers = number_versions(candidates, 1)
    assert len(set(numbers.values())) == len(candidates)
    by_number = sorted(candidates, key=lambda each: numbers[each.name])
    assert [each.accuracy for each in by_number] == sorted(each.accuracy for each in candidates)
    assert number_versions(list(reversed(candidates)), 1) == numbers


def test_a_generation_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="generation 0"):
        number_versions([Candidate("a", 0.5, 1.0)], 0)


def test_who_is_beaten_and_by_whom() -> None:
    rungs = [Rung(4, 0.99, 10.0), Rung(3, 0.98, 5.0), Rung(2, 0.97, 6.0), Rung(1, 0.90, 1.0)]
    assert dominators(rungs) == {2: 3}


def test_of_twins_one_stays() -> None:
    assert dominators([Rung(1, 0.9, 1.0), Rung(2, 0.9, 1.0)]) == {2: 1}


@BUSY
@given(CANDIDATES)
def test_the_frontier_rises_in_cost_with_accuracy_and_is_never_empty(candidates: list[Candidate]) -> None:
    rungs = [Rung(index + 1, each.accuracy, each.cost) for index, each in enumerate(candidates)]
    beaten = dominators(rungs)
    frontier = sorted((rung for rung in rungs if rung.number not in beaten), key=lambda rung: rung.accuracy)
    assert bool(frontier) == bool(rungs)
    assert all(a.cost < b.cost and a.accuracy < b.accuracy for a, b in itertools.pairwise(frontier))
    assert set(beaten.values()) <= {rung.number for rung in frontier}


def test_the_least_missed_is_beaten_or_offers_least_and_no_end() -> None:
    ends = [Rung(5, 0.99, 100.0), Rung(1, 0.80, 1.0)]
    near, apart = Rung(4, 0.98, 90.0), Rung(3, 0.95, 10.0)
    assert least_missed([*ends, near, apart]) == near, "it saves a tenth"
    assert least_missed([*ends, near, apart], stays=4) == apart
    assert least_missed([*ends, near, apart, Rung(2, 0.94, 11.0)]) == Rung(2, 0.94, 11.0), "another one beats it"
    assert least_missed(ends) is None
    assert least_missed([]) is None


@BUSY
@given(CANDIDATES, st.integers(0, 12))
def test_leaving_out_the_least_missed_ends_with_the_ends(candidates: list[Candidate], stays: int) -> None:
    rungs = [Rung(index, each.accuracy, each.cost) for index, each in enumerate(candidates)]
    beaten = dominators(rungs)
    along = [rung for rung in rungs if rung.number not in beaten]
    ends = {min(along, key=lambda each: each.cost), max(along, key=lambda each: each.cost)} if along else set()
    left = list(rungs)
    while (missed := least_missed(left, stays)) is not None:
        left.remove(missed)
    assert set(left) == ends | {rung for rung in rungs if rung.number == stays}
