from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.core.signals import (
    RawSeries,
    age_seconds,
    demand_rps,
    demand_samples,
    one_target,
    pending_samples,
    recent_values,
    utilization_samples,
)
from rung.core.snapshot import Sample, ServerState, TaskState


def series(values: dict[float, float], **labels: str) -> RawSeries:
    return RawSeries(labels, tuple(Sample(time, value) for time, value in values.items()))


def pairs(samples: tuple[Sample, ...]) -> list[tuple[Any, Any]]:
    return [(sample.time_seconds, pytest.approx(sample.value)) for sample in samples]


class TestUtilization:
    def test_is_cpu_seconds_per_second_and_core(self) -> None:
        counter = series({0: 10, 1: 11, 2: 11.5})
        assert pairs(utilization_samples([counter], 2.0)) == [(1, 0.5), (2, 0.25)]

    def test_of_a_gap_is_one_sample_a_second(self) -> None:
        assert pairs(utilization_samples([series({0: 0, 3: 1.5})], 1.0)) == [(1, 0.5), (2, 0.5), (3, 0.5)]

    def test_of_a_gap_too_long_is_not_known(self) -> None:
        assert pairs(utilization_samples([series({0: 0, 60: 1, 61: 1.3})], 1.0)) == [(61, 0.3)]

    def test_leaves_out_the_interval_of_a_reset(self) -> None:
        assert pairs(utilization_samples([series({0: 500, 1: 0.2, 2: 0.7})], 1.0)) == [(2, 0.5)]

    def test_takes_the_last_of_equal_times_in_any_order(self) -> None:
        counter = RawSeries({}, (Sample(1, 9.0), Sample(1, 1.0), Sample(0, 0.0), Sample(2, 1.5)))
        assert pairs(utilization_samples([counter], 1.0)) == [(1, 1.0), (2, 0.5)]

    def test_leaves_out_what_is_no_number(self) -> None:
        counter = series({0: 0, 1: nan, 2: 1, 3: inf, 4: 2})
        assert pairs(utilization_samples([counter], 1.0)) == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5)]

    def test_joins_scrapes_that_are_too_close(self) -> None:
        assert pairs(utilization_samples([series({0: 0, 0.1: 0.1, 1: 0.5})], 1.0)) == [(1, 0.5)]

    def test_adds_containers_of_one_scrape(self) -> None:
        assert pairs(utilization_samples([series({0: 0, 1: 0.2}, id="a"), series({0: 5, 1: 5.3}, id="b")], 1.0)) == [
            (1, 0.5)
        ]

    def test_counts_a_server_that_two_jobs_scrape_once(self) -> None:
        twice = [series({0: 0, 1: 0.2}, job="a"), series({0.3: 0.1, 1.3: 0.4}, job="b")]
        assert pairs(utilization_samples(twice, 1.0)) == [(pytest.approx(1.3), 0.3)]

    def test_is_capped_where_it_can_only_be_a_fault(self) -> None:
        assert pairs(utilization_samples([series({0: 0, 1: 900})], 1.0)) == [(1, 2.0)]

    @pytest.mark.parametrize("capacity", [0.0, -1.0, nan, inf])
    def test_without_a_capacity_is_not_known(self, capacity: float) -> None:
        assert utilization_samples([series({0: 0, 1: 1})], capacity) == ()


class TestDemand:
    def test_is_completions_and_change_of_pending(self) -> None:
        samples = demand_samples(
            [series({0: 100, 1: 110, 2: 115}, model="digits", version="1")],
            [series({0: 1, 1: 3, 2: 3}, model="digits", version="1")],
            [series({0: 0, 1: 5, 2: 2}, model="digits", version="1")],
        )
        # Second 1: 10 answered, 2 failed, 5 more wait. Second 2: 5 answered, 3 of them had waited.
        assert pairs(samples["digits"]) == [(1, 17), (2, 2)]

    def test_goes_on_when_versions_are_swapped(self) -> None:
        samples = demand_samples(
            [
                series({0: 100, 1: 110, 2: 118}, model="digits", version="1"),
                series({2: 2, 3: 12, 4: 22}, model="digits", version="2"),
            ],
            [],
            [
                series({0: 0, 1: 3, 2: 3}, model="digits", version="1"),
                series({2: 0, 3: 0, 4: 0}, model="digits", version="2"),
            ],
        )
        # Version 2 appears at 2 having counted 2; version 1 vanishes after 2 with 3 pending: no negative demand.
        assert pairs(samples["digits"]) == [(1, 13), (2, 10), (3, 10), (4, 10)]

    def test_first_value_of_the_first_scrape_is_no_arrival(self) -> None:
        samples = demand_samples([series({5: 1000, 6: 1001}, model="digits")], [], [])
        assert pairs(samples["digits"]) == [(6, 1)]

    def test_new_model_counts_from_nothing_when_the_server_was_scraped(self) -> None:
        samples = demand_samples(
            [series({0: 7, 1: 7, 2: 7}, model="parity"), series({1: 4, 2: 6}, model="digits")], [], []
        )
        assert pairs(samples["digits"]) == [(1, 4), (2, 2)]
        assert pairs(samples["parity"]) == [(1, 0), (2, 0)]

    def test_series_that_was_gone_counts_from_nothing(self) -> None:
        samples = demand_samples(
            [series({0: 7, 1: 7, 2: 7}, model="parity"), series({0: 50, 2: 3}, model="digits")], [], []
        )
        assert pairs(samples["digits"]) == [(2, 3)]

    def test_reset_counts_what_was_counted_since(self) -> None:
        samples = demand_samples([series({0: 50, 1: 60, 2: 4}, model="digits")], [], [])
        assert pairs(samples["digits"]) == [(1, 10), (2, 4)]

    def test_value_that_is_no_number_moves_to_the_next_scrape(self) -> None:
        samples = demand_samples([series({0: 50, 1: nan, 2: 54}, model="digits")], [], [])
        assert pairs(samples["digits"]) == [(1, 0), (2, 4)]

    def test_series_that_starts_without_a_number_is_no_burst(self) -> None:
        samples = demand_samples(
            [series({0: 1, 1: 1, 2: 1}, model="parity"), series({0: nan, 1: 5000, 2: 5002}, model="digits")], [], []
        )
        assert pairs(samples["digits"]) == [(1, 0), (2, 2)]

    def test_counts_a_server_that_two_jobs_scrape_once(self) -> None:
        one = [series({0: 0, 1: 4}, model="digits", job=job, instance="x") for job in ("a", "b")]
        assert pairs(demand_samples(one, [], [])["digits"]) == [(1, 4)]

    def test_series_without_a_model_are_left_out(self) -> None:
        assert demand_samples([series({0: 0, 1: 4})], [], []) == {}


def test_what_waits_is_the_sum_of_a_models_versions_at_one_server() -> None:
    found = pending_samples(
        [
            series({0: 1, 1: 2}, model="digits", version="1"),
            series({1: 3, 2: nan, 3: -1}, model="digits", version="2"),
            series({1: 5}, model="parity", version="1"),
            series({0: 9}, model="digits", job="older"),
            series({1: 7}),
        ]
    )
    assert {model: pairs(samples) for model, samples in found.items()} == {
        "digits": [(0, 1), (1, 5)],
        "parity": [(1, 5)],
    }


def test_target_with_the_newest_sample_is_kept() -> None:
    old, new = series({0: 0, 1: 1}, job="a"), series({0: 0, 2: 1}, job="b")
    assert one_target([old, new]) == [new]
    assert one_target([]) == []


def test_age_and_window() -> None:
    samples = [Sample(90, 1.0), Sample(91, 2.0), Sample(99, nan), Sample(102, 3.0)]
    assert age_seconds(samples[:3], 100) == 9
    assert age_seconds(samples, 100) == 0  # its clock is ahead
    assert age_seconds([], 100) is None
    assert age_seconds([Sample(1, nan)], 100) is None
    assert recent_values(samples, 100, 10) == [2.0, 3.0]


def test_demand_is_declared_else_observed_else_not_known() -> None:
    task = TaskState("digits", (), 0.4)
    declared = TaskState("digits", (), 0.4, declared_demand_rps=9.0)
    server = ServerState("a", "pi", 1.0, demand={"digits": (Sample(95, 4.0), Sample(99, 8.0))})
    assert demand_rps(declared, server, 3, 100, 10) == 3
    assert demand_rps(task, server, 3, 100, 10) == 6
    assert demand_rps(task, server, 3, 200, 10) is None


_any = st.floats(width=64)
_raw = st.builds(
    RawSeries,
    st.dictionaries(st.sampled_from(["model", "job", "version"]), st.sampled_from(["a", "b"])),
    st.lists(st.builds(Sample, _any | st.integers(0, 30).map(float), _any), max_size=8).map(tuple),
)


@given(st.lists(_raw, max_size=4), st.lists(_raw, max_size=4), st.lists(_raw, max_size=4), _any)
def test_any_input_gives_finite_signals_in_order(
    first: list[RawSeries], second: list[RawSeries], third: list[RawSeries], capacity: float
) -> None:
    found = [utilization_samples(first, capacity), *demand_samples(first, second, third).values()]
    found += pending_samples(first).values()
    for samples in found:
        times = [sample.time_seconds for sample in samples]
        assert times == sorted(times)
        assert all(0 <= sample.value <= 1e9 for sample in samples)
