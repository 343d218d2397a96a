"""The page of an experiment: what was asked, the table, the picture, what is to be seen in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from rung_sim.experiments.setting import Entry, mean_and_interval
from rung_sim.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, and rows of texts."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def markdown(self) -> str:
        """Return it as Markdown; the first column is text, the others are numbers."""
        lines = [f"| {' | '.join(self.columns)} |", "|---|" + "---:|" * (len(self.columns) - 1)]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return (f"{self.caption}\n\n" if self.caption else "") + "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Page:
    """One experiment's result."""

    title: str
    question: str
    command: str
    tables: Sequence[Table]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """By name of the file, without its ending."""
    findings: Sequence[str] = ()

    def write(self, folder: Path, name: str) -> None:
        """Write NAME.md and its pictures. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        parts = [f"# {self.title}", self.question, f"```sh\n{self.command}\n```"]
        if self.findings:
            parts.append("\n".join(f"- {each}" for each in self.findings))
        for picture, figure in self.figures.items():
            figure.savefig(folder / f"{picture}.png", dpi=110)
            parts.append(f"![{self.title}]({picture}.png)")
        parts += [table.markdown() for table in self.tables]
        (folder / f"{name}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def summary(entries: Sequence[Entry], by_entry: Sequence[Sequence[Outcome]], caption: str = "") -> Table:
    """Return the usual table: a line for each entry, means over its runs, with 95 % confidence intervals."""
    columns = [
        "policy", "setting", "late, %", "normalised accuracy, %", "by request, %", "CPU, %", "swaps warm", "cold",
        "failed",
    ]  # fmt: skip
    rows = []
    for entry, found in zip(entries, by_entry, strict=True):
        late, late_half = mean_and_interval([100 * each.late_share for each in found])
        worth, worth_half = mean_and_interval([100 * each.normalized_accuracy for each in found])
        requested, _ = mean_and_interval([100 * each.normalized_accuracy_per_request for each in found])
        cpu, _ = mean_and_interval([100 * each.cpu for each in found])
        warm, _ = mean_and_interval([float(each.swaps["warm"]) for each in found])
        cold, _ = mean_and_interval([float(each.swaps["cold"]) for each in found])
        rows.append(
            [
                entry.label, entry.setting, _with_interval(late, late_half, 3), _with_interval(worth, worth_half, 2),
                f"{requested:.2f}", f"{cpu:.1f}", f"{warm:.0f}", f"{cold:.0f}", f"{sum(each.failed for each in found)}",
            ]
        )  # fmt: skip
    return Table(columns, rows, caption)


def _with_interval(mean: float, half: float, digits: int) -> str:
    """Write a mean; of one run alone there is no interval."""
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if half > 0 else "")


def points(entries: Sequence[Entry], by_entry: Sequence[Sequence[Outcome]]) -> dict[str, list[tuple[float, float]]]:
    """Return, by label, the mean late share and accuracy of each setting: what `figures.scatter` draws."""
    found: dict[str, list[tuple[float, float]]] = {}
    for entry, runs in zip(entries, by_entry, strict=True):
        late, _ = mean_and_interval([each.late_share for each in runs])
        accuracy, _ = mean_and_interval([each.normalized_accuracy for each in runs])
        found.setdefault(entry.label, []).append((late, accuracy))
    return found


def late_of(found: Sequence[Outcome]) -> float:
    """Return the mean late share of some runs."""
    return mean_and_interval([each.late_share for each in found])[0]


def accuracy_of(found: Sequence[Outcome]) -> float:
    """Return the mean normalised accuracy of some runs."""
    return mean_and_interval([each.normalized_accuracy for each in found])[0]
