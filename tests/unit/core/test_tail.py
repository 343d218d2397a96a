"""The estimated share of late answers rises with everything that makes a server busier."""

from __future__ import annotations

from math import inf

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from rung.core.tail import late_share, most_others

demands = st.floats(0, 500)
costs = st.floats(1e-4, 0.5)
cores = st.floats(0.1, 16)
shares = st.floats(0, 1)
LIMIT = 0.4
ROUNDED = 1e-9
"""The limit may be met to the last digit, and both ways of looking at it round."""


@given(demands, costs, cores, shares, st.floats(1, 2))
def test_it_is_a_share_and_rises_with_demand_cost_and_what_the_others_use(
    demand: float, cost: float, size: float, others: float, factor: float
) -> None:
    late = late_share(demand, cost, others * size, size, LIMIT)
    assert 0 <= late <= 1
    assert late_share(demand * factor, cost, others * size, size, LIMIT) >= late
    assert late_share(demand, cost * factor, others * size, size, LIMIT) >= late
    assert late_share(demand, cost, min(1.0, others * factor) * size, size, LIMIT) >= late
    assert late_share(demand, cost, others * size, size, LIMIT * factor) <= late


@given(demands, costs, cores, st.sampled_from([1e-4, 1e-3, 0.01, 0.1]))
@example(0.25, 0.04, 0.1, 0.1)
def test_what_the_others_may_use_is_where_the_limit_is_reached(
    demand: float, cost: float, size: float, most_late: float
) -> None:
    (others,) = most_others(*np.array([[demand, cost, size, LIMIT, most_late]]).T).tolist()
    if others == -inf:
        assert late_share(demand, cost, 0.0, size, LIMIT) > most_late * (1 - ROUNDED)
        return
    assert 0 <= others <= size
    assert late_share(demand, cost, others, size, LIMIT) <= most_late * (1 + ROUNDED)
    if others + 1.01e-3 * size < size:
        assert late_share(demand, cost, others + 1.01e-3 * size, size, LIMIT) > most_late * (1 - ROUNDED)


def test_without_demand_nothing_is_late_and_what_can_not_be_in_time_always_is() -> None:
    assert late_share(0.0, 9.0, 1.0, 1.0, LIMIT) == 0
    assert late_share(1.0, 0.5, 0.0, 1.0, LIMIT) == 1
    assert late_share(30.0, 0.04, 0.0, 1.0, LIMIT) == 1


@given(st.floats(0.9, 1.1) | st.floats(0, 1e-6) | st.just(1.0), st.floats(1e-6, 0.5))
def test_it_is_total_where_a_server_is_just_full(busy: float, cost: float) -> None:
    assert 0 <= late_share(busy / cost, cost, 0.0, 1.0, LIMIT) <= 1
