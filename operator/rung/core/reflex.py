"""The reflex: which loaded version answers one request, decided when its turn comes.

The policy decides once a second, a burst is faster. So a request is answered by the allocated version if everything
that waits can still be in time behind it, else by the most accurate loaded version below for which that is true, else
by the cheapest, so that the queue is soon gone. It never goes above the allocation: the CPU stays what the policy
planned. (Choosing for each request, without an allocation above it, is SlackFit of SuperServe, NSDI 2025.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rung.core.frontier import Metric
from rung.core.policies import base
from rung.core.policies.lane import cpu_seconds
from rung.core.servable import servable
from rung.core.snapshot import Mode, PoolSnapshot, ServerState

NOTHING = -1


@dataclass(frozen=True, slots=True)
class ReflexTask:
    """What has to be known in front of a server to choose for each request of a task."""

    slo_latency_seconds: float
    best_effort: bool
    service_seconds: Mapping[int, float]
    """By version that may answer: what an inference takes alone, as its profile says."""


def reflex_tasks(snapshot: PoolSnapshot, server: ServerState, metric: Metric) -> dict[str, ReflexTask]:
    """Return the tasks for which a server may choose by itself: those that Rung decides about, without pinned ones.

    Only versions that may be served there are named, so floors hold; a task with none, or without profiles, has no
    choice and is left out.
    """
    found = {}
    for task in base.tasks_of(snapshot, server):
        ladder = servable(task, server, metric).ladder if task.mode is Mode.AUTO else ()
        seconds = {version.number: cost for version in ladder if (cost := cpu_seconds(version, server)) > 0}
        if seconds:
            found[task.name] = ReflexTask(task.slo_latency_seconds, task.best_effort, seconds)
    return found


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
