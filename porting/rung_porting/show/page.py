"""The page of one or more ladders: a single HTML file that opens without a network, on a phone, in the dark.

Nothing that comes from outside is trusted: every text is escaped where it enters the page, and the page's own content
security policy lets no script run but the two whose SHA-256 it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from rung_porting.repository.catalogue import Row
from rung_porting.show.curve_figures import curve_figures
from rung_porting.show.figures import frontier_figure
from rung_porting.show.page_assets import SCRIPT, STYLE
from rung_porting.show.plot_parts import escaped, variable
from rung_porting.show.record import Record
from rung_porting.show.search import HEAD, search_rows
from rung_porting.show.style import COLOURS, NAMES, style_of
from rung_porting.show.view import Axis, ClassCurves, TaskView, best_within, reference

_POINT = 0.01


def render(views: Sequence[TaskView], source: str, faults: Sequence[str]) -> str:
    """Return the whole page.

    Args:
        views: one for each task, in the order of the tabs.
        source: where the versions were read from, as the user named it.
        faults: what is wrong with versions that are not shown.

    Raises:
        ImportError: plotly, whose script goes into the page, is not installed.
    """
    from plotly.offline import get_plotlyjs

    figures: dict[str, Any] = {}
    sections = "".join(_section(view, place, len(views), figures) for place, view in enumerate(views))
    title = ", ".join(view.task for view in views)
    library = get_plotlyjs()
    # As an escape within a JSON string, no "<" can end the script or begin another element.
    data = json.dumps(figures, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src {_digest(library)} {_digest(SCRIPT)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Rung: {escaped(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{_tabs(views)}
{sections}
{_refused(faults)}
<footer><p class="small">Read from {escaped(source)} by rung-port show. A version is on the frontier while no other one
is at least as good in both accuracy and cost and better in one of them; with the step line one reads the best accuracy
that is to be had at a load. Thin bars are the interval in which a measured throughput lies.</p></footer>
</main>
<script type="application/json" id="figures">{data}</script>
<script>{library}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _tabs(views: Sequence[TaskView]) -> str:
    if len(views) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" role="tab" id="tab-{place}" aria-controls="task-{place}" '
        f'aria-selected="{str(place == 0).lower()}" tabindex="{0 if place == 0 else -1}">{escaped(view.task)}</button>'
        for place, view in enumerate(views)
    )
    return f'<div class="switch tabs" role="tablist" aria-label="Task">{buttons}</div>'


def _section(view: TaskView, place: int, count: int, figures: dict[str, Any]) -> str:
    role = f'role="tabpanel" aria-labelledby="tab-{place}"' if count > 1 else ""
    hidden = " hidden" if place else ""
    if not view.rows:
        nothing = f"<h1>{escaped(view.task)}</h1><p>It has no versions.</p>"
        return f'<section id="task-{place}" {role}{hidden}>{nothing}</section>'
    charts = "".join(_chart(axis, view, place, number, figures) for number, axis in enumerate(view.axes))
    return (
        f'<section id="task-{place}" {role}{hidden}><h1>{escaped(view.task)}</h1>'
        f'<p class="lead">{escaped(_lead(view))}</p>'
        f'<div class="card">{_axis_switch(view)}{charts}</div>'
        f"<h2>Latency over load</h2>{_curves(view, place, figures)}"
        f"<h2>Every version</h2>{_versions(view)}"
        f"{_search(view.record)}</section>"
    )


def _lead(view: TaskView) -> str:
    axis = view.axes[0]
    on_frontier = len(axis.frontier_points())
    told = f"{_count(len(view.rows), 'version')}, {on_frontier} on the frontier."
    if axis.measured:
        return f"{told} Throughput was measured on {axis.label}."
    return f"{told} Not profiled yet: what they carry was not measured, only estimated."


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _axis_switch(view: TaskView) -> str:
    if len(view.axes) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" value="{place}" aria-pressed="{str(place == 0).lower()}">{escaped(axis.label)}</button>'
        for place, axis in enumerate(view.axes)
    )
    return (
        '<div class="bar"><span class="small">Accuracy over</span>'
        f'<div class="switch axes" role="group" aria-label="What accuracy is shown over">{buttons}</div></div>'
    )


def _chart(axis: Axis, view: TaskView, task: int, number: int, figures: dict[str, Any]) -> str:
    key = f"{task}-{number}"
    figures[key] = frontier_figure(axis, view)
    first = reference(axis)
    notes = "" if first is None else f"Beside a point: how many times faster than {first.number}. "
    if not axis.measured:
        notes += "This is an estimate, not measured throughput: only a profile on the hardware that serves says more. "
    if len(axis.frontiers) > 1:
        notes += "INT8 and float can't be compared by it, so each has a frontier of its own. "
    if axis.missing:
        which = ", ".join(map(str, axis.missing[:8])) + (" and others" if len(axis.missing) > 8 else "")
        notes += f"Without a place here: {which}. "
    hidden = " hidden" if number else ""
    return (
        f'<div data-axis="{number}"{hidden}>{_tiles(axis)}{_keys(axis)}'
        f'<div class="plot" data-shown="{key}"></div>'
        + (f'<p class="small" style="padding:0 18px 8px">{escaped(notes)}</p>' if notes else "")
        + "</div>"
    )


def _tiles(axis: Axis) -> str:
    points = axis.frontier_points()
    if not points:
        return ""
    best = max(axis.points, key=lambda point: point.accuracy)
    span = max(point.x for point in points) / min(point.x for point in points)
    estimated = "" if axis.measured else ", estimated"
    tiles = [
        (f"{best.accuracy:.2%}", f"best {best.spec.accuracy.metric}"),
        (str(len(points)), f"of {len(axis.points)} on the frontier"),
        (f"{span:,.1f}x", f"from end to end of the frontier{estimated}"),
    ]
    within = best_within(axis, _POINT)
    if within is not None:
        tiles.append((f"{within[1]:,.1f}x", f"faster than the best, for one point of accuracy at most{estimated}"))
    cells = "".join(f'<div class="tile"><b>{escaped(b)}</b><span>{escaped(word)}</span></div>' for b, word in tiles)
    return f'<div class="tiles" style="margin:0">{cells}</div>'


def _keys(axis: Axis) -> str:
    shown = [style_of(point.spec.lineage.method)[0] for point in axis.frontier_points()]
    keys = [
        f'<span class="key" style="--colour: var({variable(key)})">{NAMES[key]}</span>'
        for key in COLOURS
        if key in shown
    ]
    if any(point.int8 for point in axis.points):
        keys.append('<span class="key int8" style="--colour: var(--muted)">INT8</span>')
    if any(point.beaten_by is not None for point in axis.points):
        keys.append('<span class="key ring" style="--colour: var(--beaten)">beaten</span>')
    if axis.trials:
        keys.append('<span class="key speck" style="--colour: var(--beaten)">tried, did not survive</span>')
    if len(axis.frontiers) > 1:
        for name, dash in (("float", "solid"), ("INT8", "dotted")):
            keys.append(f'<span class="key rule" style="--colour: var(--step); --dash: {dash}">{name} frontier</span>')
    return f'<div class="keys">{"".join(keys)}</div>'


def _curves(view: TaskView, task: int, figures: dict[str, Any]) -> str:
    if not view.curves:
        return '<p class="small">No curve: no version was profiled.</p>'
    return "".join(_class_curves(curves, f"{task}-c{number}", figures) for number, curves in enumerate(view.curves))


def _class_curves(curves: ClassCurves, prefix: str, figures: dict[str, Any]) -> str:
    name = escaped(curves.hardware_class)
    if not curves.curves:
        return f'<p class="small">{name}: no curve in any of its profiles.</p>'
    options = ""
    drawn = curve_figures(curves)
    for number, (words, figure) in enumerate(drawn):
        figures[f"{prefix}-{number}"] = figure
        options += f'<option value="{prefix}-{number}">{escaped(words)}</option>'
    without = f"No curve: {', '.join(map(str, curves.without))}. " if curves.without else ""
    told = (
        f"{without}Blue is the most accurate version, orange the cheapest. One version alone also shows its p95 "
        "(dashed) and p50 (dotted). A request that failed counts as late."
    )
    return (
        f'<div class="card" style="margin-bottom:14px"><div class="bar"><b>{name}</b>'
        f'<select class="curves" aria-label="Which version">{options}</select></div>'
        f'<div class="plot" data-shown="{prefix}-0"></div>'
        f'<p class="small" style="padding:0 18px 8px">{escaped(told)}</p></div>'
    )


def _versions(view: TaskView) -> str:
    axis = view.axes[0]
    first = reference(axis)
    by_number = {point.number: point for point in axis.points}
    classes = sorted({name for row in view.rows for name in row.throughput_rps})
    head = ["accuracy", *(f"{name} inf/s" for name in classes)]
    head += [f"speed, {axis.label}", "sparsity", "epochs", "parameters", "MFLOP", "bytes"]
    rows = ""
    for row in reversed(view.rows):
        point = by_number.get(row.number)
        beaten = point is not None and point.beaten_by is not None
        speed = "-" if point is None or first is None else f"{point.x / first.x:.2f}x"
        verdict = "" if point is None else f"beaten by {point.beaten_by}" if beaten else "yes"
        cells = "".join(f"<td>{escaped(cell)}</td>" for cell in _cells(row, classes, speed))
        method = f"{_dot(row, greyed=beaten)}{escaped(row.spec.lineage.method)}"
        rows += (
            f'<tr class="{"beaten" if beaten else ""}"><td>{row.number}</td><td class="method">{method}</td>'
            f'<td class="method">{escaped(verdict)}</td>{cells}</tr>'
        )
    titles = '<th scope=col>version</th><th scope=col class="method">method</th>'
    titles += '<th scope=col class="method">frontier</th>'
    titles += "".join(f"<th scope=col>{escaped(word)}</th>" for word in head)
    return f'<div class="card scroll"><table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>'


def _dot(row: Row, *, greyed: bool) -> str:
    key, int8 = style_of(row.spec.lineage.method)
    colour = "--beaten" if greyed else variable(key)
    return f'<span class="dot{" int8" if int8 else ""}" style="--colour: var({colour})"></span>'


def _cells(row: Row, classes: Sequence[str], speed: str) -> list[str]:
    lineage = row.spec.lineage
    return [
        f"{row.spec.accuracy.value:.3%}",
        *(f"{row.throughput_rps[name]:,.1f}" if name in row.throughput_rps else "-" for name in classes),
        speed,
        "-" if lineage.sparsity is None else f"{lineage.sparsity:.1%}",
        "-" if lineage.epochs is None else f"{lineage.epochs:g}",
        "-" if lineage.parameters is None else f"{lineage.parameters:,}",
        "-" if lineage.flops is None else f"{lineage.flops / 1e6:,.4g}",
        f"{row.spec.artifact.bytes:,}",
    ]


def _search(record: Record | None) -> str:
    if record is None:
        return ""
    head = "".join(f"<th scope=col{_words(place)}>{escaped(name)}</th>" for place, name in enumerate(HEAD))
    rows = ""
    for cells in search_rows(record):
        survived = cells[1] != "-"
        body = "".join(f"<td{_words(place)}>{escaped(cell)}</td>" for place, cell in enumerate(cells))
        rows += f'<tr class="{"" if survived else "lost"}">{body}</tr>'
    survivors = sum(tried.number is not None for tried in record.versions)
    told = (
        f"{_count(len(record.trials), 'trial')} made {_count(len(record.versions), 'version')}, of which "
        f"{survivors} survived. It ended because {record.over}."
    )
    return (
        f"<h2>The search</h2><p>{escaped(told)}</p>"
        f'<div class="card"><details><summary>Every trial, with its verdict</summary><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details></div>"
    )


def _words(place: int) -> str:
    return ' class="words"' if place >= 5 else ""


def _refused(faults: Sequence[str]) -> str:
    if not faults:
        return ""
    lines = "".join(f"<li>{escaped(fault)}</li>" for fault in faults)
    return f'<h2>Not shown, because they can\'t be read</h2><ul class="refused">{lines}</ul>'
