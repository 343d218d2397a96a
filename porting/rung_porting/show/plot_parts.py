"""Parts of Plotly specifications that all plots share, and text made safe for them. Pure.

A colour is written as the name of a CSS variable (`--m-l1`); the page puts in the colour of the theme that is shown.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from math import log10
from typing import Any

Spec = dict[str, Any]
_LABEL_WIDTH, _LABEL_HEIGHT = 0.065, 0.06
"""Room for a label, as shares of what the points span."""


def variable(key: str) -> str:
    """Return the CSS variable of a method's colour."""
    return f"--m-{key.replace('+', '-')}"


def escaped(text: object) -> str:
    """Return text as HTML and Plotly show it literally."""
    return html.escape(str(text))


def spaced(places: Sequence[tuple[float, float]]) -> set[tuple[float, float]]:
    """Return those of some places, in shares of a plot, at which there is room for a label, the first ones first."""
    placed: set[tuple[float, float]] = set()
    for place in places:
        if all(abs(place[0] - x) > _LABEL_WIDTH or abs(place[1] - y) > _LABEL_HEIGHT for x, y in placed):
            placed.add(place)
    return placed


def trace(name: str, xs: Sequence[float], ys: Sequence[float | None]) -> Spec:
    """Return a scatter trace."""
    return {"type": "scatter", "name": escaped(name), "x": list(xs), "y": list(ys)}


def axis_base() -> Spec:
    """Return what every axis has."""
    return {
        "gridcolor": "--grid",
        "linecolor": "--line",
        "zeroline": False,
        "fixedrange": True,
        "ticks": "",
        "automargin": True,
    }


def plain_layout(height: int, xaxis: Spec, yaxis: Spec) -> Spec:
    """Return a layout without legend, title or tools; its height is in pixels."""
    return {
        "height": height,
        "margin": {"l": 64, "r": 24, "t": 22, "b": 56},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "inherit", "size": 12.5, "color": "--muted"},
        "showlegend": False,
        "hovermode": "closest",
        "hoverdistance": 24,
        "hoverlabel": {"align": "left", "bgcolor": "--hover", "bordercolor": "--line", "font": {"color": "--ink"}},
        "dragmode": False,
        "xaxis": {**axis_base(), **xaxis},
        "yaxis": {**axis_base(), **yaxis},
    }


def decades(values: Sequence[float]) -> float:
    """Return how many powers of ten some positive numbers span."""
    return log10(max(values)) - log10(min(values)) if values else 0.0


def log_range(values: Sequence[float], margin: float = 0.08, *, left: float = 0.0, right: float = 0.0) -> list[float]:
    """Return the range of a logarithmic axis, as Plotly takes it: exponents, with room at both ends for labels."""
    low, high = log10(min(values, default=1)), log10(max(values, default=10))
    room = max(margin * (high - low), 0.06)
    return [low - room - left * (high - low), high + 1.6 * room + right * (high - low)]


def number_format(values: Sequence[float]) -> str:
    """Return the format of ticks: 2k for thousands, but no m for thousandths, which reads as a million."""
    return "~s" if min(values, default=1) >= 1 else "~g"
