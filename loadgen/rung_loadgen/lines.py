"""The lines that a replay writes: one a second and task, and one summary at the end. JSON, one object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rung_loadgen.result import Result, StreamResult, percentiles_milliseconds


@dataclass(frozen=True, slots=True)
class LoadLine:
    """One second of one task as its clients saw it; percentiles are of the answers that arrived in that second."""

    time_seconds: float
    """The end of that second, in seconds since the epoch."""
    elapsed_seconds: int
    """Seconds from the start of the replay to the end of this one."""
    task: str
    slo_milliseconds: float
    offered: int
    """Requests whose intended time lies in this second."""
    completed: int
    """Answers that arrived in this second, late ones among them."""
    late: int
    """Of those, answers that took longer than the SLO, counted from the intended time."""
    in_flight: int
    """Requests sent and not yet answered at the end of this second."""
    failed: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    latency_p50_milliseconds: float | None = None
    latency_p95_milliseconds: float | None = None
    latency_p99_milliseconds: float | None = None
    latency_max_milliseconds: float | None = None
    client_cpu_share: float = 0.0
    """Cores used by the whole client in this second."""
    client_lateness_p99_milliseconds: float = 0.0
    """How late the client sent this task's requests, 99th percentile of this second."""
    kind: str = "load"


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """A whole replay of one task."""

    task: str
    slo_milliseconds: float
    offered: int
    answered: int
    late: int
    failed: Mapping[str, int]
    late_share: float
    """Late answers by all requests, 0 to 1."""
    violation_share: float
    """Requests answered late or not at all by all requests, 0 to 1."""
    versions: Mapping[str, int]
    latency_p50_milliseconds: float | None
    latency_p95_milliseconds: float | None
    latency_p99_milliseconds: float | None
    latency_max_milliseconds: float | None


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """The last line of a replay."""

    time_seconds: float
    duration_seconds: float
    complete: bool
    """False when the replay was ended before its trace was."""
    tasks: tuple[TaskSummary, ...]
    client_cpu_share: float
    client_cpu_microseconds_per_request: float
    client_lateness_p99_milliseconds: float
    client_lateness_max_milliseconds: float
    client_bound: str | None
    """Why the numbers are the client's own rather than the server's; null when they can be trusted."""
    kind: str = "load_summary"


def summarise(result: Result, time_seconds: float, *, complete: bool, max_lateness_seconds: float) -> LoadSummary:
    """Sum up a run; `max_lateness_seconds` is the client's own error (p99) above which its numbers are not trusted."""
    client = result.client
    return LoadSummary(
        time_seconds=round(time_seconds, 3),
        duration_seconds=round(client.wall_seconds, 3),
        complete=complete,
        tasks=tuple(_summarise_stream(stream) for stream in result.streams),
        client_cpu_share=round(client.cpu_share, 4),
        client_cpu_microseconds_per_request=round(client.cpu_seconds_per_request * 1e6, 1),
        client_lateness_p99_milliseconds=round(client.lateness_p99_seconds * 1e3, 3),
        client_lateness_max_milliseconds=round(client.lateness_max_seconds * 1e3, 3),
        client_bound=client.bound(max_lateness_seconds),
    )


def _summarise_stream(stream: StreamResult) -> TaskSummary:
    latency = percentiles_milliseconds(stream.latencies_seconds)
    return TaskSummary(
        task=stream.name,
        slo_milliseconds=stream.slo_seconds * 1e3,
        offered=stream.offered,
        answered=stream.offered - stream.failed,
        late=stream.late,
        failed=stream.failures,
        late_share=round(stream.late / stream.offered, 6) if stream.offered else 0.0,
        violation_share=round(stream.violation_share, 6),
        versions=stream.versions,
        latency_p50_milliseconds=latency["p50"],
        latency_p95_milliseconds=latency["p95"],
        latency_p99_milliseconds=latency["p99"],
        latency_max_milliseconds=latency["max"],
    )


def to_json(line: LoadLine | LoadSummary) -> str:
    """Return one line of JSON without its line end."""
    return json.dumps(asdict(line), separators=(",", ":"), allow_nan=False)


def from_mapping(fields: Mapping[str, Any]) -> LoadLine | LoadSummary:
    """Rebuild a line from its JSON object. Raises ValueError for an object that is neither kind, or lacks a field."""
    kind = fields.get("kind")
    try:
        if kind == "load":
            return LoadLine(**fields)
        if kind == "load_summary":
            tasks = tuple(TaskSummary(**task) for task in fields["tasks"])
            return LoadSummary(**{**fields, "tasks": tasks})
    except (TypeError, KeyError) as error:
        raise ValueError(f"a {kind} line of another shape: {error}") from None
    raise ValueError(f"neither a load line nor a load summary: kind is {kind!r}")
