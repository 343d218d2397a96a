"""What the pictures of one task show, whoever draws them: points on axes, frontiers, curves. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rung.api.version import ModelVersionSpec
from rung_porting.repository.catalogue import Row
from rung_porting.repository.ladder import Rung, dominators
from rung_porting.show.curves import CurvePoint, read_curve, read_interval
from rung_porting.show.record import Record, Tried
from rung_porting.show.style import style_of

OPERATIONS, THREAD, SIZE = "operations", "thread", "size"
"""Axes for what was not profiled. A hardware class's axis is named `class:` and its name."""
_CLASS = "class:"
_SHORTEST_SECONDS = 1e-12
"""An answer that is said to have taken less was not measured."""


@dataclass(frozen=True, slots=True)
class Point:
    """One version on one axis: `x` rises as it gets cheaper, in the axis's unit; accuracy is 0 to 1.

    `beaten_by` is None on the frontier of this axis. `interval` is where the true x lies, if that was measured.
    """

    spec: ModelVersionSpec
    x: float
    beaten_by: int | None
    interval: tuple[float, float] | None = None

    @property
    def accuracy(self) -> float:
        """Its accuracy, 0 to 1."""
        return self.spec.accuracy.value

    @property
    def number(self) -> int:
        """Its version number."""
        return self.spec.version

    @property
    def int8(self) -> bool:
        """Whether its arithmetic is INT8."""
        return style_of(self.spec.lineage.method)[1]


@dataclass(frozen=True, slots=True)
class Trial:
    """A version that was tried and did not survive, on an axis."""

    tried: Tried
    x: float


@dataclass(frozen=True, slots=True)
class Axis:
    """Accuracy over one measure of cheapness.

    Attributes:
        key: names it.
        label: a word or two, for a switch.
        title: of the x axis, with the unit.
        measured: whether x is throughput that was measured on a server.
        points: versions, x ascending.
        frontiers: the numbers of the versions on each frontier, x ascending; two where float and INT8 can't be
            compared.
        trials: what did not survive.
        missing: versions that have no place on this axis.
    """

    key: str
    label: str
    title: str
    measured: bool
    points: tuple[Point, ...]
    frontiers: tuple[tuple[int, ...], ...]
    trials: tuple[Trial, ...] = ()
    missing: tuple[int, ...] = ()

    def frontier_points(self) -> list[Point]:
        """The points of all frontiers, x ascending."""
        return [point for point in self.points if point.beaten_by is None]


@dataclass(frozen=True, slots=True)
class Curve:
    """Latency over load of one version on one hardware class, measured for a service level of `slo_seconds`."""

    spec: ModelVersionSpec
    points: tuple[CurvePoint, ...]
    slo_seconds: float
    max_throughput_rps: float
    on_frontier: bool


@dataclass(frozen=True, slots=True)
class ClassCurves:
    """The curves of one hardware class, the most accurate version first, and the versions that have none."""

    hardware_class: str
    curves: tuple[Curve, ...]
    without: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TaskView:
    """All of one task: its versions ascending, its axes, the one to show first at the front, its curves."""

    task: str
    rows: tuple[Row, ...]
    axes: tuple[Axis, ...]
    curves: tuple[ClassCurves, ...]
    record: Record | None


def task_view(
    task: str,
    rows: tuple[Row, ...],
    documents: Mapping[str, Mapping[str, Mapping[str, Any]]],
    record: Record | None = None,
    hardware_class: str | None = None,
) -> TaskView:
    """Gather what there is to see of one task.

    Args:
        task: its name.
        rows: its versions.
        documents: its profiles as their files have them, by version name and hardware class.
        record: what the search left.
        hardware_class: judged by, and shown first. Otherwise that is the first class that all versions were profiled
            on, and what they cost in operations where there is none.
    """
    specs = [row.spec for row in rows]
    by_class = [_class_axis(name, specs, documents) for name in _classes(specs)]
    estimates = [axis for axis in (_operations(specs, record), _thread(specs, record)) if axis is not None]
    axes = [*by_class, *estimates] or [_size(specs)]
    whole = [axis for axis in by_class if not axis.missing]
    first = [axis for axis in by_class if axis.key == f"{_CLASS}{hardware_class}"] or whole[:1] or estimates[:1]
    ordered = [*first, *(axis for axis in axes if axis not in first)]
    curves = [_class_curves(axis, documents) for axis in ordered if axis.measured]
    beaten_by = {point.number: point.beaten_by for point in ordered[0].points}
    rows = tuple(replace(row, beaten_by=beaten_by.get(row.number, row.beaten_by)) for row in rows)
    return TaskView(task, rows, tuple(ordered), tuple(curves), record)


def step_line(axis: Axis, frontier: Sequence[int]) -> tuple[list[float], list[float]]:
    """Return the corners of a frontier: the best accuracy that is to be had at each x."""
    points = [point for point in axis.points if point.number in frontier]
    xs: list[float] = []
    ys: list[float] = []
    for point in points:
        if xs:
            xs.append(xs[-1])
            ys.append(point.accuracy)
        xs.append(point.x)
        ys.append(point.accuracy)
    return xs, ys


def reference(axis: Axis) -> Point | None:
    """Return what speeds are compared with: the unpruned network, else the most accurate version."""
    bases = [point for point in axis.points if style_of(point.spec.lineage.method) == ("base", False)]
    return max(bases or axis.points, key=lambda point: point.accuracy, default=None)


def best_within(axis: Axis, lost: float) -> tuple[Point, float] | None:
    """Return the fastest version that loses at most `lost` accuracy on the best, and how many times faster it is."""
    best = max(axis.points, key=lambda point: (point.accuracy, point.x), default=None)
    if best is None:
        return None
    near = [point for point in axis.points if point.accuracy >= best.accuracy - lost - 1e-9]
    fastest = max(near, key=lambda point: point.x)
    return fastest, fastest.x / best.x


def _classes(specs: Sequence[ModelVersionSpec]) -> list[str]:
    return sorted({profile.hardware_class for spec in specs for profile in spec.profiles})


def _class_axis(
    name: str, specs: Sequence[ModelVersionSpec], documents: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> Axis:
    found: list[tuple[ModelVersionSpec, float, tuple[float, float] | None]] = []
    levels, limits = set(), set()
    for spec in specs:
        for profile in spec.profiles:
            if profile.hardware_class == name:
                document = documents.get(f"{spec.task_ref.name}-{spec.version}", {}).get(name, {})
                found.append((spec, profile.max_throughput, read_interval(document, profile.max_throughput)))
                levels.add(str(profile.slo_latency))
                limits.add(profile.cpu)
    told = [f"within {' or '.join(sorted(levels))}"] + [f"on {cpu} CPU" for cpu in limits if len(limits) == 1 and cpu]
    title = f"measured on {name}: inferences per second {' '.join(told)}"
    return _axis(f"{_CLASS}{name}", name, title, [found], specs, measured=True)


def _operations(specs: Sequence[ModelVersionSpec], record: Record | None) -> Axis | None:
    groups: list[list[tuple[ModelVersionSpec, float, tuple[float, float] | None]]] = [[], []]
    for spec in specs:
        if spec.lineage.flops is not None:
            groups[style_of(spec.lineage.method)[1]].append((spec, 1e9 / spec.lineage.flops, None))
    if not any(groups):
        return None
    title = "inferences per GFLOP: from the operations, not measured throughput"
    trials = [Trial(tried, 1e9 / tried.flops) for tried in _lost(record) if tried.flops >= 1]
    return _axis(OPERATIONS, "operations", title, groups, specs, trials=trials)


def _thread(specs: Sequence[ModelVersionSpec], record: Record | None) -> Axis | None:
    seconds = {tried.number: tried.latency_seconds for tried in record.versions} if record is not None else {}
    found = [
        (spec, 1 / seconds[spec.version], None) for spec in specs if seconds.get(spec.version, 0) > _SHORTEST_SECONDS
    ]
    if not found:
        return None
    title = "answers per CPU-second of one thread where it was made: not measured throughput"
    trials = [
        Trial(tried, 1 / tried.latency_seconds) for tried in _lost(record) if tried.latency_seconds > _SHORTEST_SECONDS
    ]
    return _axis(THREAD, "one thread", title, [found], specs, trials=trials)


def _size(specs: Sequence[ModelVersionSpec]) -> Axis:
    found = [(spec, 1e6 / spec.artifact.bytes, None) for spec in specs]
    return _axis(
        SIZE, "file size", "versions per megabyte: from the file size, not measured throughput", [found], specs
    )


def _lost(record: Record | None) -> list[Tried]:
    return [tried for tried in record.versions if tried.number is None] if record is not None else []


def _axis(
    key: str,
    label: str,
    title: str,
    groups: Sequence[Sequence[tuple[ModelVersionSpec, float, tuple[float, float] | None]]],
    specs: Sequence[ModelVersionSpec],
    *,
    measured: bool = False,
    trials: Sequence[Trial] = (),
) -> Axis:
    points: list[Point] = []
    frontiers: list[tuple[int, ...]] = []
    for group in groups:
        beaten = dominators([Rung(spec.version, spec.accuracy.value, -x) for spec, x, _ in group])
        placed = [Point(spec, x, beaten.get(spec.version), interval) for spec, x, interval in group]
        placed.sort(key=lambda point: (point.x, -point.accuracy))
        points += placed
        frontiers.append(tuple(point.number for point in placed if point.beaten_by is None))
    points.sort(key=lambda point: (point.x, -point.accuracy))
    shown = {point.number for point in points}
    missing = tuple(spec.version for spec in specs if spec.version not in shown)
    return Axis(key, label, title, measured, tuple(points), tuple(filter(None, frontiers)), tuple(trials), missing)


def _class_curves(axis: Axis, documents: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> ClassCurves:
    name = axis.key.removeprefix(_CLASS)
    curves: list[Curve] = []
    without: list[int] = []
    for point in sorted(axis.points, key=lambda each: -each.accuracy):
        (profile,) = (each for each in point.spec.profiles if each.hardware_class == name)
        found = read_curve(documents.get(f"{point.spec.task_ref.name}-{point.number}", {}).get(name, {}))
        if found:
            slo_seconds, on_frontier = profile.slo_latency.seconds, point.beaten_by is None
            curves.append(Curve(point.spec, found, slo_seconds, profile.max_throughput, on_frontier))
        else:
            without.append(point.number)
    return ClassCurves(name, tuple(curves), tuple(without))
