"""The ladder of one task: numbers for its versions, and which of them are worth serving. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rung.core.repository_layout import version_number


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version before it has a number: accuracy 0 to 1, cost in any unit (floating-point operations here)."""

    name: str
    accuracy: float
    cost: float


@dataclass(frozen=True, slots=True)
class Rung:
    """A version as the frontier sees it. `cost` falls as throughput rises; its unit is the same for all of a task."""

    number: int
    accuracy: float
    cost: float


def number_versions(candidates: Iterable[Candidate], generation: int) -> dict[str, int]:
    """Give each candidate its number: accuracy decides; of equals, the cheaper one comes first.

    The result does not depend on the order of the candidates.

    Raises:
        ValueError: see `rung.core.repository_layout.version_number`.
    """
    numbers: dict[str, int] = {}
    for candidate in sorted(candidates, key=lambda each: (each.accuracy, each.cost, each.name)):
        numbers[candidate.name] = version_number(generation, candidate.accuracy, set(numbers.values()))
    return numbers


def dominators(rungs: Sequence[Rung]) -> dict[int, int]:
    """Return who beats whom: `{number: number of the best version that beats it}`; the frontier is not in it.

    A version is beaten by one that is at least as good in both accuracy and cost and better in one of them; of twins,
    the higher number is beaten.
    """
    beaten: dict[int, int] = {}
    for rung in rungs:
        better = [other for other in rungs if _beats(other, rung)]
        if better:
            beaten[rung.number] = max(better, key=lambda other: (other.accuracy, -other.cost, -other.number)).number
    return beaten


def least_missed(rungs: Sequence[Rung], stays: int | None = None) -> Rung | None:
    """Return the one without which the frontier loses least; None where only what stays is left.

    What is lost is what this version alone offers (its part of the hypervolume, costs as logarithms: Zitzler, Thiele,
    "Multiobjective evolutionary algorithms", 1999). A beaten one is not missed at all. The ends always stay,
    and so does the one with the number `stays`.
    """
    beaten = dominators(rungs)
    missed = [(0.0, rung.accuracy, rung) for rung in rungs if rung.number in beaten]
    along = sorted((rung for rung in rungs if rung.number not in beaten), key=lambda rung: rung.cost)
    for cheaper, rung, dearer in zip(along, along[1:], along[2:], strict=False):
        part = math.log(dearer.cost / rung.cost) * (rung.accuracy - cheaper.accuracy)
        missed.append((part, rung.accuracy, rung))
    candidates = [each for each in missed if each[2].number != stays]
    return min(candidates, key=lambda each: each[:2])[2] if candidates else None


def _beats(other: Rung, rung: Rung) -> bool:
    if other.accuracy < rung.accuracy or other.cost > rung.cost:
        return False
    if (other.accuracy, other.cost) != (rung.accuracy, rung.cost):
        return True
    return other.number < rung.number
