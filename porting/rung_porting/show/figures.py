"""Accuracy over throughput, or over what stands for it, as Plotly specifications. Pure; see `plot_parts`.

Text from outside is escaped here, as Plotly takes some HTML in what it draws and shows on hover.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from math import log10

from rung_porting.show.plot_parts import (
    Spec,
    decades,
    escaped,
    log_range,
    number_format,
    plain_layout,
    spaced,
    trace,
    variable,
)
from rung_porting.show.style import COLOURS, FAMILY, style_of
from rung_porting.show.view import Axis, Point, TaskView, Trial, reference, step_line

_WRAP = 46


def frontier_figure(axis: Axis, view: TaskView) -> Spec:
    """Return accuracy over one axis: what did not survive, what is beaten, the frontier, and what is on it."""
    data: list[Spec] = []
    if axis.trials:
        data.append(_trials(axis.trials))
    for place, frontier in enumerate(axis.frontiers):
        xs, ys = step_line(axis, frontier)
        dash = "dot" if len(axis.frontiers) > 1 and place else "solid"
        line = {"color": "--step", "width": 1.8, "dash": dash}
        data.append({**trace("frontier", xs, ys), "mode": "lines", "line": line, "hoverinfo": "skip"})
    data += [trace for trace in (_beaten(axis), *_on_frontier(axis)) if trace["x"]]
    xaxis = {
        "type": "log",
        "range": log_range([*(point.x for point in axis.points), *(trial.x for trial in axis.trials)]),
        "title": {"text": escaped(axis.title), "standoff": 10},
        "tickformat": number_format([point.x for point in axis.points]),
        "dtick": "D2",
    }
    accuracies = [point.accuracy for point in axis.points] + [trial.tried.accuracy for trial in axis.trials]
    yaxis = {"tickformat": _percent_format(accuracies), "title": {"text": escaped(_metric(view)), "standoff": 8}}
    return {"data": data, "layout": plain_layout(430, xaxis, yaxis)}


def hover(point: Point, axis: Axis, first: Point | None) -> str:
    """Return what is told of a version on hover, as the HTML that Plotly takes."""
    lineage, accuracy = point.spec.lineage, point.spec.accuracy
    lines = [
        f"<b>{point.number}</b>  {escaped(lineage.method)}",
        f"{escaped(accuracy.metric)} {accuracy.value:.3%}"
        + (f" of {accuracy.samples:,} samples" if accuracy.samples else ""),
        _speed(point, axis, first),
        f"parent: {escaped(lineage.parent)}" if lineage.parent else "parent: none",
        ", ".join(
            told
            for told in (
                None if lineage.sparsity is None else f"{lineage.sparsity:.1%} sparse",
                None if lineage.epochs is None else f"{lineage.epochs:g} epochs",
            )
            if told
        ),
        ", ".join(
            told
            for told in (
                None if lineage.parameters is None else f"{lineage.parameters:,} parameters",
                None if lineage.flops is None else f"{lineage.flops / 1e6:,.4g} MFLOP",
            )
            if told
        ),
        f"sha256 {point.spec.artifact.sha256[:12]}",
        "" if point.beaten_by is None else f"beaten by {point.beaten_by}",
    ]
    return "<br>".join(filter(None, lines))


def _speed(point: Point, axis: Axis, first: Point | None) -> str:
    unit = "inferences/s" if axis.measured else escaped(axis.title.partition(":")[0])
    told = f"{point.x:,.4g} {unit}"
    if point.interval is not None:
        told += f" ({point.interval[0]:,.4g} to {point.interval[1]:,.4g})"
    if first is not None and first.number != point.number:
        told += f", {point.x / first.x:.3g}x of {first.number}"
    return told


def _trials(trials: Sequence[Trial]) -> Spec:
    told = [
        "<br>".join(
            (
                f"<b>did not survive</b>  {escaped(trial.tried.method)}",
                f"accuracy {trial.tried.accuracy:.2%}, {trial.tried.flops / 1e6:,.4g} MFLOP",
                *map(escaped, textwrap.wrap(trial.tried.verdict[:600], _WRAP)),
            )
        )
        for trial in trials
    ]
    return {
        **trace("tried", [trial.x for trial in trials], [trial.tried.accuracy for trial in trials]),
        "mode": "markers",
        "marker": {"size": 5.5, "color": "--beaten", "opacity": 0.75, "line": {"width": 0}},
        "customdata": told,
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _beaten(axis: Axis) -> Spec:
    points = [point for point in axis.points if point.beaten_by is not None]
    marker = {
        "size": 11,
        "color": "--paper",
        "symbol": [_symbol(point) for point in points],
        "line": {"color": "--beaten", "width": 2},
    }
    return _versions("beaten", points, marker, axis)


def _on_frontier(axis: Axis) -> Iterable[Spec]:
    labels = spaced_labels(axis)
    for key in COLOURS:
        points = [point for point in axis.frontier_points() if style_of(point.spec.lineage.method)[0] == key]
        marker = {
            "size": 13,
            "color": variable(key),
            "symbol": [_symbol(point) for point in points],
            "line": {"color": "--paper", "width": 1.5},
        }
        yield {
            **_versions(key, points, marker, axis),
            "mode": "markers+text",
            "text": [escaped(labels.get(point.number, "")) for point in points],
            "textposition": "top right",
            "textfont": {"size": 11.5, "color": "--muted"},
        }


def spaced_labels(axis: Axis) -> dict[int, str]:
    """Return, by version number, what stands beside versions on the frontier, but for those too close to another one.

    That is how many times faster they are than the unpruned network, and a family member's name.
    """
    first = reference(axis)
    if first is None:
        return {}
    points = axis.frontier_points()
    xs = [*(point.x for point in axis.points), *(trial.x for trial in axis.trials)]
    accuracies = [point.accuracy for point in axis.points] + [trial.tried.accuracy for trial in axis.trials]
    across, up = decades(xs), max(accuracies) - min(accuracies)
    told = [(point.number, _label(point, first)) for point in points]
    places = [(log10(point.x) / (across or 1), point.accuracy / (up or 1)) for point in points]
    free = spaced([place for place, (_, text) in zip(places, told, strict=True) if text])
    return {number: text for place, (number, text) in zip(places, told, strict=True) if text and place in free}


def _label(point: Point, first: Point) -> str:
    key, _ = style_of(point.spec.lineage.method)
    told = [point.spec.lineage.method.partition("+")[0]] if key == FAMILY else []
    told += [f"{point.x / first.x:.1f}x"] if first.number != point.number else []
    return " ".join(told)


def _versions(name: str, points: Sequence[Point], marker: Spec, axis: Axis) -> Spec:
    first = reference(axis)
    spec = {
        **trace(name, [point.x for point in points], [point.accuracy for point in points]),
        "mode": "markers",
        "cliponaxis": False,
        "marker": marker,
        "customdata": [hover(point, axis, first) for point in points],
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    if any(point.interval is not None for point in points):
        ends = [point.interval or (point.x, point.x) for point in points]
        spec["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [high - point.x for point, (_, high) in zip(points, ends, strict=True)],
            "arrayminus": [point.x - low for point, (low, _) in zip(points, ends, strict=True)],
            "color": "--beaten",
            "thickness": 1.2,
            "width": 3,
        }
    return spec


def _symbol(point: Point) -> str:
    return "diamond" if point.int8 else "circle"


def _metric(view: TaskView) -> str:
    metrics = {row.spec.accuracy.metric for row in view.rows}
    return metrics.pop() if len(metrics) == 1 else "accuracy"


def _percent_format(accuracies: Sequence[float]) -> str:
    return ".1%" if max(accuracies, default=1) - min(accuracies, default=0) < 0.08 else ".0%"
