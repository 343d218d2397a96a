"""The search for the highest rate as a question of belief: pure, no clock, no server.

A probe near the limit is a toss-up: the same rate is kept once and not kept the next time. A plain bisection believes
its first answer and is led astray for good. Here each probe only shifts probability, by as much as it can be trusted,
and the next one is made where the belief is divided. Where it is unsure, it asks again, about the same rate.
Source: probabilistic bisection (Horstein 1963; Waeber, Frazier, Henderson: "Bisection search with noisy responses",
SIAM J. Control Optim. 51(3), 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

LOWEST_SHARE = 0.01
"""A version that keeps its service level only below this share of what it can do at most has no number."""
_STEP = 0.0025
_LIKELY_FROM = 0.8
_MOST_TRUST = 0.97


def trust(latency_by_limit: float) -> float:
    """Return the probability that a probe's verdict is right, 0.5 to 0.97.

    `latency_by_limit` is the latency at the allowed share of late answers (usually p99) divided by the service level:
    at 1 the verdict is a toss-up; twice as long or half as long is clear, since latency rises steeply near the limit.
    """
    if not math.isfinite(latency_by_limit) or latency_by_limit <= 0:
        return _MOST_TRUST
    return min(_MOST_TRUST, 1.0 - 0.5 * math.exp(-2.5 * abs(math.log(latency_by_limit))))


@dataclass(frozen=True, slots=True)
class Belief:
    """How probable each rate is to be the highest that is kept; arrays of shape (rates,), rates ascending."""

    rates_rps: FloatArray
    probability: FloatArray

    @classmethod
    def before(cls, bound_rps: float, ceiling_rps: float) -> Self:
        """Return what is known before the first probe: most servers keep nearly all that a closed loop reaches.

        `bound_rps` is what a closed loop reached; no rate above `ceiling_rps` is considered.
        """
        count = math.ceil(math.log(ceiling_rps / (LOWEST_SHARE * bound_rps)) / _STEP) + 1
        rates = np.geomspace(LOWEST_SHARE * bound_rps, ceiling_rps, count)
        below = rates < _LIKELY_FROM * bound_rps
        above = rates > bound_rps * (1 + 1e-9)
        probability = np.where(below, 0.2 / max(1, below.sum()), 0.0)
        probability += np.where(above, 0.15 / max(1, above.sum()), 0.0)
        likely = ~(below | above)
        probability += np.where(likely, 0.65 / max(1, likely.sum()), 0.0)
        return cls(rates, probability / probability.sum())

    def after(self, rate_rps: float, kept: bool, trusted: float) -> Belief:
        """Return the belief after a probe; `trusted` is the probability that its verdict is right."""
        agrees = (self.rates_rps >= rate_rps) if kept else (self.rates_rps < rate_rps)
        probability = self.probability * np.where(agrees, trusted, 1.0 - trusted)
        return Belief(self.rates_rps, probability / probability.sum())

    def quantile(self, share: float) -> float:
        """Return the rate below which the limit lies with this probability."""
        place = int(np.searchsorted(np.cumsum(self.probability), share))
        return float(self.rates_rps[min(place, self.rates_rps.size - 1)])

    @property
    def best(self) -> float:
        """The median: the number when there is no further probe."""
        return self.quantile(0.5)

    @property
    def next_rate(self) -> float:
        """Where the next probe tells most: at the median, or just above it when more belief lies above than below.

        Asked again and again at the very rate of the median, a server that keeps it says nothing of those above.
        """
        cumulated = np.cumsum(self.probability)
        place = min(int(np.searchsorted(cumulated, 0.5)), self.rates_rps.size - 1)
        below, above = cumulated[place] - self.probability[place], 1.0 - cumulated[place]
        if above <= below or place + 1 == self.rates_rps.size:
            return float(self.rates_rps[place])
        return float(np.sqrt(self.rates_rps[place] * self.rates_rps[place + 1]))

    def interval(self, probability: float = 0.9) -> tuple[float, float]:
        """Return the rates between which the limit lies with this probability."""
        return self.quantile((1 - probability) / 2), self.quantile((1 + probability) / 2)

    def width(self) -> float:
        """Return the width of the interval by its middle."""
        low, high = self.interval()
        return (high - low) / self.best
