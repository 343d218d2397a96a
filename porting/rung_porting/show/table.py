"""`rung-port show`: the ladders as tables."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from rung_porting.repository.catalogue import Row


def ladder_table(task: str, rows: tuple[Row, ...], latency_seconds: Mapping[int, float] | None = None) -> Table:
    """Return the ladder of one task as a table, the best version first.

    Args:
        task: its name.
        rows: its versions.
        latency_seconds: by version, CPU-seconds of one answer on one thread, where that was just measured.
    """
    table = Table(title=task, title_justify="left")
    for name in ("version", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    classes = sorted({name for row in rows for name in row.throughput_rps})
    for hardware_class in classes or ["inferences/s"]:
        table.add_column(f"{hardware_class} inf/s" if classes else hardware_class, justify="right")
    if latency_seconds is not None:
        table.add_column("1-thread ms", justify="right")
    for name in ("method", "sparsity", "parameters", "bytes", "frontier"):
        table.add_column(name, justify="left" if name in ("method", "frontier") else "right")
    for row in reversed(rows):
        lineage = row.spec.lineage
        cells = [str(row.number), f"{row.spec.accuracy.value:.5f}"]
        cells += [f"{row.throughput_rps[name]:.1f}" if name in row.throughput_rps else "-" for name in classes or [""]]
        if latency_seconds is not None:
            cells.append(f"{latency_seconds[row.number] * 1000:.2f}")
        cells += [
            lineage.method,
            "-" if lineage.sparsity is None else f"{lineage.sparsity:.1%}",
            "-" if lineage.parameters is None else f"{lineage.parameters:,}",
            f"{row.spec.artifact.bytes:,}",
            "yes" if row.beaten_by is None else f"beaten by {row.beaten_by}",
        ]
        table.add_row(*cells)
    table.caption = "; ".join(filter(None, (_span(name, rows) for name in classes)))
    table.caption_justify = "left"
    return table


def _span(hardware_class: str, rows: tuple[Row, ...]) -> str:
    """Say how far the frontier reaches on this class of hardware, where two versions of it were measured there."""
    found = [
        row.throughput_rps[hardware_class]
        for row in rows
        if row.beaten_by is None and hardware_class in row.throughput_rps
    ]
    if len(found) < 2 or min(found) <= 0:
        return ""
    return f"the frontier spans {max(found) / min(found):.1f}x in throughput on {hardware_class}"
