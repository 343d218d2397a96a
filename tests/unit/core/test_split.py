"""The best split of requests over unlike servers: held against brute force, and its laws."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.core.split import EVEN, Option, best_split

BOTH = ((0.5, 0.01), (1.0, 0.04))
"""Worth and CPU-seconds of two versions."""


def options(servers: int, tasks: int = 1, slower: dict[int, float] | None = None) -> list[Option]:
    return [
        Option(task, server, worth, seconds * (slower or {}).get(server, 1.0))
        for task in range(tasks)
        for server in range(servers)
        for worth, seconds in BOTH
    ]


def test_a_server_that_is_twice_as_fast_gets_more() -> None:
    found = best_split([30.0], [0.7, 0.7], options(2, slower={1: 2.0}))
    assert found is not None
    assert found.shares[0, 0] > 0.57
    assert found.shares[0, 0] + found.shares[0, 1] == pytest.approx(1.0)
    assert found.fullest <= 1.0 + 1e-6


def test_what_is_left_over_is_even() -> None:
    found = best_split([5.0, 5.0], [0.7, 0.7], options(2, 2))
    assert found is not None
    assert found.worth == pytest.approx(2.0), "every request gets the best"
    assert found.fullest == pytest.approx(2 * 5 * 0.04 / (2 * 0.7))


def test_shares_stay_where_moving_gains_nothing() -> None:
    now = {(0, 0): 0.8, (0, 1): 0.2}
    found = best_split([1.0], [0.7, 0.7], options(2), now)
    assert found is not None
    # 60 % moved would even the load by 1 % of a server.
    assert found.shares == pytest.approx(now)
    busy = best_split([17.0], [0.7, 0.7], options(2), now)
    assert busy is not None
    assert busy.shares[0, 1] > 0.25


def test_more_than_there_is_is_spread_and_told() -> None:
    found = best_split([1000.0], [0.7, 0.7], options(2))
    assert found is not None
    assert found.worth == pytest.approx(0.5)
    assert found.shares[0, 0] == pytest.approx(0.5, abs=1e-6)
    assert found.fullest == pytest.approx(1000 * 0.01 / 2 / 0.7)


def test_nothing_to_choose_from() -> None:
    assert best_split([], [], []) is None
    assert best_split([1.0], [0.7], []) is None
    alone = best_split([1.0], [0.7], options(1))
    assert alone is not None
    assert alone.shares == {(0, 0): pytest.approx(1.0)}


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[float], list[float], list[Option]]:
    tasks, servers = draw(st.integers(1, 2)), draw(st.integers(2, 3))
    worths = st.floats(0.1, 1.0)
    found = [
        Option(task, server, draw(worths), draw(st.floats(0.001, 0.1)))
        for task in range(tasks)
        for server in range(servers)
        for _ in range(draw(st.integers(1, 2)))
    ]
    demand = draw(st.lists(st.floats(0.1, 40.0), min_size=tasks, max_size=tasks))
    return demand, draw(st.lists(st.floats(0.1, 2.0), min_size=servers, max_size=servers)), found


@settings(max_examples=60, deadline=None)
@given(cases())
def test_no_split_in_tenths_is_worth_more(case: tuple[list[float], list[float], list[Option]]) -> None:
    demand, cores, found = case
    best = best_split(demand, cores, found)
    assert best is not None
    for task in range(len(demand)):
        assert sum(share for (one, _), share in best.shares.items() if one == task) == pytest.approx(1.0, abs=1e-6)
    price = EVEN * float(np.mean([option.worth for option in found]))
    if best.fullest > 1.0 + 1e-6:
        return
    value = best.worth - price * best.fullest
    by_task = [[n for n, option in enumerate(found) if option.task == task] for task in range(len(demand))]
    steps = [[parts for parts in product(range(0, 11, 2), repeat=len(mine)) if sum(parts) == 10] for mine in by_task]
    for chosen in product(*steps):
        load, worth = np.zeros(len(cores)), 0.0
        for mine, parts in zip(by_task, chosen, strict=True):
            for number, tenths in zip(mine, parts, strict=True):
                option = found[number]
                worth += option.worth * tenths / 10
                load[option.server] += demand[option.task] * option.cpu_seconds * tenths / 10
        fullest = float((load / np.array(cores)).max())
        if fullest <= 1.0:
            assert worth - price * fullest <= value + 1e-6


@settings(max_examples=40, deadline=None)
@given(cases(), st.floats(1.0, 3.0))
def test_more_capacity_is_never_worth_less(case: tuple[list[float], list[float], list[Option]], more: float) -> None:
    demand, cores, found = case
    before, after = best_split(demand, cores, found), best_split(demand, [more * each for each in cores], found)
    assert before is not None
    assert after is not None
    price = EVEN * float(np.mean([option.worth for option in found]))
    if before.fullest <= 1.0:
        assert after.worth - price * after.fullest >= before.worth - price * before.fullest - 1e-6
