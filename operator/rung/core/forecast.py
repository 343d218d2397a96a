"""What demand will be, from what it was. Each forecaster is a pure function of one task's rates, one a second.

A forecast is of the mean rate over the next seconds; `high_rps` is what it will stay below with some certainty. Nothing
is fitted beforehand and nothing is kept between two calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, inf, sqrt
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Forecast:
    """Inferences a second: what is expected, and what will hardly be passed."""

    expected_rps: float
    high_rps: float


class Forecaster(Protocol):
    """Foresees the demand of one task."""

    def forecast(self, rates_rps: Sequence[float]) -> Forecast:
        """Return what is to come after these rates, one a second, oldest first; none at all: nothing is expected.

        Never raises; values that are no rates are left out.
        """
        ...


@dataclass(frozen=True, slots=True)
class LastMaximum:
    """The highest of the last rates, as controllers like VPA and InfAdapter's training data have it."""

    window: int = 60
    """So many rates count."""

    def forecast(self, rates_rps: Sequence[float]) -> Forecast:
        """See `Forecaster.forecast`."""
        highest = max(_clean(rates_rps[-self.window :]), default=0.0)
        return Forecast(highest, highest)


@dataclass(frozen=True, slots=True)
class ExponentialMean:
    """The exponentially weighted mean, with the weight 2 / (span + 1) of the newest rate."""

    span: int = 10
    margin: float = 0.1
    """`high_rps` is above what is expected by this share (InfAdapter adds 10 %)."""

    def forecast(self, rates_rps: Sequence[float]) -> Forecast:
        """See `Forecaster.forecast`."""
        weight = 2.0 / (self.span + 1.0)
        level = 0.0
        for place, rate in enumerate(_clean(rates_rps)):
            level = rate if place == 0 else level + weight * (rate - level)
        return Forecast(level, level * (1.0 + self.margin))


@dataclass(frozen=True, slots=True)
class Trend:
    """A level and a trend, and above it a quantile of the errors that the same rule made on these very rates.

    The level is the mean of the last `level_seconds`, the trend the slope between that and the mean as long before; it
    is followed for `horizon_seconds`. What Poisson's law lets a count differ from its rate is always allowed for, so a
    constant past gives no false certainty.
    """

    horizon_seconds: int = 3
    level_seconds: int = 8
    damping: float = 0.3
    """Share of the trend that is believed."""
    quantile: float = 0.5
    deviations: float = 1.0
    """So many standard deviations of a Poisson count are allowed for at least."""

    def forecast(self, rates_rps: Sequence[float]) -> Forecast:
        """See `Forecaster.forecast`."""
        rates = _clean(rates_rps)
        if not rates:
            return Forecast(0.0, 0.0)
        sums = [0.0, *accumulate(rates)]
        expected = self._ahead(sums, len(rates))
        errors = sorted(self._errors(sums))
        usual = errors[min(len(errors) - 1, ceil(self.quantile * len(errors)) - 1)] if errors else 0.0
        return Forecast(expected, expected + max(usual, self.noise(expected, self.level_seconds)))

    def noise(self, rate_rps: float, seconds: int) -> float:
        """Return by how much the mean of so many seconds may pass a rate by Poisson's law alone."""
        return self.deviations * sqrt(max(rate_rps, 1.0 / seconds) / seconds)

    def _errors(self, sums: Sequence[float]) -> Iterator[float]:
        """Yield by how much the seconds after a moment passed what was foreseen then, for moments of the past."""
        level, seen = self.level_seconds, max(self.horizon_seconds, self.level_seconds)
        ends = range(len(sums) - 1 - seen, 2 * level - 1, -max(1, level // 2))
        follow = self._followed()
        for end in ends:
            before = sums[end - level]
            near = sums[end] - before
            foreseen = near + follow * (near - before + sums[end - 2 * level])
            yield (sums[end + seen] - sums[end]) / seen - (foreseen / level if foreseen > 0.0 else 0.0)

    def _followed(self) -> float:
        """Return by how many times the trend between two levels is followed."""
        return self.damping * (self.level_seconds + self.horizon_seconds) / 2.0 / self.level_seconds

    def _ahead(self, sums: Sequence[float], end: int) -> float:
        """Return the rule's forecast after `end` rates, of which `sums` are the sums from the beginning."""
        near = min(self.level_seconds, end)
        level = (sums[end] - sums[end - near]) / near
        before = min(self.level_seconds, end - near)
        if before < self.level_seconds:
            return level
        trend = level - (sums[end - near] - sums[end - near - before]) / before
        return max(0.0, level + self._followed() * trend)


def _clean(rates_rps: Sequence[float]) -> list[float]:
    return [rate for rate in rates_rps if 0.0 <= rate < inf]
