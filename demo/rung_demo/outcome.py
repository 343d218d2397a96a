"""The numbers of a run: what the report's table, the closing line and the exit status are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rung_demo.record import Run, TaskHeader


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run in numbers; shares are 0 to 1, None where nothing was recorded to tell."""

    name: str
    requests: int
    failed: int
    late: int
    """Answered, but after the task's SLO."""
    normalized_accuracy: float | None
    """Mean over all answers of the accuracy of the version that gave it, divided by the task's best."""
    utilization: float | None
    """Mean of the busiest server over the seconds under load."""
    latency_p99_milliseconds: Mapping[str, float | None]
    """By task, over the whole run."""
    steps_down: int
    steps_up: int
    swaps: Mapping[str, int]
    """Swaps that succeeded, by kind."""
    swaps_failed: int
    client_bound: str | None
    """Why the numbers are the client's own; None when they can be trusted."""
    complete: bool
    """Whether the whole trace was sent."""

    @property
    def late_share(self) -> float:
        """Late answers by all requests."""
        return self.late / self.requests if self.requests else 0.0

    @property
    def violation_share(self) -> float:
        """Requests answered late or not at all by all requests."""
        return (self.late + self.failed) / self.requests if self.requests else 0.0

    def shortcomings(self) -> list[str]:
        """Return what the main job promises and this run did not show, one sentence each; empty when all was seen."""
        missing = []
        if not self.complete:
            missing.append("the trace was not replayed to its end")
        if self.requests == 0:
            missing.append("no request was sent")
        if self.failed:
            missing.append(f"{self.failed} of {self.requests} requests failed")
        if self.steps_down == 0:
            missing.append("no task stepped down")
        if self.steps_up == 0:
            missing.append("no task stepped up")
        return missing

    def sentence(self) -> str:
        """Return the run in one line."""
        accuracy = "unknown" if self.normalized_accuracy is None else f"{self.normalized_accuracy:.1%}"
        return (
            f"{self.name}: {self.requests:,} requests, {self.failed:,} failed, {self.late_share:.2%} late, "
            f"normalised accuracy {accuracy}, {self.steps_down} steps down, {self.steps_up} up"
            + (f"; don't trust the latencies: {self.client_bound}" if self.client_bound else "")
        )


def outcome_of(run: Run) -> Outcome:
    """Add up a run. Requests come from the load generator's summary, else from its lines (a run that broke off)."""
    down, up = count_steps(run)
    summary = run.summary
    if summary is not None:
        requests = sum(task.offered for task in summary.tasks)
        failed = sum(sum(task.failed.values()) for task in summary.tasks)
        late = sum(task.late for task in summary.tasks)
        p99 = {task.task: task.latency_p99_milliseconds for task in summary.tasks}
    else:
        requests = sum(line.offered for line in run.load)
        failed = sum(sum(line.failed.values()) for line in run.load)
        late = sum(line.late for line in run.load)
        p99 = {}
    return Outcome(
        name=run.header.name,
        requests=requests,
        failed=failed,
        late=late,
        normalized_accuracy=_mean_accuracy(run),
        utilization=_mean_utilization(run),
        latency_p99_milliseconds=p99,
        steps_down=down,
        steps_up=up,
        swaps=dict(run.swaps.succeeded) if run.swaps is not None else {},
        swaps_failed=sum(run.swaps.failed.values()) if run.swaps is not None else 0,
        client_bound=summary.client_bound if summary is not None else None,
        complete=summary is not None and summary.complete,
    )


def count_steps(run: Run) -> tuple[int, int]:
    """Return how often, under load, a task came to be answered by a less and by a more accurate version."""
    last: dict[str, float] = {}
    down = up = 0
    for line in run.pool:
        for task in line.tasks:
            if task.accuracy is None:
                continue
            before = last.get(task.task, task.accuracy)
            if run.start_seconds <= line.time_seconds <= run.end_seconds:
                down, up = down + (task.accuracy < before), up + (task.accuracy > before)
            last[task.task] = task.accuracy
    return down, up


def ladder_of(run: Run, task: str) -> TaskHeader | None:
    """Return a task's header, or None when the run has none of that name."""
    return next((header for header in run.header.tasks if header.task == task), None)


def _mean_accuracy(run: Run) -> float | None:
    normalized = {
        (task.task, str(version.version)): version.normalized_accuracy
        for task in run.header.tasks
        for version in task.ladder
    }
    total, answers = 0.0, 0
    for line in run.load:
        for version, count in line.versions.items():
            share = normalized.get((line.task, version))
            if share is not None:
                total += share * count
                answers += count
    return total / answers if answers else None


def _mean_utilization(run: Run) -> float | None:
    busiest = [
        max(seen)
        for line in run.pool
        if run.start_seconds <= line.time_seconds <= run.end_seconds
        and (seen := [server.utilization for server in line.servers if server.utilization is not None])
    ]
    return sum(busiest) / len(busiest) if busiest else None
