"""The age of a signal grows while it stays away, at the server where it is oldest."""

from __future__ import annotations

from typing import Any

from rung.control.signal_ages import SignalAges
from rung.core.snapshot import PoolSnapshot, Sample, ServerState, TaskState

DIGITS = TaskState("digits", (), 0.4)
LOADED: dict[str, Any] = {"loaded": {"digits": frozenset({1})}}


def _server(name: str, cpu: float | None = None, demand: float | None = None, **state: Any) -> ServerState:
    """Make a server by the times of its newest samples."""
    return ServerState(
        name,
        "default",
        1.0,
        utilization=() if cpu is None else (Sample(cpu - 1, 0.5), Sample(cpu, 0.5)),
        demand={} if demand is None else {"digits": (Sample(demand, 3.0),)},
        **state,
    )


def _follow(ages: SignalAges, now: float, *servers: ServerState) -> tuple[float | None, float | None]:
    ages.follow(PoolSnapshot(now, servers, (DIGITS,)), needs_demand=True)
    return ages.oldest("cpu"), ages.oldest("demand")


def test_the_age_goes_on_growing_when_the_samples_are_gone() -> None:
    ages = SignalAges()
    assert _follow(ages, 100.0, _server("a", 99.0, 98.0, **LOADED)) == (1.0, 2.0)
    assert _follow(ages, 140.0, _server("a", **LOADED)) == (41.0, 42.0)
    assert _follow(ages, 141.0, _server("a", 141.0, 140.0, **LOADED)) == (0.0, 1.0)


def test_the_worst_server_counts_and_one_that_left_does_not() -> None:
    ages = SignalAges()
    _follow(ages, 100.0, _server("a", 99.0), _server("b", 99.0))
    assert _follow(ages, 120.0, _server("a", 119.0), _server("b"))[0] == 21.0
    assert ages.by_server("cpu") == {"a": 1.0, "b": 21.0}
    assert _follow(ages, 121.0, _server("a", 121.0))[0] == 0.0
    assert _follow(ages, 122.0) == (None, None)


def test_what_was_never_there_is_missed_from_the_first_moment() -> None:
    ages = SignalAges()
    assert _follow(ages, 100.0, _server("a")) == (0.0, None), "nothing is loaded, so nothing is counted"
    assert _follow(ages, 120.0, _server("a", **LOADED)) == (20.0, 0.0)
    assert _follow(ages, 130.0, _server("a", **LOADED)) == (30.0, 10.0)
    assert _follow(ages, 131.0, _server("a"))[1] is None


def test_a_sample_from_before_the_first_look_has_its_true_age_and_one_from_the_future_none() -> None:
    ages = SignalAges()
    assert _follow(ages, 100.0, _server("a", 89.0))[0] == 11.0
    assert _follow(ages, 101.0, _server("a", 105.0))[0] == 0.0


def test_demand_that_nobody_needs_is_not_missed() -> None:
    server = _server("a", 100.0, **LOADED)
    declared = TaskState("digits", (), 0.4, declared_demand_rps=3.0)
    for task, needs_demand in ((declared, True), (DIGITS, False)):
        ages = SignalAges()
        ages.follow(PoolSnapshot(100.0, (server,), (task,)), needs_demand=needs_demand)
        assert (ages.oldest("cpu"), ages.oldest("demand")) == (0.0, None)
