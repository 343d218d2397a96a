from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rung_demo.trace import TaskCapacity, demo_traces, read_start, scaled_traces
from rung_loadgen.trace import RatesArray, TraceError

CAPACITIES = (TaskCapacity("digit", 60, 500), TaskCapacity("parity", 90, 700))


def utilization(rates: dict[str, RatesArray], field: str) -> RatesArray:
    total: RatesArray = np.sum([rates[c.task] / getattr(c, field) for c in CAPACITIES], axis=0)
    return total


def test_it_starts_quiet_climbs_past_the_best_and_stays_below_the_cheapest() -> None:
    rates = {name: trace.rates_rps for name, trace in demo_traces(CAPACITIES).items()}
    of_best, of_cheapest = utilization(rates, "best_rps"), utilization(rates, "cheapest_rps")

    assert of_best.size == 300
    assert 0.25 < of_best[:15].mean() < 0.45
    assert (of_best > 1).sum() > 60
    assert 0.4 < of_cheapest.max() <= 0.5501
    assert of_best[-20:].mean() < 0.5


def test_the_same_seed_gives_the_same_trace_and_another_a_different_one() -> None:
    one, same, other = (demo_traces(CAPACITIES, seed=seed)["digit"].rates_rps for seed in (1, 1, 2))

    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("seconds", [1, 60, 900])
def test_it_stretches_to_any_length(seconds: int) -> None:
    for trace in demo_traces(CAPACITIES, seconds=seconds).values():
        assert trace.seconds == seconds
        assert np.isfinite(trace.rates_rps).all()
        assert (trace.rates_rps > 0).all()


@pytest.mark.parametrize(
    ("capacities", "message"),
    [
        ([], "no task"),
        ([TaskCapacity("a", 0, 10)], "a: its best version sustains 0"),
        ([TaskCapacity("a", 10, float("nan"))], "above 0"),
        ([TaskCapacity("a", 10, 5)], "at least as fast"),
        ([TaskCapacity("a", 10, 20)], "too little more than the best: the peak would ask for 110%"),
    ],
)
def test_capacities_that_make_no_climb_are_refused(capacities: list[TaskCapacity], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        demo_traces(capacities)


def test_a_file_of_any_size_is_scaled_to_the_machine(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("1000\n2000\n4000\n")
    trace = read_start(tmp_path / "t.txt", 300)
    traces = scaled_traces(trace, CAPACITIES)

    of_cheapest = sum(traces[c.task].rates_rps / c.cheapest_rps for c in CAPACITIES)
    assert np.allclose(of_cheapest, [0.1375, 0.275, 0.55])
    assert trace.name == "t.txt"


def test_of_a_long_file_the_start_is_taken_and_the_name_says_so(tmp_path: Path) -> None:
    (tmp_path / "late.txt").write_text("0\n0\n5\n")
    trace = read_start(tmp_path / "late.txt", 3)
    assert (trace.seconds, trace.name) == (3, "late.txt")
    with pytest.raises(TraceError, match="first 2 seconds is 0"):
        read_start(tmp_path / "late.txt", 2)
    (tmp_path / "long.txt").write_text("1\n" * 2000)
    assert read_start(tmp_path / "long.txt", 300).name == "the first 300 of 2,000 s of long.txt"
