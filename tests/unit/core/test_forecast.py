"""Forecasts of demand: total on anything, right where the future is plain."""

from __future__ import annotations

from math import isfinite, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.core.forecast import ExponentialMean, Forecaster, LastMaximum, Trend

FORECASTERS: list[Forecaster] = [LastMaximum(), ExponentialMean(), Trend()]
by_name = pytest.mark.parametrize("forecaster", FORECASTERS, ids=lambda each: type(each).__name__)


@by_name
@given(st.lists(st.floats(max_value=1e9) | st.just(float("nan")), max_size=100))
def test_anything_gives_a_rate(forecaster: Forecaster, rates: list[float]) -> None:
    found = forecaster.forecast(rates)
    assert isfinite(found.expected_rps)
    assert isfinite(found.high_rps)
    assert 0 <= found.expected_rps <= found.high_rps


@by_name
@given(st.floats(0, 1e6), st.integers(1, 90))
def test_what_never_changed_is_expected_to_stay(forecaster: Forecaster, rate: float, seconds: int) -> None:
    assert forecaster.forecast([rate] * seconds).expected_rps == pytest.approx(rate, rel=1e-9)


def test_a_steady_climb_goes_on_and_the_noise_of_poisson_is_allowed_for() -> None:
    trend = Trend(horizon_seconds=4, level_seconds=4, damping=1.0)
    climb = [2.0 * second for second in range(60)]
    # The next four seconds bring 120, 122, 124 and 126.
    assert trend.forecast(climb).expected_rps == pytest.approx(123)
    quiet = trend.forecast([100.0] * 60)
    assert quiet.high_rps == pytest.approx(100 + trend.deviations * sqrt(100 / 4))


def test_past_errors_widen_it() -> None:
    waves = [100.0 + (60.0 if second // 5 % 2 else 0.0) for second in range(80)]
    trend = Trend(level_seconds=4, quantile=0.9)
    assert trend.forecast(waves).high_rps - trend.forecast(waves).expected_rps > 40


def test_the_last_maximum_forgets() -> None:
    assert LastMaximum(window=3).forecast([9.0, 1.0, 2.0, 1.0]).expected_rps == 2
    assert LastMaximum().forecast([]).high_rps == 0


def test_the_exponential_mean_weighs_by_its_span() -> None:
    assert ExponentialMean(span=3, margin=0.1).forecast([4.0, 8.0]).expected_rps == 6
    assert ExponentialMean(span=3, margin=0.1).forecast([4.0, 8.0]).high_rps == pytest.approx(6.6)
