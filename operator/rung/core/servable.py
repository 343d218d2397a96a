"""Which versions of a task may be served on a server, and why the others may not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from rung.core import frontier
from rung.core.frontier import Metric
from rung.core.snapshot import Mode, ServerState, TaskState, Version


class Exclusion(StrEnum):
    """Why a version may not be served; the words stand in sentences for people."""

    ACCURACY = "has no valid accuracy"
    FLOOR = "is below minAccuracy"
    METRIC = "is above maxMetric"
    METRIC_UNKNOWN = "has no profile to hold against maxMetric"
    BROKEN = "failed to load and waits to be tried again"
    UNAVAILABLE = "is not on the server yet"
    NOT_PINNED = "is not the pinned one"


@dataclass(frozen=True, slots=True)
class Servable:
    """The ladder of a task on a server, cheapest first, and what was left out before the frontier was drawn."""

    ladder: tuple[Version, ...]
    excluded: dict[int, Exclusion] = field(default_factory=dict)

    def why_empty(self, task: TaskState, server: ServerState) -> str:
        """Say why nothing may be served, in a clause."""
        if not task.versions:
            return f"no version of {task.name} is registered"
        counts = Counter(self.excluded.values())
        parts = ", ".join(f"{count} {_plural(reason, count)}" for reason, count in counts.most_common())
        of = f"none of the {len(self.excluded)} versions" if len(self.excluded) > 1 else "the only version"
        return f"{of} of {task.name} may be served on {server.name} ({parts})"


def servable(task: TaskState, server: ServerState, metric: Metric) -> Servable:
    """Return the frontier of the versions that may be served.

    Left out before the frontier is drawn: versions below `min_accuracy`; whose metric exceeds `max_metric`, or is not
    known while there is one; that are broken; whose files are not on the server. What answers now, or (when nothing
    does) is loaded, is there and works, whatever is said about its files: only its owner's limits remove it. A pinned
    task has its pinned version alone, which is not asked for a profile.
    """
    pinned = task.pinned_version if task.mode is Mode.PINNED else None
    excluded: dict[int, Exclusion] = {}
    kept = []
    for version in task.versions:
        reason = _excluded(task, server, version, metric, pinned)
        if reason is None:
            kept.append(version)
        else:
            excluded[version.number] = reason
    return Servable(frontier.ladder(kept, server.hardware_class, metric), excluded)


def _excluded(  # noqa: PLR0911 - one return for each rule
    task: TaskState, server: ServerState, version: Version, metric: Metric, pinned: int | None
) -> Exclusion | None:
    number = version.number
    if not frontier.is_accuracy(version.accuracy):
        return Exclusion.ACCURACY
    if task.mode is Mode.PINNED and number != pinned:
        return Exclusion.NOT_PINNED
    if task.min_accuracy is not None and not version.accuracy >= task.min_accuracy:
        return Exclusion.FLOOR
    if task.max_metric is not None:
        cost = frontier.metric_of(version, server.hardware_class, metric)
        if cost is None and pinned is None:
            return Exclusion.METRIC_UNKNOWN
        if cost is not None and not cost <= task.max_metric:
            return Exclusion.METRIC
    active = server.active.get(task.name)
    if number == active or (active is None and number in server.loaded.get(task.name, ())):
        return None
    if number in server.broken.get(task.name, ()):
        return Exclusion.BROKEN
    if server.available is not None and number not in server.available.get(task.name, ()):
        return Exclusion.UNAVAILABLE
    return None


def _plural(reason: Exclusion, count: int) -> str:
    if count == 1:
        return reason.value
    verb, _, rest = reason.value.partition(" ")
    verb = {"is": "are", "has": "have"}.get(verb, verb)
    return f"{verb} {rest}".replace("waits", "wait")
