"""The reflex: which loaded version answers one request, decided when its turn comes.

The policy decides once a second, a burst is faster. So a request is answered by the allocated version if everything
that waits can still be in time behind it, else by the most accurate loaded version below for which that is true, else
by the cheapest, so that the queue is soon gone. It never goes above the allocation: the CPU stays what the policy
planned. (Choosing for each request, without an allocation above it, is SlackFit of SuperServe, NSDI 2025.)
"""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = -1


def choose(ladder: Sequence[int], in_flight: int, service_seconds: Sequence[float], slack_seconds: float) -> int:
    """Return the rung that answers a request.

    Written so that a compiler of numeric Python can take it as it is.

    Args:
        ladder: the loaded rungs, cheapest first; the last one is the allocated one.
        in_flight: other requests of the task that have to be answered within the same slack.
        service_seconds: by rung, what one inference takes on the server as busy as it is.
        slack_seconds: what is left until the request is late.

    Returns:
        The rung; NOTHING where none is loaded.
    """
    for place in range(len(ladder) - 1, 0, -1):
        if (in_flight + 1) * service_seconds[ladder[place]] <= slack_seconds:
            return ladder[place]
    return ladder[0] if len(ladder) > 0 else NOTHING
