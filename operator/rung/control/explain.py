"""What `rung explain` and `rung tasks` print: states and decisions, as sentences with their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rung.adapters.kubernetes import Cluster, EventRecord, connect
from rung.api import InferenceTask, ModelVersion


async def explain_task(name: str, namespace: str | None, last: int) -> str:
    """Return the state of a task and its last decisions. Raises KubernetesError."""
    async with connect() as cluster:
        where = namespace or cluster.namespace
        task = await cluster.read_task(where, name)
        versions = [v for v in (await cluster.list_versions(where)).objects if v.spec.task_ref.name == name]
        events = await _events(cluster, where, name)
    return render_task(task, versions, events[-last:], datetime.now(UTC))


async def list_tasks(namespace: str | None) -> str:
    """Return a table of the tasks of a namespace. Raises KubernetesError."""
    async with connect() as cluster:
        where = namespace or cluster.namespace
        listing = await cluster.list_tasks(where)
    if not listing.objects and not listing.invalid:
        return f"no InferenceTask in namespace {where}"
    rows: list[tuple[str, ...]] = [("TASK", "POOL", "ACTIVE", "ACCURACY", "NORM", "DEMAND/s", "WHY")]
    rows += [_row(task) for task in listing.objects]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[6]]) for row in rows]
    lines += [f"left out: {error}" for error in listing.invalid]
    return "\n".join(lines)


async def _events(cluster: Cluster, namespace: str, name: str) -> Sequence[EventRecord]:
    return await cluster.list_events("InferenceTask", namespace, name)


def _row(task: InferenceTask) -> tuple[str, ...]:
    status = task.status
    return (
        task.name,
        task.spec.pool_ref.name,
        str(status.active_version or "-"),
        _percent(status.accuracy),
        _percent(status.normalized_accuracy),
        "-" if status.demand is None else f"{status.demand:.1f}",
        status.last_decision.sentence if status.last_decision else "no decision yet",
    )


def render_task(
    task: InferenceTask, versions: Iterable[ModelVersion], events: Sequence[EventRecord], now: datetime
) -> str:
    """Write a task's state and decisions for a person."""
    status = task.status
    lines = [f"{task.namespace}/{task.name}: {_now(task)}"]
    wanted = status.target_version or status.recommended_version
    if wanted is not None and wanted != status.active_version:
        verb = "would be" if status.target_version is None else "shall be"
        lines.append(f"  {verb} version {wanted}")
    for condition in status.conditions:
        if condition.message:
            lines.append(f"  {condition.type} is {condition.status} ({condition.reason}): {condition.message}")
    for server in status.servers:
        standby = f", standing by: {', '.join(map(str, server.standby))}" if server.standby else ""
        message = f" ({server.message})" if server.message else ""
        lines.append(f"  on {server.name}: {server.phase}, version {server.active or 'none'}{standby}{message}")
    lines += ["", "Ladder, best first:"]
    active = status.active_version
    for version in sorted(versions, key=lambda v: -v.spec.accuracy.value):
        lines.append(_rung(version, active))
    lines += ["", "Last decisions:"]
    if not events and status.last_decision is None:
        lines.append("  none yet")
    elif not events and status.last_decision is not None:
        decision = status.last_decision
        lines.append(f"  {_ago(now, decision.time)}  {decision.code}: {decision.sentence}")
    lines += [f"  {_ago(now, event.last_seen)}  {event.reason}: {event.note}" for event in events]
    return "\n".join(lines)


def _now(task: InferenceTask) -> str:
    status = task.status
    if status.active_version is None:
        return "no version answers"
    accuracy = f", accuracy {_percent(status.accuracy)}" if status.accuracy is not None else ""
    norm = f" ({_percent(status.normalized_accuracy)} of the best)" if status.normalized_accuracy is not None else ""
    demand = f", {status.demand:.1f} inferences/s asked for" if status.demand is not None else ""
    return f"version {status.active_version} answers{accuracy}{norm}{demand}"


def _rung(version: ModelVersion, active: int | None) -> str:
    spec = version.spec
    mark = ">" if spec.version == active else " "
    speed = f"{spec.profiles[0].max_throughput:.1f}/s" if spec.profiles else "not profiled"
    note = f"  beaten by {version.status.dominated_by}" if version.status.dominated_by else ""
    broken = "  broken: " + version.status.broken_on[0].message if version.status.broken_on else ""
    return f"{mark} {spec.version}  {_percent(spec.accuracy.value)}  {speed}  {spec.lineage.method}{note}{broken}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _ago(now: datetime, then: datetime) -> str:
    seconds = max(0, int((now - then).total_seconds()))
    if seconds < 120:
        return f"{seconds:>4} s ago"
    return f"{seconds // 60:>4} m ago" if seconds < 7200 else f"{seconds // 3600:>4} h ago"
