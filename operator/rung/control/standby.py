"""Which standbys a server has the memory for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rung.core.plan import Target


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
