"""When requests are sent: an inhomogeneous Poisson process, decided before the first one leaves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TimesArray = npt.NDArray[np.float64]


def poisson_arrivals(rates_rps: npt.NDArray[np.float64], rng: np.random.Generator) -> TimesArray:
    """Return the arrival times, in seconds from the start, of a Poisson process that follows a rate curve.

    `rates_rps` has shape (seconds,) and is constant within a second. The count of each second is Poisson with that
    second's rate and, given the count, the times are uniform within the second: together exactly the inhomogeneous
    Poisson process of a piecewise constant rate (Lewis and Shedler, 1979). Sorted, float64, shape (requests,).
    """
    counts = rng.poisson(rates_rps)
    seconds = np.repeat(np.arange(rates_rps.size, dtype=np.float64), counts)
    times = seconds + rng.random(seconds.size)
    times.sort()
    return times


def steady_arrivals(rate_rps: float, seconds: float, rng: np.random.Generator) -> TimesArray:
    """Return the arrivals of a Poisson process of one rate, given that its count is exactly the expected one.

    Gaps are as irregular as Poisson's, but two probes of the same length at the same rate send the same number: a
    short probe then measures the server and not the luck of its count. Sorted, float64, shape (requests,).
    """
    times = rng.random(max(1, round(rate_rps * seconds))) * seconds
    times.sort()
    return times
