"""The report: one HTML file that opens without a network, from one recording or several of the same trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from plotly.offline import get_plotlyjs

from rung_demo.figures import colour_of, escaped, figure, scale_of
from rung_demo.outcome import Outcome, ladder_of, outcome_of
from rung_demo.record import DecisionLine, Run, read_run
from rung_demo.report_page import SCRIPT, STYLE


def write_report(runs: Sequence[Run | Path], path: Path) -> None:
    """Write the report of some runs or recordings, the one that matters first.

    Raises ValueError without a run, RecordError for a recording that can't be read, OSError.
    """
    page = render([read_run(run) if isinstance(run, Path) else run for run in runs])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def render(runs: Sequence[Run]) -> str:
    """Return the whole page. Raises ValueError when there is no run."""
    if not runs:
        raise ValueError("a report needs at least one run")
    outcomes = [outcome_of(run) for run in runs]
    scale = scale_of(list(runs))
    figures = json.dumps([figure(run, scale) for run in runs], separators=(",", ":"), allow_nan=False)
    first = runs[0]
    body = "\n".join(
        (
            *_notes(runs),
            f"<h1>{escaped(_title(outcomes[0]))}</h1>",
            f'<p class="lead">{escaped(_lead(first))}</p>',
            _tiles(outcomes[0]),
            _table(outcomes) if len(runs) > 1 else "",
            "<h2>What happened</h2>",
            _switch(runs),
            *(_run_section(run, number) for number, run in enumerate(runs)),
            _footer(runs),
        )
    )
    # A closing tag inside a string would end the script.
    data = figures.replace("</", "<\\/")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Rung: {escaped(first.header.name)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="runs">{data}</script>
<script>{get_plotlyjs()}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _notes(runs: Sequence[Run]) -> list[str]:
    notes = list(dict.fromkeys(run.header.note for run in runs if run.header.note))
    for run in runs:
        outcome = outcome_of(run)
        if outcome.client_bound is not None:
            notes.append(f"{run.header.name}: don't trust the latencies: {outcome.client_bound}.")
        if not outcome.complete:
            notes.append(f"{run.header.name}: the run broke off before the end of its trace.")
        if run.unread_lines:
            notes.append(f"{run.header.name}: {run.unread_lines} lines of the recording could not be read.")
    return [f'<p class="note">{escaped(note)}</p>' for note in notes]


def _title(outcome: Outcome) -> str:
    if outcome.steps_down == 0 and outcome.steps_up == 0:
        return f"{outcome.name}: the same versions answered throughout"
    return f"{outcome.name}: {_count(outcome.steps_down, 'step')} down, {outcome.steps_up} up"


def _lead(run: Run) -> str:
    tasks = " and ".join(f"{header.task} ({_count(len(header.ladder), 'version')})" for header in run.header.tasks)
    seconds = max((line.elapsed_seconds for line in run.load), default=0)
    cores = f" on {run.header.capacity_cores:g} CPU" if run.header.capacity_cores else ""
    trace = f" Trace: {run.header.trace}." if run.header.trace else ""
    return f"{tasks}, {seconds} seconds{cores}.{trace}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _tiles(outcome: Outcome) -> str:
    swaps = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.swaps.items()) if count) or "none"
    tiles = (
        (f"{outcome.requests:,}", "requests", ""),
        (f"{outcome.failed:,}", "failed", "good" if outcome.failed == 0 else "bad"),
        (_percent(outcome.late_share, 2), "late", ""),
        (_percent(outcome.normalized_accuracy, 1), "normalised accuracy", ""),
        (f"{sum(outcome.swaps.values()):,}", f"swaps ({swaps})" if outcome.swaps else "swaps", ""),
    )
    cells = "".join(
        f'<div class="tile"><b class="{mood}">{number}</b><span>{word}</span></div>' for number, word, mood in tiles
    )
    return f'<div class="card tiles">{cells}</div>'


def _percent(share: float | None, digits: int) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"  # noqa: RUF001 - a dash for nothing


def _table(outcomes: Sequence[Outcome]) -> str:
    tasks = list(dict.fromkeys(task for outcome in outcomes for task in outcome.latency_p99_milliseconds))
    rows: list[tuple[str, Callable[[Outcome], str]]] = [
        ("Requests", lambda o: f"{o.requests:,}"),
        ("Failed", lambda o: f"{o.failed:,}"),
        ("Late", lambda o: _percent(o.late_share, 2)),
        ("Late or failed", lambda o: _percent(o.violation_share, 2)),
        ("Normalised accuracy, mean", lambda o: _percent(o.normalized_accuracy, 1)),
        ("CPU, mean", lambda o: _percent(o.utilization, 0)),
        *((f"Latency p99, {task}", _p99_of(task)) for task in tasks),
        ("Steps down / up", lambda o: f"{o.steps_down} / {o.steps_up}"),
        ("Swaps", lambda o: ", ".join(f"{n} {kind}" for kind, n in sorted(o.swaps.items()) if n) or "0"),
        ("Swaps that failed", lambda o: f"{o.swaps_failed:,}"),
    ]
    kinds = ["first", *("" for _ in outcomes[1:])]
    head = "".join(
        f'<th scope="col" class="{kind}">{escaped(o.name)}</th>' for o, kind in zip(outcomes, kinds, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{escaped(label)}</th>'
        + "".join(f'<td class="{kind}">{escaped(value(o))}</td>' for o, kind in zip(outcomes, kinds, strict=True))
        + "</tr>"
        for label, value in rows
    )
    return (
        "<h2>The same trace, compared</h2>"
        f'<div class="card scroll"><table class="numbers"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _p99_of(task: str) -> Callable[[Outcome], str]:
    def words(outcome: Outcome) -> str:
        value = outcome.latency_p99_milliseconds.get(task)
        return "–" if value is None else f"{value:,.0f} ms"  # noqa: RUF001

    return words


def _switch(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return ""
    buttons = "".join(
        f'<button type="button" aria-pressed="{str(number == 0).lower()}">{escaped(run.header.name)}</button>'
        for number, run in enumerate(runs)
    )
    return f'<div class="switch" role="group" aria-label="Run">{buttons}</div>'


def _run_section(run: Run, number: int) -> str:
    keys = "".join(
        f'<span class="key" style="--colour: var({colour_of(run, header.task)})">{escaped(header.task)}</span>'
        for header in run.header.tasks
    )
    hidden = "" if number == 0 else " hidden"
    return (
        f'<section data-run="{number}"{hidden}><div class="card"><div class="keys">{keys}</div>'
        f'<div class="plot" id="plot-{number}"></div></div>{_decisions(run)}</section>'
    )


def _decisions(run: Run) -> str:
    if not run.decisions:
        return '<p class="small">No decision was recorded.</p>'
    rows = "".join(_decision_row(run, decision) for decision in run.decisions)
    head = "".join(f"<th>{word}</th>" for word in ("At", "Task", "Why", "Accuracy", "In words"))
    return (
        "<h2>Every decision, with its reason</h2>"
        f'<div class="card scroll"><table class="decisions"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _decision_row(run: Run, decision: DecisionLine) -> str:
    header = ladder_of(run, decision.task)
    accuracy = {version.version: version.accuracy for version in header.ladder} if header is not None else {}
    ends = [accuracy.get(version or 0) for version in (decision.from_version, decision.to_version)]
    change = " → ".join(_percent(end, 1) for end in ends if end is not None)
    seconds = max(0.0, decision.time_seconds - run.start_seconds)
    colour = colour_of(run, decision.task)
    return (
        f'<tr><td>{seconds:.0f} s</td><td><span class="key" style="--colour: var({colour})">{escaped(decision.task)}'
        f'</span></td><td><span class="tag">{escaped(decision.code)}</span></td><td>{change}</td>'
        f'<td class="words">{escaped(decision.sentence)}</td></tr>'
    )


def _footer(runs: Sequence[Run]) -> str:
    summary = runs[0].summary
    client = ""
    if summary is not None:
        client = (
            f" The client used {summary.client_cpu_share:.0%} of a core "
            f"({summary.client_cpu_microseconds_per_request:.0f} µs a request) and sent 99 % of its requests within "
            f"{summary.client_lateness_p99_milliseconds:.1f} ms of their time."
        )
    return (
        '<footer><p class="small">Requests arrive as a Poisson process that follows the trace, whether or not earlier '
        "ones were answered; latency counts from the moment a request was to be sent. Normalised accuracy is the "
        f"accuracy of the version that answered divided by that of the task's best version.{client}</p></footer>"
    )
