"""The best allocation of one server within its limits: exact, by branch and bound.

Each task takes one of its choices. A choice has a value, a load, and the highest total load of the server under which
it keeps its promise; so the total load must not pass the lowest of these limits among what is chosen. For one given
limit R this is the multiple-choice knapsack of capacity R, with the choices whose own limit is R or above (Kellerer,
Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11); the optimum is that of the best R, and only the choices' own
limits have to be tried. All of them are bounded at once by Lagrange's relaxation, so few are solved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import inf
from typing import NamedTuple

TOLERANCE = 1e-9
"""Values closer than this are the same, and so are loads, relative to the limit."""
MOST_STEPS = 50_000
"""Relaxations that are solved at most, each counted for every task; then the best found is returned with its gap."""
PRICES = (1.0, 0.5, 0.7, 0.85)
"""Of the price of load at a likely limit: what is tried for all limits."""


class Choice(NamedTuple):
    """One rung of one task.

    Args:
        value: what it is worth, for example weight x normalised accuracy.
        load: cores that it uses.
        most_total: the highest total load of the server under which it may be chosen; -inf: never.
    """

    value: float
    load: float
    most_total: float


@dataclass(frozen=True, slots=True)
class Allocation:
    """What was found. `choices` are the places of the chosen ones; None where no allocation keeps every limit."""

    choices: tuple[int, ...] | None
    value: float
    gap: float = 0.0
    """By how much the optimum may be higher; 0 unless the search was cut off."""


_Ladder = Sequence[tuple[float, float, int]]
"""Choices of a task that may still be made, by load: load, value, place."""
_Steps = list[tuple[float, float, float, int, int]]


class _Node(NamedTuple):
    """A part of the allocations: from where to where each task's ladder is open; what all the starts load and are
    worth; and the steps up from them along the hulls of these parts, the best value for its load first."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    load: float
    value: float
    steps: _Steps


def best_allocation(tasks: Sequence[Sequence[Choice]], most_steps: int = MOST_STEPS) -> Allocation:
    """Return an allocation of the highest value that keeps every limit.

    Total: no task gives the empty allocation, a task without choices none at all.
    """
    if not tasks:
        return Allocation((), 0.0)
    by_load = _possible(tasks)
    if not all(by_load):
        return Allocation(None, -inf)
    search = _Search(most_steps)
    known = _climb(by_load, search)
    if search.value + TOLERANCE >= sum(-min(one[1] for one in choices) for choices in by_load):
        return Allocation(search.choices, search.value)
    bounds = _Bounds(by_load)
    likely = bounds.limits[len(bounds.limits) // 2] if known is None else known
    price = _Knapsack(by_load, likely).price(search)
    for factor in PRICES:
        bounds.tighten(price * factor)
    while (highest := bounds.highest())[0] > search.value + TOLERANCE:
        bound, place = highest
        if search.steps_left <= 0:
            return Allocation(search.choices, search.value, max(search.missed, bound - search.value))
        bounds.done(place)
        bounds.tighten(_Knapsack(by_load, bounds.limits[place]).solve(search))
    return Allocation(search.choices, search.value, search.missed)


_ByLoad = Sequence[Sequence[tuple[float, float, int, float]]]
"""By task, its choices by load: load, -value, place, highest total load."""


def _possible(tasks: Sequence[Sequence[Choice]]) -> _ByLoad:
    """Return the choices that an allocation within the limits can have, and that no other choice of the task beats."""
    least = [min((one.load for one in choices if one.most_total > -inf), default=inf) for choices in tasks]
    total = sum(least)
    if total == inf:
        return [[]]
    found = []
    for choices, mine in zip(tasks, least, strict=True):
        kept: list[tuple[float, float, int, float]] = []
        highest = inf
        for one in sorted((one.load, -one.value, place, one.most_total) for place, one in enumerate(choices)):
            load, negative, _, most = one
            if not total - mine + load <= most + TOLERANCE * abs(most):
                continue
            if negative < highest or not any(better[1] <= negative and better[3] >= most for better in kept):
                kept.append(one)
                highest = min(highest, negative)
        found.append(kept)
    return found


class _Bounds:
    """What no allocation under each limit can pass.

    With a price on load, that is the sum of each task's best (value - price x load) among the choices that keep the
    limit, plus price x limit: true for any price, and close for a good one (Lagrange's relaxation). A price is good for
    one limit and the ones near it, so several are tried.
    """

    def __init__(self, by_load: _ByLoad) -> None:
        self._choices = sorted(
            ((most_total, task, load, -negative)
             for task, choices in enumerate(by_load) for load, negative, _, most_total in choices),
            reverse=True,
        )  # fmt: skip
        self.limits = [most_total for most_total, *_ in self._choices]
        first = dict.fromkeys(range(len(by_load)), 0)
        first.update((task, place) for place, (_, task, _, _) in reversed([*enumerate(self._choices)]))
        self._complete = max(first.values())
        """From this place on, every task has a choice that keeps the limit."""
        # Of choices that share a limit, the last one stands for it.
        shared = [limit == after for limit, after in pairwise((*self.limits, -inf))]
        self._bounds = [-inf if place < self._complete or shared[place] else inf for place in range(len(shared))]

    def tighten(self, price: float) -> None:
        """Lower the bounds to what this price, 0 or above, shows."""
        best: dict[int, float] = {}
        for _, task, load, value in self._choices[: self._complete]:
            best[task] = max(best.get(task, -inf), value - price * load)
        total = sum(best.values())
        totals = [-inf] * self._complete
        for _, task, load, value in self._choices[self._complete :]:
            worth = value - price * load
            before = best.get(task)
            if before is None:
                total += worth
                best[task] = worth
            elif worth > before:
                total += worth - before
                best[task] = worth
            totals.append(total)
        # A sum that grew step by step is off by its last digits.
        passed = [
            total + TOLERANCE + (price * limit if price else 0.0)
            for total, limit in zip(totals, self.limits, strict=True)
        ]
        self._bounds = [*map(min, self._bounds, passed)]

    def highest(self) -> tuple[float, int]:
        """Return the highest bound and the place of its limit; -inf where all are done."""
        bound = max(self._bounds)
        return bound, self._bounds.index(bound)

    def done(self, place: int) -> None:
        """Leave out a limit."""
        self._bounds[place] = -inf


def _climb(by_load: _ByLoad, search: _Search) -> float | None:
    """Tell the search of a good allocation: from the cheapest up, the best value for its load first.

    The better what is known at the beginning, the less has to be searched. Returns the limit that it keeps; None where
    the cheapest allocation keeps none.
    """
    now = [choices[0] for choices in by_load]
    load = sum(one[0] for one in now)
    steps = sorted(
        ((one[1] - first[1]) / max(one[0] - first[0], TOLERANCE), task, place)
        for task, (choices, first) in enumerate(zip(by_load, now, strict=True))
        for place, one in enumerate(choices)
        if one[1] < first[1]
    )
    limit = min(one[3] for one in now)
    if load > limit * (1.0 + TOLERANCE):
        return None
    better = True
    while better:
        better = False
        for _, task, place in steps:
            one, before = by_load[task][place], now[task]
            more = load + one[0] - before[0]
            if one[1] >= before[1] or more > one[3] or more > limit:
                continue
            now[task], load, better = one, more, True
            limit = min(limit, one[3])
    search.take(-sum(one[1] for one in now), tuple(one[2] for one in now))
    return limit


class _Search:
    """The best allocation so far, and how much may still be spent."""

    def __init__(self, most_steps: int) -> None:
        self.steps_left = most_steps
        self.value = -inf
        self.choices: tuple[int, ...] | None = None
        self.missed = 0.0

    def take(self, value: float, choices: tuple[int, ...]) -> None:
        if value > self.value:
            self.value, self.choices = value, choices


class _Knapsack:
    """The multiple-choice knapsack whose choices keep a limit, which is its capacity, too."""

    def __init__(self, tasks: _ByLoad, limit: float) -> None:
        self.capacity = limit + TOLERANCE * abs(limit) if limit < inf else inf
        self.ladders = [_useful(choices, limit) for choices in tasks]

    def price(self, search: _Search) -> float:
        """Return what a unit of load is worth where it is short; 0 where it is not, or nothing fits."""
        return self._relax(self._root(), search)[2] if all(self.ladders) else 0.0

    def solve(self, search: _Search) -> float:
        """Tell the search of everything that is better than what it has; return the price of load at the first look."""
        if not all(self.ladders):
            return 0.0
        highest, split, price = self._relax(self._root(), search)
        if split is None or highest <= search.value + TOLERANCE or not self._reduce(price, search):
            return price
        stack = [self._root()]
        while stack:
            node = stack.pop()
            bound, split, _ = self._relax(node, search)
            if bound <= search.value + TOLERANCE or split is None:
                continue
            if search.steps_left <= 0:
                search.missed = max(search.missed, highest - search.value)
                break
            task, place = split
            # The upper part first: it is searched last, after the lower one made the best known better.
            stack.append(self._part(node, task, place, node.ends[task]))
            stack.append(self._part(node, task, node.starts[task], place))
        return price

    def _reduce(self, price: float, search: _Search) -> bool:
        """Leave out every choice that no better allocation can have; tell whether one can be left.

        With a price on load, the best that can be had is the sum of each task's best (value - price x load), plus price
        x capacity; a choice that brings this below what is known is in no better allocation.
        """
        worth = [[value - price * load for load, value, _ in ladder] for ladder in self.ladders]
        most = [max(each) for each in worth]
        spare = search.value + TOLERANCE - (sum(most) + price * self.capacity)
        self.ladders = [
            [choice for choice, each in zip(ladder, mine, strict=True) if each - best > spare]
            for ladder, mine, best in zip(self.ladders, worth, most, strict=True)
        ]
        return all(self.ladders)

    def _root(self) -> _Node:
        ends = tuple(map(len, self.ladders))
        hulls = (_hull(ladder, task, 0, len(ladder)) for task, ladder in enumerate(self.ladders))
        load, value = sum(ladder[0][0] for ladder in self.ladders), sum(ladder[0][1] for ladder in self.ladders)
        return _Node((0,) * len(ends), ends, load, value, sorted(chain.from_iterable(hulls)))

    def _part(self, node: _Node, task: int, start: int, end: int) -> _Node:
        """Return a node with other bounds for one task."""
        ladder = self.ladders[task]
        steps = [step for step in node.steps if step[3] != task]
        steps += _hull(ladder, task, start, end)
        steps.sort()
        (load, value, _), (before_load, before_value, _) = ladder[start], ladder[node.starts[task]]
        return _Node(
            (*node.starts[:task], start, *node.starts[task + 1 :]),
            (*node.ends[:task], end, *node.ends[task + 1 :]),
            node.load + load - before_load,
            node.value + value - before_value,
            steps,
        )

    def _relax(self, node: _Node, search: _Search) -> tuple[float, tuple[int, int] | None, float]:
        """Solve the linear relaxation; tell the search of the allocation that it rounds down to.

        Returns the bound; where to branch: the task that is split, and the first place of its upper part, None when
        the relaxation is an allocation, or nothing fits; and what a unit of load is worth there.
        """
        search.steps_left -= len(self.ladders)
        load, value = node.load, node.value
        if load > self.capacity:
            return -inf, None, 0.0
        places = list(node.starts)
        bound: float | None = None
        price = 0.0
        split: tuple[int, int] | None = None
        stuck: set[int] = set()
        for efficiency, more_load, more_value, task, place in node.steps:
            if task in stuck:
                continue
            if load + more_load <= self.capacity:
                load += more_load
                value += more_value
                places[task] = place
            else:
                if bound is None:
                    price = -efficiency
                    bound = value + (self.capacity - load) * price
                    split = (task, places[task] + 1)
                stuck.add(task)
        if value > search.value:
            search.take(value, tuple(ladder[place][2] for ladder, place in zip(self.ladders, places, strict=True)))
        return (value, None, 0.0) if bound is None else (bound, split, price)


def _hull(ladder: _Ladder, task: int, start: int, end: int) -> _Steps:
    """Return the steps along the upper hull of some choices: (-value per load, load, value, task, place)."""
    load, value, _ = ladder[start]
    steps: _Steps = []
    corners = [(load, value)]
    for place in range(start + 1, end):
        to_load, to_value, _ = ladder[place]
        while True:
            load, value = corners[-1]
            more_load, more_value = to_load - load, to_value - value
            efficiency = -more_value / more_load if more_load > 0 else -inf
            if not steps or steps[-1][0] < efficiency:
                break
            steps.pop()
            corners.pop()
        steps.append((efficiency, more_load, more_value, task, place))
        corners.append((to_load, to_value))
    return steps


def _useful(choices: Sequence[tuple[float, float, int, float]], low: float) -> list[tuple[float, float, int]]:
    """Return (load, value, place) of the choices that keep the limit and are not beaten, by load."""
    kept: list[tuple[float, float, int]] = []
    best = -inf
    for load, negative, place, most_total in choices:
        if most_total >= low and -negative > best:
            best = -negative
            kept.append((load, best, place))
    return kept
