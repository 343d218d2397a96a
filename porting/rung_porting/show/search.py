"""What a search tried, what survived, and why the rest did not: as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from rung_porting.errors import PortingError


def read_search(path: Path) -> Mapping[str, Any]:
    """Read the record that `run` leaves. Raises PortingError: it can't be read, or is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PortingError(f"{path}: {error}") from None
    if not isinstance(content, dict) or not {"task", "trials", "over"} <= content.keys():
        raise PortingError(f"{path} is no record of a search")
    return content


def search_table(path: Path) -> Table:
    """Return the record of a search as a table, in the order of the trials. Raises PortingError."""
    record = read_search(path)
    table = Table(title=record["task"], title_justify="left")
    for name in ("trial", "version", "accuracy", "MFLOP", "1-thread ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("how", "verdict"):
        table.add_column(name, overflow="fold")
    for trial in record["trials"]:
        name, how = f"#{trial['trial']}", trial["sentence"]
        for version in trial["versions"]:
            table.add_row(
                name,
                str(version["number"] or "-"),
                f"{version['accuracy']:.2%}",
                f"{version['flops'] / 1e6:.3g}",
                f"{version['latencySeconds'] * 1e3:.2f}",
                "its INT8 version" if version["int8"] else how,
                version["verdict"],
            )
            name = ""
        if trial["failure"] is not None:
            table.add_row(name, "-", "-", "-", "-", how, f"failed: {trial['failure']}")
        for note in trial["notes"]:
            table.add_row("", "-", "-", "-", "-", "its INT8 version", note)
    return table
