"""InfAdapter's problem against its paper's numbers, and against trying everything."""

from __future__ import annotations

import itertools
from math import nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.core.variant_sets import Variant, best_variant_set

RESNETS = {  # accuracy, slope and intercept of the capacity by cores, load time
    18: (0.69758, 24.446, -6, 6.44),
    34: (0.73314, 13.044, -1, 6.79),
    50: (0.7613, 10.321, -3, 6.82),
    101: (0.77374, 5.090, 0, 7.77),
    152: (0.78312, 3.815, -2, 8.52),
}


def resnets(loaded: int) -> list[Variant]:
    """The paper's five, of which each gets no core or two at least."""
    return [
        Variant(accuracy, (0.0, 0.0, *(0.8 * (slope * n + more) for n in range(2, 21))), load, loaded=name == loaded)
        for name, (accuracy, slope, more, load) in RESNETS.items()
    ]


@pytest.mark.parametrize(("load", "cores", "accuracy"), [(30, {152: 11}, 0.783), (200, {18: 4, 50: 16}, 0.739)])
def test_the_two_points_of_the_paper(load: float, cores: dict[int, int], accuracy: float) -> None:
    found = best_variant_set(resnets(loaded=152), load, 20)
    assert {name: n for name, n in zip(RESNETS, found.units, strict=True) if n} == cores
    assert found.accuracy == pytest.approx(accuracy, abs=0.0006)
    assert found.feasible
    assert found.gap == 0
    assert sum(found.carried_rps) == pytest.approx(load)


variants = st.builds(
    Variant,
    st.sampled_from([0.5, 0.6, 0.7, 0.8, 0.9]),
    st.lists(st.sampled_from([0.0, 5.0, 9.0, 20.0, 45.0]), min_size=1, max_size=4).map(
        lambda more: (0.0, *itertools.accumulate(more))
    ),
    st.sampled_from([0.0, 3.0, 8.0]),
    st.booleans(),
)


def worth(found: list[Variant], units: tuple[int, ...], load: float, budget: int, beta: float) -> float | None:
    left, value = load, 0.0
    slowest = max(each.load_seconds for each in found) or 1.0
    for number in sorted(range(len(found)), key=lambda each: -found[each].accuracy):
        carried = min(left, found[number].capacity_rps[units[number]])
        left -= carried
        value += found[number].accuracy * carried / load
        if units[number] and not found[number].loaded:
            value -= beta * found[number].load_seconds / slowest
    return None if left > 1e-9 else value - 0.05 * sum(units) / budget


@settings(max_examples=200, deadline=None)
@given(st.lists(variants, min_size=1, max_size=4), st.floats(0.5, 120), st.integers(1, 6), st.booleans())
def test_it_is_as_good_as_trying_everything(found: list[Variant], load: float, budget: int, use_all: bool) -> None:
    best: float | None = None
    for units in itertools.product(*(range(len(each.capacity_rps)) for each in found)):
        useless = any(n and each.capacity_rps[n] <= 0 for n, each in zip(units, found, strict=True))
        if sum(units) > budget or useless or (use_all and sum(units) != budget):
            continue
        value = worth(found, units, load, budget, 0.01)
        best = value if best is None or (value is not None and value > best) else best
    result = best_variant_set(found, load, budget, beta=0.01, use_all=use_all)
    assert result.feasible is (best is not None)
    assert result.gap == 0
    if best is not None:
        assert result.value == pytest.approx(best, abs=1e-6)
        assert worth(found, result.units, load, budget, 0.01) == pytest.approx(best, abs=1e-6)


def test_what_nothing_carries_is_carried_as_far_as_it_goes() -> None:
    found = best_variant_set(resnets(loaded=18), 5000, 20)
    assert not found.feasible
    assert found.units == (20, 0, 0, 0, 0)


@pytest.mark.parametrize("load", [0.0, -3.0, nan])
def test_no_load_needs_nothing(load: float) -> None:
    assert best_variant_set(resnets(loaded=18), load, 20).units == (0, 0, 0, 0, 0)
    assert best_variant_set([], load, 20).units == ()


def test_many_servers_end_with_a_gap_that_is_told() -> None:
    many = [Variant(0.5 + k / 100, tuple(n * 40 / 1.3**k for n in range(101))) for k in range(10)]
    found = best_variant_set(many, 1500, 100, use_all=True, most_nodes=3000)
    assert found.feasible
    assert sum(found.units) == 100
    assert 0 <= found.gap < 0.1
