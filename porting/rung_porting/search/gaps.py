"""Where a frontier is thin. Pure.

Between two neighbours on the frontier lies a box: as wide as the logarithm of their costs' ratio, as high as the
difference of their accuracies. A new version inside it can gain at most its area; the largest box is where the frontier
is thinnest. (The hypervolume view of multi-objective search: Zitzler, Thiele, "Multiobjective evolutionary algorithms",
1999.) Below the cheapest version lies one more box, down to the cost that is aimed at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEAST_HEIGHT = 0.005
"""Accuracy. A flat stretch is filled a little, too: what is cheaper at the same accuracy is worth having."""
UNKNOWN_HEIGHT = 0.05
"""Accuracy that may be lost below the cheapest version, before anything is known."""


@dataclass(frozen=True, slots=True)
class Point:
    """One version: its cost in any unit, its accuracy 0 to 1."""

    cost: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Gap:
    """A box between two costs, with the accuracy that may be gained or lost in it."""

    cheap: float
    dear: float
    height: float

    @property
    def area(self) -> float:
        """How much a version in it can gain at most."""
        return math.log(self.dear / self.cheap) * max(self.height, LEAST_HEIGHT)

    @property
    def middle(self) -> float:
        """The cost halfway, as ratios go."""
        return math.sqrt(self.cheap * self.dear)

    def halves(self) -> tuple[Gap, Gap]:
        """Return both halves, each as high as is fair to hope for."""
        return Gap(self.cheap, self.middle, self.height / 2), Gap(self.middle, self.dear, self.height / 2)


def frontier(points: Iterable[Point]) -> tuple[Point, ...]:
    """Return the points that no other one beats, the cheapest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (each.cost, -each.accuracy)):
        if not found or point.accuracy > found[-1].accuracy:
            found.append(point)
    return tuple(found)


def gaps(points: Iterable[Point], least_cost: float) -> tuple[Gap, ...]:
    """Return the boxes of a frontier, down to the cost that is aimed at."""
    along = frontier(points)
    if not along:
        return ()
    found = [Gap(cheap.cost, dear.cost, dear.accuracy - cheap.accuracy) for cheap, dear in itertools.pairwise(along)]
    if along[0].cost > least_cost * 1.25:  # nearer than that is near enough
        found.append(Gap(least_cost, along[0].cost, max(UNKNOWN_HEIGHT, along[-1].accuracy - along[0].accuracy)))
    return tuple(found)


def next_costs(points: Iterable[Point], least_cost: float, count: int) -> tuple[float, ...]:
    """Return `count` costs to aim at: the middle of the largest gap, which then counts as its two halves, and so on."""
    left = list(gaps(points, least_cost))
    costs: list[float] = []
    while left and len(costs) < count:
        largest = max(left, key=lambda gap: (gap.area, gap.dear))
        costs.append(largest.middle)
        left.remove(largest)
        left += largest.halves()
    return tuple(costs)


def accuracy_at(points: Iterable[Point], cost: float) -> float:
    """Return what the frontier has at a cost: interpolated over the logarithm of cost, level beyond its ends.

    Raises:
        ValueError: there is no point.
    """
    along: Sequence[Point] = frontier(points)
    if not along:
        raise ValueError("an empty frontier has no accuracy")
    if cost <= along[0].cost:
        return along[0].accuracy
    for cheap, dear in itertools.pairwise(along):
        if cost <= dear.cost:
            share = math.log(cost / cheap.cost) / math.log(dear.cost / cheap.cost)
            return cheap.accuracy + share * (dear.accuracy - cheap.accuracy)
    return along[-1].accuracy
