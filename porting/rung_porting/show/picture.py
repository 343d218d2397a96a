"""The ladders as one PNG, for a talk or a document: the frontier, and beside it latency over load where it is known.

Drawn without pyplot, which keeps figures and a display in global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung_porting.show.curve_figures import curve_labels
from rung_porting.show.figures import spaced_labels
from rung_porting.show.style import BEATEN, COLOURS, NAMES, RAMP, ramp_step, style_of
from rung_porting.show.view import Axis, ClassCurves, Point, TaskView, step_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DOTS_PER_INCH = 160
_INK, _MUTED, _GRID, _STEP, _LIMIT = "#1c2430", "#5d6776", "#e4e8ed", "#7d8794", "#c0392b"


def write_picture(views: Sequence[TaskView], path: Path) -> None:
    """Draw one row of panels for each task that has versions, over its first axis.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = [view for view in views if view.rows]
    curves = [next((each for each in view.curves if each.curves), None) for view in shown]
    columns = 2 if any(curves) else 1
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(8.4 * columns, 4.9 * max(len(shown), 1)), dpi=_DOTS_PER_INCH, layout=layout)
    FigureCanvasAgg(figure)
    panels = figure.subplots(max(len(shown), 1), columns, squeeze=False)
    for row, (view, found) in enumerate(zip(shown, curves, strict=True)):
        _frontier(panels[row][0], view)
        if columns == 2:
            _latency(panels[row][1], found)
    if not shown:
        panels[0][0].set_axis_off()
    figure.savefig(path, format="png", facecolor="white", metadata={"Software": "rung-port show"})


def _frontier(panel: Axes, view: TaskView) -> None:
    axis = view.axes[0]
    _dress(panel, axis.title)
    panel.set_xscale("log")
    panel.set_title(view.task, loc="left", fontsize=13, fontweight="bold", color=_INK, parse_math=False)
    _number_ticks(panel.xaxis)
    _percent_ticks(panel.yaxis)
    panel.set_ylabel("accuracy", color=_MUTED)
    for place, frontier in enumerate(axis.frontiers):
        xs, ys = step_line(axis, frontier)
        panel.plot(xs, ys, color=_STEP, linewidth=1.6, linestyle=":" if place else "-", zorder=1)
    if axis.trials:
        xs, ys = [trial.x for trial in axis.trials], [trial.tried.accuracy for trial in axis.trials]
        panel.scatter(xs, ys, s=11, color=BEATEN.light, linewidths=0, zorder=2, label="tried, did not survive")
    _points(panel, axis)
    panel.margins(x=0.09, y=0.12)
    panel.legend(loc="best", frameon=False, fontsize=9, labelcolor=_MUTED)


def _points(panel: Axes, axis: Axis) -> None:
    labels = spaced_labels(axis)
    groups: dict[tuple[str, bool, bool], list[Point]] = {}
    for point in axis.points:
        key, int8 = style_of(point.spec.lineage.method)
        beaten = point.beaten_by is not None
        groups.setdefault(("", int8, True) if beaten else (key, int8, False), []).append(point)
    order = [*COLOURS, ""]
    for (key, int8, beaten), points in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])):
        _error_bars(panel, points)
        name = ("beaten" if beaten else NAMES[key]) + (", INT8" if int8 else "")
        style: dict[str, Any] = (
            {"facecolors": "white", "edgecolors": BEATEN.light, "linewidths": 1.6}
            if beaten
            else {"color": COLOURS[key].light, "edgecolors": "white", "linewidths": 1.0}
        )
        xs, ys = [point.x for point in points], [point.accuracy for point in points]
        panel.scatter(xs, ys, s=78, marker="D" if int8 else "o", zorder=4, label=name, **style)
        for point in () if beaten else points:
            panel.annotate(
                labels.get(point.number, ""), (point.x, point.accuracy), xytext=(6, 5), textcoords="offset points",
                fontsize=9, color=_MUTED, parse_math=False,
            )  # fmt: skip


def _error_bars(panel: Axes, points: Sequence[Point]) -> None:
    for point in points:
        if point.interval is not None:
            panel.plot(point.interval, (point.accuracy, point.accuracy), color=BEATEN.light, linewidth=1, zorder=3)


def _latency(panel: Axes, curves: ClassCurves | None) -> None:
    if curves is None:
        panel.set_axis_off()
        panel.text(0.5, 0.5, "no curve", ha="center", va="center", color=_MUTED, transform=panel.transAxes)
        return
    _dress(panel, "load: inferences asked for per second")
    panel.set_xscale("log")
    panel.set_yscale("log")
    _number_ticks(panel.xaxis)
    _number_ticks(panel.yaxis)
    panel.set_ylabel("p99 latency, ms", color=_MUTED)
    title = f"latency over load on {curves.hardware_class}, by accuracy"
    panel.set_title(title, loc="left", fontsize=13, color=_INK, parse_math=False)
    shown = [curve for curve in curves.curves if curve.on_frontier] or list(curves.curves)
    labels = curve_labels(shown)
    for place, curve in enumerate(shown):
        xs = [point.rate for point in curve.points]
        ys = [1000 * point.p99_seconds for point in curve.points]
        colour = RAMP[ramp_step(place, len(shown))].light
        panel.plot(xs, ys, color=colour, linewidth=1.8, marker="o", markersize=3.2)
        panel.annotate(
            labels.get(curve.spec.version, ""), (xs[0], ys[0]), xytext=(-6, 0), textcoords="offset points",
            fontsize=9, color=colour, ha="right", va="center",
        )  # fmt: skip
    for level in sorted({1000 * curve.slo_seconds for curve in shown}):
        panel.axhline(level, color=_LIMIT, linewidth=1.1, zorder=1)
        panel.annotate(
            f"service level {level:g} ms", (0, level), xycoords=("axes fraction", "data"), xytext=(3, 3),
            textcoords="offset points", fontsize=9, color=_LIMIT,
        )  # fmt: skip
    low, high = panel.get_xlim()
    panel.set_xlim(low * (low / high) ** 0.06, high)  # room for the labels


def _dress(panel: Axes, xlabel: str) -> None:
    panel.set_xlabel(xlabel, color=_MUTED, parse_math=False)
    panel.grid(visible=True, color=_GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(which="both", colors=_MUTED, length=0)
    for side, spine in panel.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#c6ccd4")


def _number_ticks(axis: Any) -> None:
    """Plain numbers on a logarithmic axis, and enough of them where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _percent_ticks(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(xmax=1))
