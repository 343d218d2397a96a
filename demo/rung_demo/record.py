"""What a run of the demo leaves behind: one JSON object a line, in the order it was seen.

Load lines come from the load generator as they are (`rung_loadgen.lines`); the rest is what the operator publishes in
the status of its resources and in events. A recording that broke off can be read up to where it did.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rung_loadgen.lines import LoadLine, LoadSummary, from_mapping

FORMAT = 1


@dataclass(frozen=True, slots=True)
class LadderVersion:
    """One version that a task may be answered by."""

    version: int
    accuracy: float
    """0 to 1."""
    normalized_accuracy: float
    """Divided by that of the task's best version, 0 to 1."""
    max_throughput_rps: float | None = None


@dataclass(frozen=True, slots=True)
class TaskHeader:
    """One task of a run; its versions from the cheapest to the best."""

    task: str
    slo_milliseconds: float
    ladder: tuple[LadderVersion, ...]


@dataclass(frozen=True, slots=True)
class RunHeader:
    """The first line of a recording: what was run."""

    time_seconds: float
    """Start, in seconds since the epoch."""
    name: str
    """What the report calls it, for example Stepwise or Static Best."""
    tasks: tuple[TaskHeader, ...]
    capacity_cores: float | None = None
    """CPU that the servers may use together."""
    trace: str = ""
    """What was replayed, in words."""
    note: str = ""
    """Shown above everything, for example that the data is made up."""
    format: int = FORMAT
    kind: str = "run"


@dataclass(frozen=True, slots=True)
class ServerLine:
    """One server at one moment; utilisation is CPU used by CPU allowed, 0 to 1 and for moments above."""

    server: str
    utilization: float | None = None
    expected_utilization: float | None = None


@dataclass(frozen=True, slots=True)
class TaskLine:
    """One task at one moment, as the operator sees it."""

    task: str
    active_version: int | None = None
    accuracy: float | None = None
    normalized_accuracy: float | None = None
    demand_rps: float | None = None


@dataclass(frozen=True, slots=True)
class PoolLine:
    """What the operator published, once a second."""

    time_seconds: float
    servers: tuple[ServerLine, ...] = ()
    tasks: tuple[TaskLine, ...] = ()
    kind: str = "pool"


@dataclass(frozen=True, slots=True)
class DecisionLine:
    """One decision of the operator that changed what a task is answered by."""

    time_seconds: float
    task: str
    code: str
    """StepDown, StepUp, Initial, ..."""
    sentence: str
    from_version: int | None = None
    to_version: int | None = None
    server: str = ""
    kind: str = "decision"


@dataclass(frozen=True, slots=True)
class SwapsLine:
    """Swaps since the start of the run by kind (warm, cold) and by outcome, and what each kind took in the mean."""

    time_seconds: float
    succeeded: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    mean_seconds: Mapping[str, float] = field(default_factory=dict)
    kind: str = "swaps"


Line = RunHeader | LoadLine | LoadSummary | PoolLine | DecisionLine | SwapsLine


class RecordError(ValueError):
    """A recording that can't be read; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Run:
    """One recording, sorted by what the lines are."""

    header: RunHeader
    load: tuple[LoadLine, ...] = ()
    pool: tuple[PoolLine, ...] = ()
    decisions: tuple[DecisionLine, ...] = ()
    swaps: SwapsLine | None = None
    """The last one."""
    summary: LoadSummary | None = None
    unread_lines: int = 0
    """Lines that could not be read, for example a last one that was cut."""

    @property
    def start_seconds(self) -> float:
        """When the load began (else the recording), in seconds since the epoch: second 0 of every plot."""
        if self.load:
            first = self.load[0]
            return first.time_seconds - first.elapsed_seconds
        return self.header.time_seconds

    @property
    def end_seconds(self) -> float:
        """When the last line about the load was written, in seconds since the epoch; infinity without load."""
        return max((line.time_seconds for line in self.load), default=float("inf"))


def to_json(line: Line) -> str:
    """Return one line of JSON without its line end. Raises ValueError for numbers that JSON lacks (NaN)."""
    return json.dumps(asdict(line), separators=(",", ":"), allow_nan=False)


def parse_line(text: str) -> Line:
    """Read one line. Raises ValueError saying what is wrong with it."""
    fields = json.loads(text)
    try:
        return _build(dict(fields))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"a line of another shape: {error}") from None


def _build(fields: dict[str, Any]) -> Line:
    match fields.get("kind"):
        case "run":
            if fields.get("format") != FORMAT:
                raise ValueError(f"format {fields.get('format')}; this reads format {FORMAT}")
            tasks = tuple(
                TaskHeader(**{**task, "ladder": tuple(LadderVersion(**version) for version in task["ladder"])})
                for task in fields["tasks"]
            )
            return RunHeader(**{**fields, "tasks": tasks})
        case "pool":
            servers = tuple(ServerLine(**server) for server in fields["servers"])
            return PoolLine(**{**fields, "servers": servers, "tasks": tuple(TaskLine(**t) for t in fields["tasks"])})
        case "decision":
            return DecisionLine(**fields)
        case "swaps":
            return SwapsLine(**fields)
        case _:
            return from_mapping(fields)


class Recorder:
    """Appends lines to a recording, each flushed at once; use it in a `with`."""

    def __init__(self, path: Path, header: RunHeader) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")
        self.write(header)

    def write(self, line: Line) -> None:
        """Append one line."""
        self._file.write(to_json(line) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_run(path: Path) -> Run:
    """Read a recording. Raises RecordError when it can't be opened or doesn't begin with a run's header."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return collect(file, str(path))
    except OSError as error:
        raise RecordError(f"{path}: can't be read: {error.strerror or error}") from error


def collect(lines: Iterable[str], name: str) -> Run:
    """Sort the lines of a recording; `name` is for messages. Raises RecordError when the first is no header."""
    header: RunHeader | None = None
    found: dict[type, list[Any]] = {}
    unread = 0
    for text in lines:
        if not text.strip():
            continue
        try:
            line = parse_line(text)
        except ValueError as error:
            if header is None:
                raise RecordError(f"{name}: does not begin with a run's header: {error}") from None
            unread += 1
            continue
        if header is None:
            if not isinstance(line, RunHeader):
                raise RecordError(f"{name}: does not begin with a run's header, but with a {line.kind} line")
            header = line
        else:
            found.setdefault(type(line), []).append(line)
    if header is None:
        raise RecordError(f"{name}: empty; nothing was recorded")
    return Run(
        header=header,
        load=tuple(found.get(LoadLine, ())),
        pool=tuple(found.get(PoolLine, ())),
        decisions=tuple(found.get(DecisionLine, ())),
        swaps=(found.get(SwapsLine) or [None])[-1],
        summary=(found.get(LoadSummary) or [None])[-1],
        unread_lines=unread,
    )
