"""What a search tried, what survived, and why the rest did not: as a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table
from rich.text import Text

from rung_porting.show.record import Record, Tried, read_record

HEAD = ("trial", "version", "accuracy", "MFLOP", "1-thread ms", "how", "verdict")


def search_rows(record: Record) -> Iterator[tuple[str, ...]]:
    """Yield the record of a search row by row, in the order of the trials, under HEAD."""
    for trial in record.trials:
        name, how = f"#{trial.trial}", trial.sentence
        for tried in trial.made:
            yield (
                name,
                str(tried.number or "-"),
                f"{tried.accuracy:.2%}",
                f"{tried.flops / 1e6:.3g}",
                f"{tried.latency_seconds * 1e3:.3g}",
                _how(tried, how),
                tried.verdict,
            )
            name = ""
        if trial.failure is not None:
            yield name, "-", "-", "-", "-", how, f"failed: {trial.failure}"
        for note in trial.notes:
            yield "", "-", "-", "-", "-", "its other versions", note


def _how(tried: Tried, how: str) -> str:
    """Say how one version of a trial differs from the first one, which was made as the trial says."""
    differs = [*filter(None, [tried.knob]), *(["INT8"] if tried.int8 else [])]
    return f"the same, {', '.join(differs)}" if differs else how


def search_table(path: Path) -> Table:
    """Return the record of a search as a table, in the order of the trials. Raises PortingError."""
    record = read_record(path)
    table = Table(title=Text(record.task), title_justify="left")
    for name in HEAD[:5]:
        table.add_column(name, justify="right", no_wrap=True)
    for name in HEAD[5:]:
        table.add_column(name, overflow="fold")
    for row in search_rows(record):
        # As Text, a cell with square brackets is not taken for markup.
        table.add_row(*map(Text, row))
    return table
