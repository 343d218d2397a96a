"""How many answers of a task will be late, from queueing theory: the limit that Frontier plans by.

Every model instance is a first-come queue with one thread, and the instances share the server's cores. So a task's
service takes as long as its CPU time, stretched by what the others leave it; its queue is one of Poisson arrivals at a
server of nearly constant service (M/D/1). The tail of the wait falls exponentially, with the rate theta for which
lambda (e^(theta S) - 1) = theta (Lundberg's equation; Asmussen, "Applied Probability and Queues", 2003, chapter XIII).
That the others leave it now more and now less makes the tail longer, as if service came in larger pieces.
"""

from __future__ import annotations

from math import exp, log

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LEAST_PACE = 0.02
"""However busy the others are, an instance gets this share of a core."""
LEAST_SECONDS = 1e-12
"""An inference that costs less costs nothing."""
PRECISION = 1e-3
"""Of what the others may use, by the cores: no profile is as exact as that."""
LEAST_BUSY = 1e-9
"""A task that keeps its instance less busy is late only if a single inference is."""
HIGHEST_DECAY = 25.0
"""The decay of a task that is hardly busy is below this."""
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
    busy = max(busy, LEAST_BUSY)
    x = 2.0 * (1.0 - busy) / busy if busy > 0.5 else 1.5 - 2.0 * log(busy)
    for _ in range(30):
        power = exp(x)
        step = (power - 1.0 - x / busy) / (power - 1.0 / busy)
        x -= step
        if step < 1e-6:
            break
    return max(0.0, x)


def most_others(demand_rps: Array, cpu_seconds: Array, cores: Array, limit_seconds: Array, most_late: Array) -> Array:
    """Return the most cores that everything else may use so that no more answers are late; -inf where none may.

    Of many tasks, versions and servers at once: every argument is an array, and all have one shape. The late share
    grows with what the others use: what is returned keeps the limit, and a thousandth of the cores more would not, or
    would be more than there are. `most_late` is above 0 and below 1.

    Solved for the decay x, from which everything else follows in closed form: busy = x / (e^x - 1), and the pace is the
    load by it. By Newton's method between two bounds, halved where a step would leave them.
    """
    idle = (demand_rps <= 0.0) | (cpu_seconds < LEAST_SECONDS)
    cost = np.where(idle, 1.0, cpu_seconds)
    demand = np.maximum(np.where(idle, 1.0, demand_rps), LEAST_BUSY / cost)
    load = demand * cost
    goal = np.log(most_late)
    most_pace = np.minimum(1.0, np.maximum(LEAST_PACE, cores))
    in_time = limit_seconds * demand
    low, high = np.zeros_like(load), np.full_like(load, HIGHEST_DECAY)
    x = np.clip(np.where(load > 0.5, 2.0 * (1.0 - load) / load, 1.5 - 2.0 * np.log(load)), 0.1, HIGHEST_DECAY - 0.1)
    for _ in range(60):
        over = np.expm1(x)
        busy = x / over
        pace = load / busy
        slack = in_time / busy - 1.0
        spread = 1.0 + UNREST * np.maximum(0.0, 1.0 - pace)
        excess = np.log(busy) - x * slack / spread - goal
        late = (excess > 0.0) | (slack <= 0.0)
        low, high = np.where(late, x, low), np.where(late, high, x)
        # By how much the logarithm of busy falls as x grows.
        fall = (over + 1.0) / over - 1.0 / x
        steep = fall + slack / spread
        steep += x * fall * ((slack + 1.0) / spread + np.where(pace < 1.0, slack * UNREST * pace / spread**2, 0.0))
        guess = x + excess / steep
        inside = (slack > 0.0) & (guess >= low) & (guess <= high)
        guess = np.where(inside, guess, (low + high) / 2.0)
        decided = np.where(late, pace > most_pace, pace < LEAST_PACE)
        done = decided | (np.abs(guess - x) < 1e-6)
        x = np.where(decided, x, guess)
        if done.all():
            break
    pace = load * np.expm1(x) / x
    safe = np.minimum(pace + 0.5 * PRECISION * cores, most_pace)
    never = (pace > most_pace) | (limit_seconds <= cost / most_pace)
    others = np.where(never, -np.inf, np.maximum(0.0, cores - safe))
    return np.where(idle | (pace <= LEAST_PACE), cores, others)
