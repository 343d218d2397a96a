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
    seen = {"loaded": each.loaded, "loaded_seconds": each.loaded_seconds, "down_seconds": each.down_seconds}
    return found | {key: value for key, value in seen.items() if value is not None}


def digest(loaded: Mapping[str, frozenset[int]]) -> int:
    """Return a number that another set of loaded versions would hardly have; the same one in every process."""
    return crc32(repr([(task, sorted(loaded[task])) for task in sorted(loaded)]).encode())


def read(memory: Memory) -> dict[str, Remembered]:
    """Read the memory; what is malformed is as if it had never been."""
    found: dict[str, Remembered] = {}
    for name, entry in entries(memory, "servers").items():
        factor, looseness, loaded = (_number(entry, key) for key in ("factor", "looseness", "loaded"))
        cores, given = _number(entry, "given_cores"), _number(entry, "given_seconds")
        found[name] = Remembered(
            factor=1.0 if factor is None else learning.bounded(factor),
            since_seconds=_number(entry, "since_seconds"),
            looseness=1.0 if looseness is None else min(1e3, max(LEAST_LOOSENESS, looseness)),
            judged_seconds=_number(entry, "judged_seconds"),
            given=Given(cores, given) if cores is not None and cores > 0 and given is not None else None,
            loaded=None if loaded is None else int(loaded),
            loaded_seconds=_number(entry, "loaded_seconds"),
            down_seconds=_number(entry, "down_seconds"),
        )
    return found


def _number(entry: Mapping[str, object], key: str) -> float | None:
    value = entry.get(key)
    return float(value) if is_number(value) else None
