from __future__ import annotations

from itertools import pairwise
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.core import chain
from rung.core.chain import Climber
from rung.core.frontier import Metric, dominated_by, ladder, metric_of, normalized_accuracy
from rung.core.snapshot import Profile, TaskState, Version


def version(
    number: int, accuracy: float, throughput: float | None, cls: str = "pi", flops: float | None = None
) -> Version:
    return Version(number, accuracy, {} if throughput is None else {cls: Profile(throughput)}, flops)


def numbers(versions: tuple[Version, ...]) -> list[int]:
    return [one.number for one in versions]


def test_ladder_rises_from_the_cheapest() -> None:
    versions = [version(3, 0.99, 10), version(1, 0.9, 100), version(2, 0.95, 50)]
    assert numbers(ladder(versions, "pi")) == [1, 2, 3]


def test_beaten_versions_are_left_out() -> None:
    versions = [version(1, 0.9, 100), version(2, 0.89, 60), version(3, 0.99, 10)]
    assert numbers(ladder(versions, "pi")) == [1, 3]
    beaten = dominated_by(versions[1], versions, "pi")
    assert beaten is not None
    assert beaten.number == 1
    assert dominated_by(versions[0], versions, "pi") is None


def test_ties() -> None:
    # Same throughput: the more accurate. Same accuracy: the faster. Same both: the later number.
    versions = [version(1, 0.9, 100), version(2, 0.91, 100), version(3, 0.91, 90), version(4, 0.91, 100)]
    assert numbers(ladder(versions, "pi")) == [4]
    beaten = dominated_by(versions[1], versions, "pi")
    assert beaten is not None
    assert beaten.number == 4


def test_without_any_profile_the_most_accurate_version_is_the_ladder() -> None:
    versions = [version(1, 0.9, None), version(2, 0.95, 50, "other"), version(3, 0.93, None)]
    assert numbers(ladder(versions, "pi")) == [2]
    assert dominated_by(versions[0], versions, "pi") is None


def test_version_without_a_profile_is_off_the_ladder_of_those_that_have_one() -> None:
    assert numbers(ladder([version(1, 0.9, 100), version(2, 0.99, None)], "pi")) == [1]


@pytest.mark.parametrize("throughput", [0.0, -5.0, nan, inf, 1e-300])
def test_senseless_throughput_is_no_profile(throughput: float) -> None:
    assert metric_of(version(1, 0.9, throughput), "pi") is None


@pytest.mark.parametrize("accuracy", [nan, -0.1, 1.1, inf])
def test_senseless_accuracy_is_ignored(accuracy: float) -> None:
    assert ladder([version(1, accuracy, 10)], "pi") == ()


def test_other_metrics() -> None:
    versions = [version(1, 0.9, 100, flops=5.0), version(2, 0.95, 200, flops=9.0)]
    assert numbers(ladder(versions, "pi")) == [2]
    assert numbers(ladder(versions, "pi", Metric.FLOPS)) == [1, 2]
    assert numbers(ladder(versions, "pi", Metric.LATENCY)) == [2]  # no latencies: the most accurate alone


def test_normalised_accuracy_is_a_share_of_the_best_registered() -> None:
    task = TaskState("digits", (version(1, 0.45, 10), version(2, 0.9, None)), 0.4)
    assert normalized_accuracy(task.versions[0], task) == pytest.approx(0.5)
    nothing = TaskState("digits", (version(1, 0.0, 10),), 0.4)
    assert normalized_accuracy(nothing.versions[0], nothing) == 1


_versions = st.lists(
    st.builds(
        version,
        st.integers(1, 30),
        st.floats(0, 1) | st.sampled_from([0.5, 0.9]),
        st.none() | st.floats(0.1, 1e4) | st.sampled_from([1.0, 10.0]),
    ),
    max_size=12,
    unique_by=lambda one: one.number,
)


@given(_versions)
def test_ladder_is_exactly_what_nobody_beats(versions: list[Version]) -> None:
    rungs = ladder(versions, "pi")
    profiled = [one for one in versions if metric_of(one, "pi") is not None]
    if profiled:
        assert {one.number for one in rungs} == {
            one.number for one in profiled if dominated_by(one, versions, "pi") is None
        }
    else:
        assert len(rungs) == bool(versions)
    for low, high in pairwise(rungs):
        assert low.accuracy < high.accuracy
        assert (metric_of(low, "pi") or 0) < (metric_of(high, "pi") or 0)


_climbers = st.dictionaries(
    st.text(max_size=3),
    st.integers(1, 6).flatmap(
        lambda count: st.builds(
            Climber,
            st.lists(st.floats(1e-6, 1e3), min_size=count, max_size=count, unique=True).map(lambda m: tuple(sorted(m))),
            st.lists(st.floats(0, 1), min_size=count, max_size=count, unique=True).map(lambda a: tuple(sorted(a))),
            st.just(0.0) | st.floats(0, 1e4),
        )
    ),
    max_size=5,
)


@given(_climbers)
def test_chain_starts_at_the_best_falls_and_ends_at_the_cheapest(climbers: dict[str, Climber]) -> None:
    built = chain.build(climbers)
    assert built.allocation(0) == {task: len(climber.metrics) - 1 for task, climber in climbers.items()}
    assert built.allocation(len(built.steps)) == dict.fromkeys(climbers, 0)
    assert list(built.totals) == sorted(built.totals, reverse=True)
    for point, total in enumerate(built.totals):
        assert built.total(built.allocation(point)) == pytest.approx(total, rel=1e-6, abs=built.totals[0] * 1e-9)


@given(_climbers, st.floats(0, 1e7))
def test_points_are_found_by_their_total(climbers: dict[str, Climber], limit: float) -> None:
    built = chain.build(climbers)
    first = built.first_at_most(limit)
    expected = [point for point, total in enumerate(built.totals) if total <= limit + built.slack]
    assert first == (expected[0] if expected else None)
    below = built.first_below(limit)
    if below is not None:
        assert built.totals[below] < limit or built.totals[below] <= built.slack
    above = built.last_above(limit)
    if above is not None:
        assert built.totals[above] > limit
