"""What a comparison is shown as: a table in the terminal, pictures and the full record in a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rung_sim import figures
from rung_sim.comparison import Result
from rung_sim.engine import Floats


def print_table(results: Sequence[Result]) -> None:
    """Print a line for each policy."""
    table = Table(box=None, pad_edge=False)
    table.add_column("policy")
    for heading in (
        "late", "failed", "norm. accuracy\nof the tasks", "norm. accuracy\nby request", "CPU", "core-\nseconds",
        "swaps\nwarm", "swaps\ncold", "decisions\na second",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for result in results:
        found = result.outcome
        table.add_row(
            result.label, f"{100 * found.late_share:.3f} %", f"{found.failed:,}",
            f"{100 * found.normalized_accuracy:.2f} %", f"{100 * found.normalized_accuracy_per_request:.2f} %",
            f"{100 * found.cpu:.1f} %", f"{found.core_seconds:,.0f}", f"{found.swaps['warm']:,}",
            f"{found.swaps['cold']:,}", f"{found.decisions_per_second:,.0f}",
        )  # fmt: skip
    requests = results[0].outcome.requests if results else 0
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(f"{requests:,} requests. Late: answered after the task's service level, or failed.", highlight=False)


def write_report(folder: Path, results: Sequence[Result], rates_rps: Mapping[str, Floats]) -> None:
    """Write `outcome.json`, `steps.jsonl`, and the pictures. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = {result.label: result.outcome.to_json() for result in results}
    (folder / "outcome.json").write_text(json.dumps(outcomes, indent=2) + "\n", encoding="utf-8")
    with (folder / "steps.jsonl").open("w", encoding="utf-8") as file:
        for result in results:
            for step in result.run.steps:
                line = {
                    "policy": result.label, "second": step.second, "server": step.reason.server,
                    "task": step.reason.task, "version": step.version, "code": step.reason.code.value,
                    "reason": step.reason.sentence, "numbers": dict(step.reason.numbers),
                }  # fmt: skip
                file.write(json.dumps(line) + "\n")
    figures.scatter({r.label: [(r.outcome.late_share, r.outcome.normalized_accuracy)] for r in results}).savefig(
        folder / "late-over-accuracy.png", dpi=120
    )
    for result in results:
        figures.timeline(result, rates_rps).savefig(folder / f"{result.label}.png", dpi=120)
