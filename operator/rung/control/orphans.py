"""Tells the tasks that no pool looks after: no pass over a pool ever would."""

from __future__ import annotations

from rung.api import InferenceTaskStatus
from rung.control.publish import ObjectKey, Publisher, key_of
from rung.control.statuses import orphan_status
from rung.control.view import ClusterView


class Orphans:
    """The tasks whose pool is not in the view, and what was said of them."""

    def __init__(self, view: ClusterView, publisher: Publisher) -> None:
        self._view = view
        self._publisher = publisher
        self._statuses: dict[ObjectKey, InferenceTaskStatus] = {}

    def look(self, now_seconds: float) -> None:
        """Say of each task without a pool that it has none, from the second look on: a pool may come just after it."""
        statuses: dict[ObjectKey, InferenceTaskStatus] = {}
        for task in self._view.orphans():
            key = key_of(task)
            before = self._statuses.get(key)
            statuses[key] = orphan_status(task, before or task.status, now_seconds)
            if before is not None:
                # Each time: the loop of a pool that the task has left may have taken it back.
                self._publisher.status(key, statuses[key].to_json())
        self._statuses = statuses
