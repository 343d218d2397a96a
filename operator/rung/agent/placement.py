"""Which versions belong on the disk: a pure decision from what is known, wanted, loaded, and the budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

VersionKey = tuple[str, int]
"""Task and version number."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One version that could be on the disk."""

    key: VersionKey
    size_bytes: int
    installed: bool = False
    ready: bool = True
    """Whether it may be downloaded now: False while it waits for its config, or for its back-off to pass."""
    suspect: bool = False
    """Whether its last download was corrupt: it never makes another one give way."""
    listed: bool = True
    """Whether the repository still has it."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What to do next."""

    download: VersionKey | None
    evict: tuple[VersionKey, ...]
    """What has to go before the download, or because the budget is passed; least wanted first."""
    no_room: frozenset[VersionKey]
    """Versions that are not on the disk and don't fit beside what is wanted more."""


def place(
    candidates: Iterable[Candidate],
    wanted: Mapping[str, Sequence[int]],
    protected: frozenset[VersionKey],
    budget_bytes: int,
) -> Placement:
    """Decide what to download and what to evict.

    Protected versions stay whatever happens. The rest is taken most wanted first as long as it fits: the order of
    `wanted`, the first of each task before any second; then what nobody asked for, cheapest (lowest number) first.
    Nothing is evicted unless its room is needed now.

    Args:
        candidates: every version that the repository has or the disk holds.
        wanted: for each task its versions, the soonest needed first.
        protected: versions that must not be touched (Triton has them loaded).
        budget_bytes: what all versions together may take.
    """
    ranked = _ranked(candidates, wanted)
    kept = {candidate.key for candidate in ranked if candidate.installed and candidate.key in protected}
    left_bytes = budget_bytes - sum(candidate.size_bytes for candidate in ranked if candidate.key in kept)
    for candidate in ranked:
        possible = candidate.key not in kept and (candidate.installed or candidate.ready)
        if possible and candidate.size_bytes <= left_bytes:
            kept.add(candidate.key)
            left_bytes -= candidate.size_bytes
    absent = [candidate for candidate in ranked if not candidate.installed and candidate.ready]
    download = next((candidate for candidate in absent if candidate.key in kept), None)
    spare = [candidate for candidate in reversed(ranked) if candidate.installed and candidate.key not in kept]
    used_bytes = sum(candidate.size_bytes for candidate in ranked if candidate.installed)
    needed_bytes = used_bytes + (download.size_bytes if download else 0)
    evict = []
    for candidate in spare:
        if needed_bytes <= budget_bytes:
            break
        evict.append(candidate.key)
        needed_bytes -= candidate.size_bytes
    no_room = frozenset(candidate.key for candidate in absent if candidate.key not in kept)
    return Placement(download.key if download else None, tuple(evict), no_room)


def _ranked(candidates: Iterable[Candidate], wanted: Mapping[str, Sequence[int]]) -> list[Candidate]:
    """Most wanted first."""
    places = {
        (task, number): place for task, numbers in wanted.items() for place, number in reversed([*enumerate(numbers)])
    }
    by_number = sorted(candidates, key=lambda candidate: candidate.key)
    heights: dict[str, int] = {}
    rank: dict[VersionKey, tuple[bool, bool, bool, int, VersionKey]] = {}
    for candidate in by_number:
        task, _ = candidate.key
        height = heights[task] = heights.get(task, -1) + 1
        place = places.get(candidate.key)
        # What is suspect or gone from the repository comes last, so it never pushes out what is good.
        demoted = (candidate.suspect or not candidate.listed) and not (candidate.installed and place is not None)
        rank[candidate.key] = (
            demoted,
            place is None,
            not candidate.listed,
            height if place is None else place,
            candidate.key,
        )
    return sorted(by_number, key=lambda candidate: rank[candidate.key])
