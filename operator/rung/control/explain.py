"""What `rung explain` and `rung tasks` print: states and decisions, as sentences with their numbers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rung.adapters.kubernetes import Cluster, EventRecord, NotFound, connect
from rung.api import InferenceTask, ModelVersion, ServerPhase, TaskMode
from rung.api.parse import InvalidObject

CONDITIONS_WORTH_A_LINE = {("Degraded", "True"), ("Ready", "False"), ("VersionsAvailable", "False")}


async def explain_task(name: str, namespace: str | None, last: int) -> str:
    """Return the state of a task and its last decisions. Raises KubernetesError, InvalidObject."""
    async with connect() as cluster:
        where = namespace or cluster.namespace
        try:
            task = await cluster.read_task(where, name)
        except NotFound:
            raise NotFound(await _no_such_task(cluster, name, where)) from None
        versions = [v for v in (await cluster.list_versions(where)).objects if v.spec.task_ref.name == name]
        events = await cluster.list_events("InferenceTask", where, name)
    return render_task(task, versions, events[-last:], datetime.now(UTC))


async def list_tasks(namespace: str | None) -> str:
    """Return a table of the tasks of a namespace. Raises KubernetesError."""
    async with connect() as cluster:
        where = namespace or cluster.namespace
        listing = await cluster.list_tasks(where)
    return render_tasks(listing.objects, listing.invalid, where)


async def _no_such_task(cluster: Cluster, name: str, namespace: str) -> str:
    listing = await cluster.list_tasks(namespace)
    names = [task.name for task in listing.objects] + [invalid.name for invalid in listing.invalid]
    return no_such_task(name, namespace, names)


def no_such_task(name: str, namespace: str, names: Sequence[str]) -> str:
    """Say that there is no such task, and which name was perhaps meant."""
    missing = f"namespace {namespace} has no InferenceTask {name}"
    if not names:
        return f"{missing}, nor any other: is it another namespace? (-n NAMESPACE)"
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or sorted(names)[:5]
    return f"{missing}; there is {', '.join(close)}"


# --------------------------------------------------------------------------------------------------------- the table


def render_tasks(tasks: Sequence[InferenceTask], invalid: Iterable[InvalidObject], namespace: str) -> str:
    """Write a table of tasks, one a line, the reason last because it is the longest."""
    wrong = [f"not followed: {error}" for error in invalid]
    if not tasks:
        return "\n".join([f"namespace {namespace} has no InferenceTask", *wrong])
    rows: list[tuple[str, ...]] = [("TASK", "POOL", "MODE", "ACTIVE", "ACCURACY", "OF BEST", "DEMAND/S", "WHY")]
    rows += [_row(task) for task in tasks]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
    return "\n".join([*lines, *wrong])


def _row(task: InferenceTask) -> tuple[str, ...]:
    status = task.status
    active = str(status.active_version or "none")
    wanted = status.target_version
    return (
        task.name,
        task.spec.pool_ref.name,
        task.spec.mode.value,
        f"{active} -> {wanted}" if wanted is not None and wanted != status.active_version else active,
        _percent(status.accuracy),
        _percent(status.normalized_accuracy),
        "-" if status.demand is None else f"{status.demand:.1f}",
        _why(task),
    )


def _why(task: InferenceTask) -> str:
    """The reason of this moment, else the last decision's."""
    ready = next((c for c in task.status.conditions if c.type == "Ready"), None)
    if ready is not None and ready.message:
        return ready.message
    if task.status.last_decision is not None:
        return task.status.last_decision.sentence
    return "no operator has looked at it yet"


# ------------------------------------------------------------------------------------------------------------ a task


def render_task(
    task: InferenceTask, versions: Iterable[ModelVersion], events: Sequence[EventRecord], now: datetime
) -> str:
    """Write a task's state and decisions for a person."""
    parts = [_state(task, now), _servers(task), _ladder(task, list(versions)), _decisions(task, events, now)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _state(task: InferenceTask, now: datetime) -> list[str]:
    status = task.status
    lines = [f"{task.namespace}/{task.name}: {_now(task)}"]
    mode = "" if task.spec.mode is TaskMode.AUTO else f": {_mode(task)}"
    lines.append(f"  Pool {task.spec.pool_ref.name}, mode {task.spec.mode}{mode}")
    if not status.conditions:
        lines.append("  No operator has looked at it yet: does one look after this namespace?")
    elif status.observed_generation != task.metadata.generation and task.metadata.generation is not None:
        lines.append("  The operator has not seen the newest spec yet.")
    lines.append(f"  Why: {_why(task)}")
    for condition in status.conditions:
        if (condition.type, condition.status.value) in CONDITIONS_WORTH_A_LINE and condition.message:
            since = _ago(now, condition.last_transition_time).strip().removesuffix(" ago")
            lines.append(
                f"  {condition.type} is {condition.status} for {since} ({condition.reason}): {condition.message}"
            )
    return lines


def _mode(task: InferenceTask) -> str:
    if task.spec.mode is TaskMode.PINNED:
        return f"version {task.spec.pinned_version} shall answer, whatever the load"
    recommended = task.status.recommended_version
    if recommended is None:
        return "nothing is recommended"
    if recommended == task.status.active_version:
        return "it would keep this version"
    return f"it would be version {recommended}"


def _now(task: InferenceTask) -> str:
    status = task.status
    demand = f", {status.demand:.1f} inferences/s asked for" if status.demand is not None else ""
    if status.active_version is None:
        return f"no version answers{demand}"
    accuracy = f", accuracy {_percent(status.accuracy)}" if status.accuracy is not None else ""
    norm = f" ({_percent(status.normalized_accuracy)} of the best)" if status.normalized_accuracy is not None else ""
    moving = ""
    if status.target_version is not None and status.target_version != status.active_version:
        moving = f" and {status.target_version} shall"
    return f"version {status.active_version} answers{moving}{accuracy}{norm}{demand}"


def _servers(task: InferenceTask) -> list[str]:
    lines = ["Servers:"] if task.status.servers else []
    for server in task.status.servers:
        what = f"version {server.active}" if server.active is not None else "no version"
        standby = f", standing by: {', '.join(map(str, server.standby))}" if server.standby else ""
        message = f": {server.message}" if server.message and server.phase is not ServerPhase.SERVING else ""
        lines.append(f"  {server.name}  {server.phase}  {what}{standby}{message}")
    return lines


def _ladder(task: InferenceTask, versions: list[ModelVersion]) -> list[str]:
    if not versions:
        return [f"No ModelVersion names this task (taskRef.name: {task.name}): publish and register one."]
    loaded = {number for server in task.status.servers for number in server.standby}
    cells = [
        _rung(version, task, loaded) for version in sorted(versions, key=lambda v: (-v.spec.accuracy.value, v.name))
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    title = f"Versions, the most accurate first ({len(versions)}; > answers, + stands by):"
    rows = ("  ".join([*(c.rjust(w) for c, w in zip(row, widths, strict=False)), row[4]]).rstrip() for row in cells)
    return [title, *(f"  {row}" for row in rows)]


def _rung(version: ModelVersion, task: InferenceTask, loaded: set[int]) -> tuple[str, ...]:
    spec, status = version.spec, version.status
    mark = ">" if spec.version == task.status.active_version else ("+" if spec.version in loaded else " ")
    speeds = [f"{profile.max_throughput:.1f}/s" for profile in spec.profiles]
    notes = []
    if status.broken_on:
        notes.append(f"broken on {status.broken_on[0].server}: {status.broken_on[0].message}")
    if status.dominated_by:
        notes.append(f"never chosen: {status.dominated_by} is at least as accurate and as fast")
    available = next((c for c in status.conditions if c.type == "Available"), None)
    if available is not None and available.status.value != "True":
        notes.append(f"not on every server: {available.message}")
    if task.spec.min_accuracy is not None and spec.accuracy.value < task.spec.min_accuracy:
        notes.append("below minAccuracy")
    return (
        f"{mark} {spec.version}",
        _percent(spec.accuracy.value),
        " | ".join(speeds) or "not profiled",
        spec.lineage.method,
        "; ".join(notes),
    )


def _decisions(task: InferenceTask, events: Sequence[EventRecord], now: datetime) -> list[str]:
    lines = [f"  {_ago(now, event.last_seen)}  {event.reason}: {event.note}{_times(event)}" for event in events]
    decision = task.status.last_decision
    if not lines and decision is not None:
        lines = [f"  {_ago(now, decision.time)}  {decision.code}: {decision.sentence}"]
    return ["Last decisions and swaps, the newest at the end:", *(lines or ["  none yet"])]


def _times(event: EventRecord) -> str:
    return f" ({event.count} times)" if event.count > 1 else ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _ago(now: datetime, then: datetime) -> str:
    seconds = max(0, int((now - then).total_seconds()))
    if seconds < 120:
        return f"{seconds:>4} s ago"
    return f"{seconds // 60:>4} m ago" if seconds < 7200 else f"{seconds // 3600:>4} h ago"
