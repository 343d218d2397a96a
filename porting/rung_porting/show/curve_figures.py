"""Latency over load, and the late share below it, as Plotly specifications. Pure; see `plot_parts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10

from rung_porting.show.plot_parts import (
    Spec,
    axis_base,
    decades,
    escaped,
    log_range,
    number_format,
    plain_layout,
    spaced,
    trace,
)
from rung_porting.show.style import ramp_step
from rung_porting.show.view import ClassCurves, Curve

_DASHES = {"p50": "dot", "p95": "dash", "p99": "solid"}


def curve_figures(curves: ClassCurves) -> list[tuple[str, Spec]]:
    """Return latency over load on one hardware class, by label: all versions at their p99, then each one alone."""
    if not curves.curves:
        return []
    shown = [curve for curve in curves.curves if curve.on_frontier] or list(curves.curves)
    label = "p99 of the frontier" if len(shown) < len(curves.curves) else "p99 of every version"
    colours = {curve.spec.version: f"--r-{ramp_step(place, len(shown))}" for place, curve in enumerate(shown)}
    figures = [(label, _latency_figure([(curve, ("p99",)) for curve in shown], colours))] if len(shown) > 1 else []
    for curve in curves.curves:
        colour = colours.get(curve.spec.version, "--beaten")
        name = f"{curve.spec.accuracy.value:.2%}, {curve.spec.lineage.method}, {curve.spec.version}"
        figures.append((name, _latency_figure([(curve, ("p99", "p95", "p50"))], {curve.spec.version: colour})))
    return figures


def curve_labels(curves: Sequence[Curve]) -> dict[int, str]:
    """Return, by version number, the accuracy to write where its p99 begins, but for those too close to another one."""
    rates = [point.rate for curve in curves for point in curve.points]
    seconds = [point.p99_seconds for curve in curves for point in curve.points]
    across, up = decades(rates) or 1, decades(seconds) or 1
    places = {
        curve.spec.version: (log10(curve.points[0].rate) / across, log10(curve.points[0].p99_seconds) / up)
        for curve in curves
    }
    free = spaced(list(places.values()))
    return {
        curve.spec.version: f"{curve.spec.accuracy.value:.1%}" for curve in curves if places[curve.spec.version] in free
    }


def _latency_figure(chosen: Sequence[tuple[Curve, Sequence[str]]], colours: Mapping[int, str]) -> Spec:
    """Return latency over load and, below it over the same loads, the late share."""
    data: list[Spec] = []
    drawn: list[float] = []
    together = len(chosen) > 1
    beginnings = curve_labels([curve for curve, _ in chosen])
    for curve, percentiles in chosen:
        rates = [point.rate for point in curve.points]
        colour = colours[curve.spec.version]
        told = [_point_hover(curve, place) for place in range(len(rates))]
        common = {"customdata": told, "hovertemplate": "%{customdata}<extra></extra>"}
        for name in percentiles:
            seconds = [getattr(point, f"{name}_seconds") for point in curve.points]
            line = {"color": colour, "width": 2 if name == "p99" else 1.6, "dash": _DASHES[name]}
            milliseconds = [1000 * value for value in seconds]
            drawn += milliseconds
            # All together, the accuracy stands where a line begins; alone, the percentile where it ends.
            texts = [""] * len(rates)
            texts[0 if together else -1] = beginnings.get(curve.spec.version, "") if together else name
            data.append(
                {
                    **trace(f"{curve.spec.version} {name}", rates, milliseconds),
                    "mode": "lines+markers+text",
                    "line": line,
                    "marker": {"size": 5, "color": colour},
                    "text": texts,
                    "textposition": "middle left" if together else "middle right",
                    "textfont": {"size": 11, "color": colour},
                    **common,
                }
            )
        late = [point.late_share for point in curve.points]
        if any(share is not None for share in late):
            data.append(
                {
                    **trace(f"{curve.spec.version} late", rates, late),
                    "mode": "lines+markers",
                    "line": {"color": colour, "width": 1.6},
                    "marker": {"size": 4, "color": colour},
                    "yaxis": "y2",
                    **common,
                }
            )
    rates = [point.rate for curve, _ in chosen for point in curve.points]
    levels = sorted({1000 * curve.slo_seconds for curve, _ in chosen})
    xaxis = {
        "type": "log",
        "range": log_range(rates, 0.03, left=0.07, right=0.04),
        "title": {"text": "load: inferences asked for per second", "standoff": 10},
        "tickformat": number_format(rates),
        "dtick": "D2",
        "anchor": "y2",
    }
    yaxis = {
        "type": "log",
        "domain": [0.36, 1],
        "range": log_range([*drawn, *levels], 0.05),
        "title": {"text": "latency, ms", "standoff": 8},
        "tickformat": "~g",
        "dtick": "D2" if decades([*drawn, *levels]) < 2.2 else 1,
    }
    layout = plain_layout(470, xaxis, yaxis)
    latest = max([0.02, *(point.late_share or 0 for curve, _ in chosen for point in curve.points)])
    layout["yaxis2"] = {
        **axis_base(),
        "domain": [0, 0.24],
        "range": [-0.03 * latest, 1.08 * latest],
        "nticks": 3,
        "tickformat": ".0%" if latest > 0.05 else ".1%",
        "title": {"text": "late", "standoff": 8},
    }
    layout["shapes"] = [
        {
            "type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": level, "y1": level,
            "line": {"color": "--limit", "width": 1.2}, "layer": "below",
        }
        for level in levels
    ]  # fmt: skip
    layout["annotations"] = [
        {
            "xref": "paper", "yref": "y", "x": 0, "y": log10(level), "xanchor": "left", "yanchor": "bottom",
            "text": f"service level {level:g} ms", "showarrow": False, "font": {"size": 11, "color": "--limit"},
        }
        for level in levels
    ]  # fmt: skip
    return {"data": data, "layout": layout}


def _point_hover(curve: Curve, place: int) -> str:
    point, spec = curve.points[place], curve.spec
    lines = [
        f"<b>{spec.version}</b>  {escaped(spec.lineage.method)}, {spec.accuracy.value:.2%}",
        f"at {point.rate:,.4g} inferences/s ({point.rate / curve.max_throughput_rps:.0%} of its most)",
        f"p50 {_milliseconds(point.p50_seconds)}, p95 {_milliseconds(point.p95_seconds)}, "
        f"p99 {_milliseconds(point.p99_seconds)}",
        "" if point.late_share is None else f"late: {point.late_share:.2%}",
        "" if point.requests is None else f"{point.requests:,} requests",
    ]
    return "<br>".join(filter(None, lines))


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.3g} ms"
