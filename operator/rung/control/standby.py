"""Which standbys a server has the memory for: those that fit a budget, and fewer when it runs short. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf

from rung.core.plan import Target

SHORT_OF_MEMORY, ROOM_AGAIN = 0.9, 0.75
"""Shares of the memory limit: above the first a server gives standbys up, before the kernel kills it; below the second
it takes them again."""
SETTLE_SECONDS, ROOM_SECONDS = 5.0, 30.0
"""What was measured so soon after a standby was given up says nothing yet; and so long there has to be room for one
more."""


@dataclass(frozen=True, slots=True)
class Squeeze:
    """How many standbys of each task a server may keep; None: as many as are wanted."""

    most: int | None = None
    changed_seconds: float = -inf

    def allows(self, targets: Mapping[str, Target]) -> dict[str, Target]:
        """Leave out the standbys that are too many: the nearest of each task stay."""
        return {
            task: replace(target, standby=target.standby[: self.most]) if self.most is not None else target
            for task, target in targets.items()
        }

    def after(self, used_bytes: int, limit_bytes: int, measured_seconds: float, targets: Iterable[Target]) -> Squeeze:
        """Return what holds from now on, with the memory that was measured and what is wanted."""
        share, waited = used_bytes / limit_bytes, measured_seconds - self.changed_seconds
        wanted = max((len(target.standby) for target in targets), default=0)
        kept = wanted if self.most is None else min(self.most, wanted)
        if share > SHORT_OF_MEMORY and kept > 0 and waited >= SETTLE_SECONDS:
            return Squeeze(kept - 1, measured_seconds)
        if self.most is not None and share < ROOM_AGAIN and waited >= ROOM_SECONDS:
            return Squeeze(self.most + 1 if self.most + 1 < wanted else None, measured_seconds)
        return self


def within_budget(
    targets: Mapping[str, Target], peaks_bytes: Mapping[str, Mapping[int, int]], budget_bytes: int | None
) -> dict[str, Target]:
    """Leave out the standbys that pass the budget; the nearest standby of each task goes before any task's next.

    `peaks_bytes` has the measured peak of each version by task. A version that nobody measured takes nothing of the
    budget. A smaller standby may still fit after a larger one did not.
    """
    if budget_bytes is None:
        return dict(targets)
    kept: dict[str, list[int]] = {task: [] for task in targets}
    left = budget_bytes
    for depth in range(max((len(target.standby) for target in targets.values()), default=0)):
        for task, target in sorted(targets.items()):
            if depth >= len(target.standby):
                continue
            needed = peaks_bytes.get(task, {}).get(target.standby[depth], 0)
            if needed <= left:
                left -= needed
                kept[task].append(target.standby[depth])
    return {task: replace(target, standby=tuple(kept[task])) for task, target in targets.items()}
