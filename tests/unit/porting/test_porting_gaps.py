"""Where the search aims."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung_porting.search.gaps import Point, accuracy_at, frontier, gaps, next_costs

POINTS = st.lists(
    st.builds(Point, st.floats(1.0, 1e6), st.integers(0, 100).map(lambda each: each / 100)), min_size=1, max_size=12
)
BUSY = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # on a machine with other work


def test_the_largest_gap_comes_first_and_is_halved() -> None:
    points = [Point(1000.0, 0.9), Point(100.0, 0.8), Point(90.0, 0.79)]
    first, second = next_costs(points, 90.0, 2)
    assert first == pytest.approx((100 * 1000) ** 0.5)
    assert second == pytest.approx((100 * first) ** 0.5) or second == pytest.approx((1000 * first) ** 0.5)


def test_below_the_cheapest_the_search_goes_down_to_the_target_and_no_further() -> None:
    (only,) = next_costs([Point(1000.0, 0.9)], 10.0, 1)
    assert only == pytest.approx(100.0)
    assert next_costs([Point(12.0, 0.9)], 10.0, 3) == ()


def test_a_version_that_is_beaten_makes_no_gap() -> None:
    assert gaps([Point(100.0, 0.9), Point(50.0, 0.95)], 50.0) == ()


@BUSY
@given(POINTS)
def test_the_frontier_rises_in_both(points: list[Point]) -> None:
    along = frontier(points)
    assert all(a.cost < b.cost and a.accuracy < b.accuracy for a, b in itertools.pairwise(along))
    for point in points:
        assert any(each.cost <= point.cost and each.accuracy >= point.accuracy for each in along)


@BUSY
@given(POINTS, st.integers(1, 6))
def test_costs_lie_inside_the_frontier_and_differ(points: list[Point], count: int) -> None:
    least = 0.5
    costs = next_costs(points, least, count)
    assert len(costs) == count, "below the cheapest there is always room"
    assert len(set(costs)) == count
    assert all(least < cost < max(point.cost for point in points) for cost in costs)


@BUSY
@given(POINTS, st.floats(0.1, 1e7))
def test_what_the_frontier_has_lies_between_its_ends(points: list[Point], cost: float) -> None:
    along = frontier(points)
    assert along[0].accuracy <= accuracy_at(points, cost) <= along[-1].accuracy
    assert all(accuracy_at(points, each.cost) == pytest.approx(each.accuracy) for each in along)
