"""The plots of one run as a Plotly specification: panels over one time axis, colours by name.

A colour is written as the name of a CSS variable (`--task-0`); the page puts in the colour of the theme that is shown.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from math import log10
from typing import Any

from rung_demo.outcome import ladder_of
from rung_demo.record import DecisionLine, Run

Trace = dict[str, Any]
TASK_COLOURS = 6
_GAP_PIXELS = 46
_TOP_PIXELS, _BOTTOM_PIXELS = 30, 44


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: its heading, its height, its traces and its y axis."""

    title: str
    pixels: int
    traces: list[Trace]
    yaxis: dict[str, Any]
    shapes: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """What all runs of a report share, so that switching between them compares them."""

    end_seconds: float
    demand_rps: float
    latency_milliseconds: tuple[float, float]


def scale_of(runs: list[Run]) -> Scale:
    """Return axes that hold every run."""
    latencies = [
        value
        for run in runs
        for line in run.load
        for value in (line.latency_p50_milliseconds, line.latency_p99_milliseconds)
        if value is not None and value > 0
    ]
    slos = [task.slo_milliseconds for run in runs for task in run.header.tasks]
    return Scale(
        end_seconds=max((line.elapsed_seconds for run in runs for line in run.load), default=60),
        demand_rps=1.08 * max((line.offered for run in runs for line in run.load), default=1),
        latency_milliseconds=(0.7 * min(latencies, default=1), 1.4 * max([*latencies, *slos], default=1000)),
    )


def colour_of(run: Run, task: str) -> str:
    """Return the CSS variable of a task's colour: the same for a task in every plot."""
    names = [header.task for header in run.header.tasks]
    return f"--task-{names.index(task) % TASK_COLOURS}" if task in names else "--muted"


def figure(run: Run, scale: Scale) -> dict[str, Any]:
    """Return `{"data": [...], "layout": {...}}` for one run."""
    panels = [_demand(run, scale), _cpu(run), *_versions(run, scale), _latency(run, scale), _late(run)]
    plot_pixels = sum(panel.pixels for panel in panels) + _GAP_PIXELS * (len(panels) - 1)
    layout: dict[str, Any] = {
        "height": plot_pixels + _TOP_PIXELS + _BOTTOM_PIXELS,
        "margin": {"l": 62, "r": 20, "t": _TOP_PIXELS, "b": _BOTTOM_PIXELS},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "inherit", "size": 12.5, "color": "--muted"},
        "showlegend": False,
        "hovermode": "closest",
        "hoverdistance": 24,
        "hoverlabel": {"align": "left", "bgcolor": "--hover", "bordercolor": "--line", "font": {"color": "--ink"}},
        "dragmode": False,
        "barmode": "stack",
        "bargap": 0,
        "shapes": [],
        "annotations": [],
        "xaxis": {
            "range": [0, scale.end_seconds],
            "anchor": f"y{len(panels)}",
            "dtick": 30 if scale.end_seconds <= 400 else None,
            "title": {"text": "seconds from the start of the load", "standoff": 8},
            "gridcolor": "--grid",
            "linecolor": "--line",
            "zeroline": False,
            "fixedrange": True,
            "showspikes": True,
            "spikemode": "across",
            "spikesnap": "cursor",
            "spikethickness": 1,
            "spikedash": "solid",
            "spikecolor": "--line",
        },
    }
    data: list[Trace] = []
    top = 1.0
    for number, panel in enumerate(panels, start=1):
        bottom = max(0.0, top - panel.pixels / plot_pixels)
        suffix = "" if number == 1 else str(number)
        layout[f"yaxis{suffix}"] = {
            "domain": [bottom, top],
            "gridcolor": "--grid",
            "zeroline": False,
            "fixedrange": True,
            "ticks": "",
            "automargin": False,
            **panel.yaxis,
        }
        layout["annotations"].append(_heading(panel.title, top))
        layout["shapes"] += [{**shape, "xref": "paper", "yref": f"y{suffix}"} for shape in panel.shapes]
        data += [{**trace, "xaxis": "x", "yaxis": f"y{suffix}"} for trace in panel.traces]
        top = bottom - _GAP_PIXELS / plot_pixels
    return {"data": data, "layout": layout}


def _heading(text: str, top: float) -> dict[str, Any]:
    return {
        "text": text,
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "y": top,
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 5,
        "showarrow": False,
        "align": "left",
        "font": {"size": 13, "color": "--ink"},
    }


def _line(name: str, x: list[float], y: list[Any], colour: str, **more: Any) -> Trace:
    style = {"color": colour, "width": 1.6, **more.pop("line", {})}
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": style, **more}


def _horizontal(y: float, colour: str, dash: str = "dot") -> dict[str, Any]:
    style = {"color": colour, "width": 1, "dash": dash}
    return {"type": "line", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": style, "layer": "below"}


def _tasks(run: Run) -> list[str]:
    return [header.task for header in run.header.tasks]


def _demand(run: Run, scale: Scale) -> Panel:
    traces = []
    for task in _tasks(run):
        lines = [line for line in run.load if line.task == task]
        traces.append(
            _line(
                task,
                [line.elapsed_seconds for line in lines],
                [line.offered for line in lines],
                colour_of(run, task),
                hovertemplate=f"{task}: %{{y}} requests at %{{x}} s<extra></extra>",
            )
        )
    return Panel("<b>Demand</b>  requests a second", 120, traces, {"range": [0, scale.demand_rps], "nticks": 4})


def _cpu(run: Run) -> Panel:
    start = run.start_seconds
    servers = sorted({server.server for line in run.pool for server in line.servers})
    traces = []
    for number, name in enumerate(servers):
        seen = [(line.time_seconds - start, s) for line in run.pool for s in line.servers if s.server == name]
        times = [time for time, _ in seen]
        traces.append(
            _line(
                f"{name} expected",
                times,
                [s.expected_utilization for _, s in seen],
                "--muted",
                line={"dash": "dot", "width": 1.2},
                hovertemplate=f"{name}: expected %{{y:.0%}} at %{{x:.0f}} s<extra></extra>",
            )
        )
        traces.append(
            _line(
                name,
                times,
                [s.utilization for _, s in seen],
                "--cpu",
                opacity=max(0.4, 1 - 0.3 * number),
                hovertemplate=f"{name}: CPU %{{y:.0%}} at %{{x:.0f}} s<extra></extra>",
                **({"fill": "tozeroy", "fillcolor": "--cpu-fill"} if len(servers) == 1 else {}),
            )
        )
    highest = max((t for trace in traces for t in trace["y"] if t is not None), default=1.0)
    axis = {
        "range": [0, min(1.5, max(1.05, 1.02 * highest))],
        "tickvals": [0, 0.25, 0.5, 0.75, 1],
        "tickformat": ".0%",
    }
    title = "<b>CPU</b>  used of what the server may use (dotted: what the profiles predict)"
    return Panel(title, 130, traces, axis, (_horizontal(1.0, "--limit", "solid"),))


def _versions(run: Run, scale: Scale) -> list[Panel]:
    return [_version_panel(run, task, scale) for task in _tasks(run)]


def _version_panel(run: Run, task: str, scale: Scale) -> Panel:
    """The rungs at equal distances, so that versions of nearly the same accuracy stay apart."""
    header = ladder_of(run, task)
    assert header is not None
    ladder = sorted(header.ladder, key=lambda version: version.accuracy)
    rung = {version.version: place for place, version in enumerate(ladder)}
    colour = colour_of(run, task)
    seen = [
        (line.time_seconds - run.start_seconds, state.active_version)
        for line in run.pool
        for state in line.tasks
        if state.task == task and state.active_version in rung
    ]
    decisions = [d for d in run.decisions if d.task == task and d.to_version in rung]
    steps = [d for d in decisions if d.from_version not in (None, d.to_version)]
    times = [max(0.0, step.time_seconds - run.start_seconds) for step in steps]
    y = [rung[version] for _, version in seen if version is not None]
    traces = [
        _line(
            task,
            [max(0.0, time) for time, _ in seen],
            y,
            colour,
            line={"shape": "hv", "width": 2.2},
            customdata=[f"{ladder[place].accuracy:.2%}" for place in y],
            hovertemplate=f"{task}: %{{customdata}} accuracy at %{{x:.0f}} s<extra></extra>",
        ),
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"{task} decisions",
            "x": [min(time, scale.end_seconds) for time in times],
            "y": [rung[step.to_version] for step in steps if step.to_version is not None],
            "marker": {"size": 9, "color": "--paper", "line": {"color": colour, "width": 2.2}},
            "customdata": [_reason(step) for step in steps],
            "hovertemplate": "%{customdata}<extra></extra>",
            "cliponaxis": False,
        },
    ]
    labels = [f"{version.accuracy:.1%}" for version in ladder]
    if len(set(labels)) < len(labels):
        labels = [f"{version.accuracy:.2%}" for version in ladder]
    axis = {"range": [-0.5, len(ladder) - 0.5], "tickvals": list(range(len(ladder))), "ticktext": labels}
    title = f"<b>{task}</b>  accuracy of the version that answers (hover a ring for the reason)"
    return Panel(title, max(96, 25 * len(ladder)), traces, axis)


def _reason(step: DecisionLine) -> str:
    wrapped = "<br>".join(textwrap.wrap(escaped(step.sentence), 58))
    return f"<b>{escaped(step.code)}</b><br>{wrapped}"


def escaped(text: str) -> str:
    """Return text as Plotly and HTML show it literally."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def _latency(run: Run, scale: Scale) -> Panel:
    traces = []
    for task in _tasks(run):
        lines = [line for line in run.load if line.task == task]
        times: list[float] = [line.elapsed_seconds for line in lines]
        for label, values, style in (
            ("p50", [line.latency_p50_milliseconds for line in lines], {"width": 1, "dash": "dot"}),
            ("p99", [line.latency_p99_milliseconds for line in lines], {"width": 1.6}),
        ):
            traces.append(
                _line(
                    f"{task} {label}",
                    times,
                    values,
                    colour_of(run, task),
                    line=style,
                    hovertemplate=f"{task}: {label} %{{y:.0f}} ms at %{{x}} s<extra></extra>",
                )
            )
    low, high = scale.latency_milliseconds
    ticks = [value for value in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000) if low <= value <= high]
    axis = {
        "type": "log",
        "range": [log10(low), log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{value} ms" if value < 1000 else f"{value // 1000} s" for value in ticks],
    }
    slos = sorted({header.slo_milliseconds for header in run.header.tasks})
    shapes = tuple(_horizontal(slo, "--limit", "solid") for slo in slos)
    words = ", ".join(f"{slo:g} ms" for slo in slos)
    return Panel(f"<b>Latency</b>  p99 (dotted: p50); red: the service level, {words}", 140, traces, axis, shapes)


def _late(run: Run) -> Panel:
    """Late and failed requests by all that were settled in a second, of all tasks together."""
    settled: dict[int, list[int]] = {}
    for line in run.load:
        sums = settled.setdefault(line.elapsed_seconds, [0, 0, 0])
        failed = sum(line.failed.values())
        for place, count in enumerate((line.late, failed, line.completed + failed)):
            sums[place] += count
    times = sorted(settled)
    traces: list[Trace] = []
    for place, (name, colour) in enumerate((("late", "--late"), ("failed", "--limit"))):
        traces.append(
            {
                "type": "bar",
                "name": name,
                "x": times,
                "y": [settled[t][place] / settled[t][2] if settled[t][2] else 0 for t in times],
                "marker": {"color": colour, "line": {"width": 0}},
                "width": 1,
                "hovertemplate": f"{name}: %{{y:.1%}} at %{{x}} s<extra></extra>",
            }
        )
    axis = {"range": [0, 1], "tickvals": [0, 0.5, 1], "tickformat": ".0%"}
    return Panel("<b>Late</b>  share of answers after the service level (strong red: failed)", 70, traces, axis)
