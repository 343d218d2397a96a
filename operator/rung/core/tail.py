"""How many answers of a task will be late, from queueing theory: the limit that Frontier plans by.

Every model instance is a first-come queue with one thread, and the instances share the server's cores. So a task's
service takes as long as its CPU time, stretched by what the others leave it; its queue is one of Poisson arrivals at a
server of nearly constant service (M/G/1). The tail of the wait falls exponentially, with the rate that heavy-traffic
theory gives (Kingman, "On queues in heavy traffic", 1962): 2 (1 - rho) / (S (1 + cv^2)).
"""

from __future__ import annotations

from math import exp

LEAST_PACE = 0.02
"""However busy the others are, an instance gets this share of a core."""
LEAST_SECONDS = 1e-12
"""An inference that costs less costs nothing."""
VARIABILITY = 0.5
"""Square of the coefficient of variation of a service that others stretch."""


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
    return busy * exp(-2.0 * (1.0 - busy) * slack_seconds / (service_seconds * (1.0 + VARIABILITY)))


def most_others(
    demand_rps: float, cpu_seconds: float, cores: float, limit_seconds: float, most_late: float
) -> float | None:
    """Return the most cores that everything else may use so that no more answers are late; None where none may.

    The late share grows with what the others use, so it is found by bisection, to a millionth of the cores.
    """
    if late_share(demand_rps, cpu_seconds, 0.0, cores, limit_seconds) > most_late:
        return None
    low, high = 0.0, cores
    if late_share(demand_rps, cpu_seconds, high, cores, limit_seconds) <= most_late:
        return high
    while high - low > 1e-6 * cores:
        middle = (low + high) / 2.0
        if late_share(demand_rps, cpu_seconds, middle, cores, limit_seconds) <= most_late:
            low = middle
        else:
            high = middle
    return low
