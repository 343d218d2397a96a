"""Statistics of the arrivals, with fixed seeds; bounds are wide enough that only a wrong process breaks them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung_loadgen.arrivals import poisson_arrivals, steady_arrivals


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_counts_follow_the_curve_second_by_second() -> None:
    rates = np.array([0, 5, 50, 500, 50, 0], dtype=np.float64)
    counts = np.array([np.bincount(poisson_arrivals(rates, rng(s)).astype(int), minlength=6) for s in range(400)])

    assert (counts[:, [0, 5]] == 0).all()
    # The mean of 400 Poisson counts is within 5 standard errors of the rate.
    assert np.allclose(counts.mean(axis=0), rates, atol=5 * np.sqrt(rates / 400) + 1e-9)
    # A Poisson count's variance is its mean; regular arrivals would have none, bursts far more.
    dispersion = counts[:, 1:5].var(axis=0) / rates[1:5]
    assert ((dispersion > 0.7) & (dispersion < 1.35)).all(), dispersion


def test_gaps_of_a_steady_rate_are_exponential() -> None:
    gaps = np.diff(poisson_arrivals(np.full(200, 100.0), rng()))

    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
    # An exponential's standard deviation is its mean, and 1/e of its values lie above it.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), abs=0.02)


def test_the_same_seed_gives_the_same_arrivals_and_another_gives_others() -> None:
    rates = np.full(10, 30.0)

    assert np.array_equal(poisson_arrivals(rates, rng(3)), poisson_arrivals(rates, rng(3)))
    assert not np.array_equal(poisson_arrivals(rates, rng(3)), poisson_arrivals(rates, rng(4)))


@given(st.lists(st.floats(0, 200), max_size=20), st.integers(0, 2**32))
def test_arrivals_are_sorted_and_inside_the_trace(rates: list[float], seed: int) -> None:
    times = poisson_arrivals(np.array(rates, dtype=np.float64), rng(seed))

    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times < max(len(rates), 1))).all()
    silent = [second for second, rate in enumerate(rates) if rate == 0]
    assert not np.isin(times.astype(int), silent).any()


def test_steady_arrivals_have_exactly_the_expected_count() -> None:
    times = steady_arrivals(120.0, 1.5, rng())

    assert times.size == 180
    assert ((times >= 0) & (times < 1.5)).all()
    assert (np.diff(times) >= 0).all()
    assert steady_arrivals(0.01, 1.0, rng()).size == 1
