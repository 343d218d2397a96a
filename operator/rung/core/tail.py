"""How many answers of a task will be late, from queueing theory: the limit that Frontier plans by.

Every model instance is a first-come queue with one thread, and the instances share the server's cores. So a task's
service takes as long as its CPU time, stretched by what the others leave it; its queue is one of Poisson arrivals at a
server of nearly constant service (M/D/1). The tail of the wait falls exponentially, with the rate theta for which
lambda (e^(theta S) - 1) = theta (Lundberg's equation; Asmussen, "Applied Probability and Queues", 2003, chapter XIII).
That the others leave it now more and now less makes the tail longer, as if service came in larger pieces.
"""

from __future__ import annotations

from math import exp, log

LEAST_PACE = 0.02
"""However busy the others are, an instance gets this share of a core."""
LEAST_SECONDS = 1e-12
"""An inference that costs less costs nothing."""
PRECISION = 1e-3
"""Of what the others may use, by the cores: no profile is as exact as that."""
UNREST = 3.0
"""By how much the others, per share of a core that they take, lengthen the tail: chosen so that over random mixes of
one to four tasks on a core, the estimate's median is what request-level simulation has."""


def late_share(demand_rps: float, cpu_seconds: float, others_cores: float, cores: float, limit_seconds: float) -> float:
    """Return the estimated share of a task's answers that take longer than the limit, 0 to 1.

    Args:
        demand_rps: the task's arrivals at this server.
        cpu_seconds: CPU time of one inference.
        others_cores: cores that everything else on the server uses in the mean.
        cores: cores that the server has.
        limit_seconds: the service level's latency.
    """
    if demand_rps <= 0.0 or cpu_seconds < LEAST_SECONDS:
        return 0.0
    pace = min(1.0, max(LEAST_PACE, cores - others_cores))
    service_seconds = cpu_seconds / pace
    slack_seconds = limit_seconds - service_seconds
    busy = demand_rps * service_seconds
    if busy >= 1.0 or slack_seconds <= 0.0:
        return 1.0
    piece_seconds = service_seconds * (1.0 + UNREST * (1.0 - pace))
    return busy * exp(-_decay(busy) * slack_seconds / piece_seconds)


def _decay(busy: float) -> float:
    """Return the x above 0 for which e^x - 1 = x / busy, for busy from 0 to 1; to a millionth.

    By Newton's method from above: the function is convex, so it falls onto the root and never passes it.
    """
    if busy > 1.0 - 1e-6:
        return 2.0 * (1.0 - busy)  # as it is in heavy traffic (Kingman, 1962); below, floats would run out of digits
    busy = max(busy, 1e-9)
    x = 2.0 * (1.0 - busy) / busy if busy > 0.5 else 1.5 - 2.0 * log(busy)
    for _ in range(30):
        power = exp(x)
        step = (power - 1.0 - x / busy) / (power - 1.0 / busy)
        x -= step
        if step < 1e-6:
            break
    return max(0.0, x)


def most_others(
    demand_rps: float, cpu_seconds: float, cores: float, limit_seconds: float, most_late: float
) -> float | None:
    """Return the most cores that everything else may use so that no more answers are late; None where none may.

    The late share grows with what the others use: what is returned keeps the limit, and a thousandth of the cores more
    would not, or would be more than there are. Found by regula falsi on the logarithm (Illinois), which needs about six
    looks where bisection needs ten.
    """
    if demand_rps <= 0.0 or cpu_seconds < LEAST_SECONDS:
        return cores

    def excess(others_cores: float) -> float:
        late = late_share(demand_rps, cpu_seconds, others_cores, cores, limit_seconds)
        return log(max(late, 1e-300) / most_late)

    low, high = 0.0, cores
    at_low, at_high = excess(low), excess(high)
    if at_low > 0.0:
        return None
    if at_high <= 0.0:
        return high
    precision = PRECISION * cores
    side = 0
    while high - low > precision:
        guess = high - at_high * (high - low) / (at_high - at_low)
        # Never at the very ends: an end that stays would never come closer.
        guess = min(max(guess, low + precision / 2), high - precision / 2)
        at_guess = excess(guess)
        if at_guess <= 0.0:
            low, at_low = guess, at_guess
            at_high = at_high / 2 if side < 0 else at_high
            side = -1
        else:
            high, at_high = guess, at_guess
            at_low = at_low / 2 if side > 0 else at_low
            side = 1
    return low
