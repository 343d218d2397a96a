"""What a run looks like while it runs: demand, CPU, the rung of each task, late answers and the last reasons.

On a terminal the view is drawn in place, once a second, in whatever width there is. Anywhere else (CI, a file) it
prints a plain line every ten seconds and one for each decision.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rung_demo.record import DecisionLine, LadderVersion, Line, PoolLine, RunHeader
from rung_loadgen.lines import LoadLine, LoadSummary

PLAIN_EVERY_SECONDS = 10
HISTORY_SECONDS = 120
DECISIONS_SHOWN = 3
_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = ("dodger_blue1", "orange3", "dark_cyan", "medium_purple2", "deep_pink4", "yellow4")


@dataclass
class TaskView:
    """What is known of one task so far."""

    name: str
    ladder: tuple[LadderVersion, ...]
    """Least accurate version first."""
    active_version: int | None = None
    offered: deque[int] = field(default_factory=lambda: deque(maxlen=HISTORY_SECONDS))
    requests: int = 0
    late: int = 0
    failed: int = 0
    p99_milliseconds: float | None = None

    @property
    def rung(self) -> int | None:
        """Place of the active version on the ladder, 0 for the least accurate; None while it is not known."""
        for place, version in enumerate(self.ladder):
            if version.version == self.active_version:
                return place
        return None


@dataclass
class ViewState:
    """Everything that the view shows; `take` feeds it one line of the recording."""

    header: RunHeader
    tasks: dict[str, TaskView] = field(init=False)
    elapsed_seconds: int = 0
    utilization: float | None = None
    expected_utilization: float | None = None
    started_seconds: float | None = None
    decisions: deque[tuple[float, DecisionLine]] = field(default_factory=lambda: deque(maxlen=DECISIONS_SHOWN))
    ended: bool = False

    def __post_init__(self) -> None:
        self.tasks = {
            task.task: TaskView(task.task, tuple(sorted(task.ladder, key=lambda version: version.accuracy)))
            for task in self.header.tasks
        }

    def take(self, line: Line) -> None:
        """Take in one line; lines about tasks that the header doesn't name are left out."""
        if isinstance(line, LoadLine):
            self._take_load(line)
        elif isinstance(line, PoolLine):
            self._take_pool(line)
        elif isinstance(line, DecisionLine):
            since = line.time_seconds - (self.started_seconds or self.header.time_seconds)
            self.decisions.append((max(0.0, since), line))
        elif isinstance(line, LoadSummary):
            self.ended = True

    def _take_load(self, line: LoadLine) -> None:
        self.started_seconds = line.time_seconds - line.elapsed_seconds
        self.elapsed_seconds = max(self.elapsed_seconds, line.elapsed_seconds)
        task = self.tasks.get(line.task)
        if task is None:
            return
        task.offered.append(line.offered)
        task.requests += line.offered
        task.late += line.late
        task.failed += sum(line.failed.values())
        task.p99_milliseconds = line.latency_p99_milliseconds

    def _take_pool(self, line: PoolLine) -> None:
        busiest = max(line.servers, key=lambda server: server.utilization or 0.0, default=None)
        self.utilization = busiest.utilization if busiest is not None else None
        self.expected_utilization = busiest.expected_utilization if busiest is not None else None
        for seen in line.tasks:
            if seen.task in self.tasks:
                self.tasks[seen.task].active_version = seen.active_version


def sparkline(values: list[int], width: int) -> str:
    """Draw the last `width` values as bars, the highest of all `values` a full one."""
    highest = max(values, default=0)
    if highest <= 0:
        return _BARS[0] * min(len(values), max(0, width))
    return "".join(_BARS[round(value / highest * (len(_BARS) - 1))] for value in values[-width:]) if width > 0 else ""


def render(state: ViewState, width: int) -> Group:
    """Draw the state as lines of at most `width` columns."""
    narrow = width < 76
    title = Text.assemble((state.header.name, "bold"), f"  {state.elapsed_seconds} s")
    if state.header.note:
        title.append(f"  {state.header.note}", style="yellow")
    lines = [title, _cpu_line(state, width)]
    for number, task in enumerate(state.tasks.values()):
        lines += _task_lines(task, _COLOURS[number % len(_COLOURS)], width, narrow)
    lines.append(Text())
    if not state.decisions:
        lines.append(Text("No version was changed yet.", style="dim"))
    for seconds, decision in state.decisions:
        lines.append(Text.assemble((f"{seconds:4.0f} s  ", "dim"), (decision.code, "bold"), f"  {decision.sentence}"))
    for line in lines[:-DECISIONS_SHOWN]:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _cpu_line(state: ViewState, width: int) -> Text:
    if state.utilization is None:
        return Text("CPU     no signal yet", style="dim")
    cells = max(8, min(40, width - 34))
    full = round(min(1.0, max(0.0, state.utilization)) * cells)
    colour = "red" if state.utilization > 0.9 else "yellow" if state.utilization > 0.7 else "green"
    expected = "" if state.expected_utilization is None else f"  expected {state.expected_utilization:.0%}"
    bar = ("█" * full, colour), ("░" * (cells - full), "dim")
    return Text.assemble("CPU     ", *bar, f" {state.utilization:4.0%}", (expected, "dim"))


def _task_lines(task: TaskView, colour: str, width: int, narrow: bool) -> list[Text]:
    name = f"{task.name[:12]:<8}"
    demand = f" {task.offered[-1] if task.offered else 0:>4}/s"
    spark = sparkline(list(task.offered), max(8, min(60, width - len(name) - len(demand) - (0 if narrow else 34))))
    first = Text.assemble((name, f"bold {colour}"), (spark, colour), demand)
    rung = Text.assemble("  ", *_rungs(task, colour), f" {_accuracy(task)}")
    share = task.late / task.requests if task.requests else 0.0
    p99 = "–" if task.p99_milliseconds is None else f"{task.p99_milliseconds:.0f} ms"  # noqa: RUF001 - nothing
    numbers = Text.assemble(
        f"        p99 {p99}  late {task.late} ({share:.2%})  ",
        (f"failed {task.failed}", "bold red" if task.failed else "dim"),
    )
    if narrow:
        return [first, Text.assemble("      ", rung), numbers]
    return [Text.assemble(first, rung), numbers]


def _rungs(task: TaskView, colour: str) -> list[tuple[str, str]]:
    rung = task.rung
    return [("●", colour) if place == rung else ("○", "dim") for place in range(len(task.ladder))]


def _accuracy(task: TaskView) -> str:
    rung = task.rung
    if rung is None:
        return "no version yet" if task.active_version is None else f"version {task.active_version}"
    version = task.ladder[rung]
    return f"{version.accuracy:.1%} ({version.normalized_accuracy:.0%} of best)"


def plain_line(state: ViewState) -> str:
    """Return the state as one line without colours."""
    cpu = "CPU unknown" if state.utilization is None else f"CPU {state.utilization:.0%}"
    tasks = "; ".join(
        f"{task.name} {task.offered[-1] if task.offered else 0}/s at {_accuracy(task)}, late {task.late}, "
        f"failed {task.failed}"
        for task in state.tasks.values()
    )
    return f"{state.elapsed_seconds:>4} s  {cpu}; {tasks}"


class LiveView:
    """Shows lines as they come: `with LiveView(header) as view: view.show(line)`. No line makes it raise."""

    def __init__(self, header: RunHeader, console: Console | None = None) -> None:
        self.state = ViewState(header)
        self._console = console or Console()
        self._live: Live | None = None
        self._printed_seconds = 0
        # The view is drawn by a thread of its own.
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console, auto_refresh=True, refresh_per_second=2, get_renderable=self._render
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> Group:
        with self._lock:
            return render(self.state, self._console.width)

    def show(self, line: Line) -> None:
        """Take in one line of the recording, and show what it changes."""
        with self._lock:
            self.state.take(line)
        if self._live is not None:
            return
        if isinstance(line, DecisionLine):
            seconds = self.state.decisions[-1][0]
            self._print(f"{seconds:4.0f} s  {line.code}: {line.sentence}")
        elif isinstance(line, LoadSummary) or self._due():
            self._printed_seconds = self.state.elapsed_seconds
            self._print(plain_line(self.state))

    def _due(self) -> bool:
        return self.state.elapsed_seconds >= self._printed_seconds + PLAIN_EVERY_SECONDS

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
