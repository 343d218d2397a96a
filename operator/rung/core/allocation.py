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


@dataclass(frozen=True, slots=True)
class Choice:
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
    """A part of the allocations: from where to where each task's ladder is open, and the hulls of these parts."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    hulls: tuple[_Steps, ...]


def best_allocation(tasks: Sequence[Sequence[Choice]], most_steps: int = MOST_STEPS) -> Allocation:
    """Return an allocation of the highest value that keeps every limit.

    Total: no task gives the empty allocation, a task without choices none at all.
    """
    if not tasks:
        return Allocation((), 0.0)
    limits = sorted({choice.most_total for choices in tasks for choice in choices if choice.most_total > -inf})
    if not limits:
        return Allocation(None, -inf)
    search = _Search(most_steps)
    by_load = [
        sorted((choice.load, -choice.value, place, choice.most_total) for place, choice in enumerate(choices))
        for choices in tasks
    ]
    known = _climb(by_load, search)
    price = _Knapsack(by_load, limits[len(limits) // 2] if known is None else known).price(search)
    for bound, limit in _bounds(by_load, price):
        if bound <= search.value + TOLERANCE:
            break
        if search.steps_left <= 0:
            return Allocation(search.choices, search.value, max(search.missed, bound - search.value))
        _Knapsack(by_load, limit).solve(search)
    return Allocation(search.choices, search.value, search.missed)


_ByLoad = Sequence[Sequence[tuple[float, float, int, float]]]
"""By task, its choices by load: load, -value, place, highest total load."""


def _bounds(by_load: _ByLoad, price: float) -> list[tuple[float, float]]:
    """Return, the highest first, what no allocation under each limit can pass, and the limit.

    With a price on load, that is the sum of each task's best (value - price x load) among the choices that keep the
    limit, plus price x limit: true for any price, and close for a good one (Lagrange's relaxation).
    """
    changes = sorted(
        (-most_total, task, -negative - price * load)
        for task, choices in enumerate(by_load)
        for load, negative, _, most_total in choices
        if most_total > -inf
    )
    best = [-inf] * len(by_load)
    missing, total = len(by_load), 0.0
    bounds: dict[float, float] = {}
    for negative_limit, task, worth in changes:
        if worth > best[task]:
            missing -= best[task] == -inf
            total += worth - (best[task] if best[task] > -inf else 0.0)
            best[task] = worth
        if not missing:
            # A sum that grew step by step is off by its last digits.
            bounds[-negative_limit] = total + TOLERANCE + (price * -negative_limit if price > 0 else 0.0)
    return sorted(((bound, limit) for limit, bound in bounds.items()), reverse=True)


def _climb(by_load: _ByLoad, search: _Search) -> float | None:
    """Tell the search of a good allocation: from the cheapest up, the best value for its load first.

    The better what is known at the beginning, the less has to be searched. Returns the limit that it keeps; None where
    the cheapest allocation keeps none.
    """
    chosen = [choices[0] if choices else None for choices in by_load]
    if any(one is None or one[3] == -inf for one in chosen):
        return None
    now = [one for one in chosen if one is not None]
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

    def solve(self, search: _Search) -> None:
        """Tell the search of everything that is better than what it has."""
        if not all(self.ladders):
            return
        highest, split, price = self._relax(self._root(), search)
        if split is None or highest <= search.value + TOLERANCE or not self._reduce(price, search):
            return
        stack = [self._root()]
        while stack:
            node = stack.pop()
            bound, split, _ = self._relax(node, search)
            if bound <= search.value + TOLERANCE or split is None:
                continue
            if search.steps_left <= 0:
                search.missed = max(search.missed, highest - search.value)
                return
            task, place = split
            # The upper part first: it is searched last, after the lower one made the best known better.
            stack.append(self._part(node, task, place, node.ends[task]))
            stack.append(self._part(node, task, node.starts[task], place))

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
        hulls = tuple(_hull(ladder, task, 0, len(ladder)) for task, ladder in enumerate(self.ladders))
        return _Node((0,) * len(ends), ends, hulls)

    def _part(self, node: _Node, task: int, start: int, end: int) -> _Node:
        """Return a node with other bounds for one task."""
        return _Node(
            (*node.starts[:task], start, *node.starts[task + 1 :]),
            (*node.ends[:task], end, *node.ends[task + 1 :]),
            (*node.hulls[:task], _hull(self.ladders[task], task, start, end), *node.hulls[task + 1 :]),
        )

    def _relax(self, node: _Node, search: _Search) -> tuple[float, tuple[int, int] | None, float]:
        """Solve the linear relaxation; tell the search of the allocation that it rounds down to.

        Returns the bound; where to branch: the task that is split, and the first place of its upper part, None when
        the relaxation is an allocation, or nothing fits; and what a unit of load is worth there.
        """
        search.steps_left -= len(self.ladders)
        places = list(node.starts)
        value = load = 0.0
        for ladder, place in zip(self.ladders, places, strict=True):
            value += ladder[place][1]
            load += ladder[place][0]
        if load > self.capacity:
            return -inf, None, 0.0
        bound: float | None = None
        price = 0.0
        split: tuple[int, int] | None = None
        stuck: set[int] = set()
        for efficiency, more_load, more_value, task, place in sorted(chain.from_iterable(node.hulls)):
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
        search.take(value, tuple(ladder[place][2] for ladder, place in zip(self.ladders, places, strict=True)))
        return (value, None, 0.0) if bound is None else (bound, split, price)


def _hull(ladder: _Ladder, task: int, start: int, end: int) -> _Steps:
    """Return the steps along the upper hull of some choices: (-value per load, load, value, task, place)."""
    corners = [start]
    for place in range(start + 1, end):
        while len(corners) > 1 and _slope(ladder, corners[-2], corners[-1]) <= _slope(ladder, corners[-2], place):
            corners.pop()
        corners.append(place)
    return [
        (
            -_slope(ladder, before, place),
            ladder[place][0] - ladder[before][0],
            ladder[place][1] - ladder[before][1],
            task,
            place,
        )
        for before, place in pairwise(corners)
    ]


def _useful(choices: Sequence[tuple[float, float, int, float]], low: float) -> list[tuple[float, float, int]]:
    """Return (load, value, place) of the choices that keep the limit and are not beaten, by load."""
    kept: list[tuple[float, float, int]] = []
    best = -inf
    for load, negative, place, most_total in choices:
        if most_total >= low and -negative > best:
            best = -negative
            kept.append((load, best, place))
    return kept


def _slope(ladder: _Ladder, before: int, after: int) -> float:
    more_load = ladder[after][0] - ladder[before][0]
    more_value = ladder[after][1] - ladder[before][1]
    return more_value / more_load if more_load > 0 else inf
