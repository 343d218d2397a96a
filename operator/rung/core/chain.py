"""The chain of allocations that Stepwise walks: from the best version of every task to the cheapest of every task.

Source: Buijnsters, TU Delft, section 4.4. From point to point one task goes one rung down its ladder: the one whose
next version loses the least normalised accuracy per unit of metric x demand saved (the flattest slope).

Where the thesis leaves a choice:

- A task's `weight` multiplies the accuracy it loses; with the default weight of 1 this is the thesis' chain.
- A task without demand saves nothing by stepping down, so its slope is endless and it comes after every task that has
  demand. Among themselves such tasks go by loss per metric (as if each had the same demand).
- Equal slopes go by the task's name, so that the same input always gives the same chain.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCE = 1e-9
"""Totals that differ by less than this share of the highest total are the same: sums of floats, not a decision."""


@dataclass(frozen=True, slots=True)
class Climber:
    """One task as the chain sees it: cost and (weighted, normalised) accuracy of each rung, rung 0 the cheapest."""

    metrics: tuple[float, ...]
    accuracies: tuple[float, ...]
    demand_rps: float

    def load(self, rung: int) -> float:
        """Return metric x demand of a rung."""
        return self.metrics[rung] * self.demand_rps


@dataclass(frozen=True, slots=True)
class Chain:
    """Point 0 is the best version of every task; point k is reached by the first k steps, each one rung down."""

    climbers: Mapping[str, Climber]
    steps: tuple[str, ...]
    totals: tuple[float, ...]
    """Total metric x demand of each point; never rises."""

    def allocation(self, point: int) -> dict[str, int]:
        """Return the rung of every task at a point."""
        rungs = {task: len(climber.metrics) - 1 for task, climber in self.climbers.items()}
        for task in self.steps[:point]:
            rungs[task] -= 1
        return rungs

    def total(self, rungs: Mapping[str, int]) -> float:
        """Return total metric x demand of any allocation of these tasks."""
        return sum((climber.load(rungs[task]) for task, climber in self.climbers.items()), 0.0)

    def accuracy(self, rungs: Mapping[str, int]) -> float:
        """Return the summed (weighted, normalised) accuracy of any allocation of these tasks."""
        return sum((climber.accuracies[rungs[task]] for task, climber in self.climbers.items()), 0.0)

    @property
    def slack(self) -> float:
        """Return the difference of totals that counts as none."""
        return self.totals[0] * TOLERANCE

    def first_at_most(self, limit: float) -> int | None:
        """Return the first (highest) point whose total does not pass the limit, or None when every point does."""
        point = bisect_left(self.totals, -(limit + self.slack), key=lambda total: -total)
        return point if point < len(self.totals) else None

    def first_below(self, limit: float) -> int | None:
        """Return the first (highest) point whose total stays below the limit; a total of nothing always does."""
        for point in range(self.first_at_most(limit) or 0, len(self.totals)):
            if self.totals[point] < limit - self.slack or self.totals[point] <= self.slack:
                return point
        return None

    def last_above(self, limit: float) -> int | None:
        """Return the last (lowest) point whose total passes the limit, or None when none does."""
        point = self.first_at_most(limit)
        above = (len(self.totals) if point is None else point) - 1
        return above if above >= 0 else None


def build(climbers: Mapping[str, Climber]) -> Chain:
    """Build the chain; with no tasks it is the one empty point."""
    rungs = {task: len(climber.metrics) - 1 for task, climber in climbers.items()}
    queue = [_next_step(task, climber, rungs[task]) for task, climber in climbers.items() if rungs[task] > 0]
    heapq.heapify(queue)
    total = sum((climber.load(rungs[task]) for task, climber in climbers.items()), 0.0)
    steps: list[str] = []
    totals = [total]
    while queue:
        _, _, task = queue[0]
        climber = climbers[task]
        rung = rungs[task]
        # Sums of floats may creep upward by a last digit: the chain never does.
        total = max(0.0, total - (climber.load(rung) - climber.load(rung - 1)))
        rungs[task] = rung - 1
        steps.append(task)
        totals.append(total)
        if rung - 1 > 0:
            heapq.heapreplace(queue, _next_step(task, climber, rung - 1))
        else:
            heapq.heappop(queue)
    return Chain(climbers, tuple(steps), tuple(totals))


def _next_step(task: str, climber: Climber, rung: int) -> tuple[bool, float, str]:
    """Return the sort key of a step down from `rung`: the flattest slope first, tasks without demand last."""
    lost = climber.accuracies[rung] - climber.accuracies[rung - 1]
    saved = climber.metrics[rung] - climber.metrics[rung - 1]
    idle = climber.demand_rps <= 0
    slope = lost / saved / (1.0 if idle else climber.demand_rps) if saved > 0 else float("inf")
    return idle, slope, task
