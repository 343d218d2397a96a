"""Whether a version fits into a server's memory: arithmetic on what was measured, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """The memory of a server's pod, in bytes, as its agent last measured it, and what was loaded since."""

    limit_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Room:
    """What is known about a server's memory and about its versions' peaks, in bytes.

    Without a budget, or without the version's size, a load is not refused.
    """

    budget: MemoryBudget | None
    versions_memory: Mapping[int, int]

    def _of(self, versions: frozenset[int]) -> int:
        return sum(self.versions_memory.get(number, 0) for number in versions)

    def lacks(self, number: int, *, freed: frozenset[int] = frozenset(), added: frozenset[int] = frozenset()) -> str:
        """Return why this version doesn't fit after these were freed and added; empty when it fits."""
        needed_bytes = self.versions_memory.get(number)
        if self.budget is None or needed_bytes is None:
            return ""
        used_bytes = max(0, self.budget.used_bytes - self._of(freed) + self._of(added))
        if used_bytes + needed_bytes <= self.budget.limit_bytes:
            return ""
        return (
            f"{_megabytes(used_bytes)} in use and {_megabytes(needed_bytes)} for version {number} together pass the "
            f"limit of {_megabytes(self.budget.limit_bytes)}"
        )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
