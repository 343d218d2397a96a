"""What Frontier remembers of each server between two decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

from rung.core.memory import entries, is_number
from rung.core.plan import Memory
from rung.core.policies import learning
from rung.core.policies.given import Given

LEAST_LOOSENESS = 1e-3
"""However often answers were late, the limit is not multiplied by less."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is kept of a server between two decisions."""

    factor: float = 1.0
    since_seconds: float | None = None
    looseness: float = 1.0
    """What the limit was multiplied by when answers were last late."""
    judged_seconds: float | None = None
    given: Given | None = None
    loaded: int | None = None
    """A digest of what was loaded."""
    loaded_seconds: float | None = None
    """When that was last seen to change."""
    down_seconds: float | None = None
    """When a task last stepped down."""


def plain(each: Remembered) -> dict[str, float | None]:
    """Return what is kept in the pool's status."""
    found: dict[str, float | None] = {"factor": round(each.factor, 3), "since_seconds": each.since_seconds}
    if each.judged_seconds is not None:
        found |= {"looseness": round(each.looseness, 4), "judged_seconds": each.judged_seconds}
    if each.given is not None:
        found |= {"given_cores": round(each.given.cores, 3), "given_seconds": each.given.time_seconds}
    moments = {"loaded": each.loaded, "loaded_seconds": each.loaded_seconds, "down_seconds": each.down_seconds}
    return found | {key: value for key, value in moments.items() if value is not None}


def digest(loaded: Mapping[str, frozenset[int]]) -> int:
    """Return a number that another set of loaded versions would hardly have; the same one in every process."""
    return crc32(repr([(task, sorted(loaded[task])) for task in sorted(loaded)]).encode())


def read(memory: Memory) -> dict[str, Remembered]:
    """Read the memory; what is malformed is as if it had never been."""
    found: dict[str, Remembered] = {}
    for name, entry in entries(memory, "servers").items():
        factor, since = entry.get("factor"), entry.get("since_seconds")
        looseness, late = entry.get("looseness"), entry.get("judged_seconds")
        cores, given = entry.get("given_cores"), entry.get("given_seconds")
        loaded, loaded_since, down = entry.get("loaded"), entry.get("loaded_seconds"), entry.get("down_seconds")
        found[name] = Remembered(
            learning.bounded(factor) if is_number(factor) else 1.0,
            float(since) if is_number(since) else None,
            min(1e3, max(LEAST_LOOSENESS, looseness)) if is_number(looseness) else 1.0,
            float(late) if is_number(late) else None,
            Given(float(cores), float(given)) if is_number(cores) and cores > 0 and is_number(given) else None,
            int(loaded) if is_number(loaded) else None,
            float(loaded_since) if is_number(loaded_since) else None,
            float(down) if is_number(down) else None,
        )
    return found
