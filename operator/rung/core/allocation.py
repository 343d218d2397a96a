"""The best allocation of one server within its limits: exact, by branch and bound.

Each task takes one of its choices. A choice has a value, a load, and the highest total load of the server under which
it keeps its promise; so the total load must not pass the lowest of these limits among what is chosen. For one given
limit R this is the multiple-choice knapsack of capacity R, with the choices whose own limit is R or above (Kellerer,
Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11); the optimum is that of the best R, and only the choices' own
limits have to be tried. Ranges of them are bounded together by the linear relaxation, so few are solved.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

TOLERANCE = 1e-9
"""Values closer than this are the same, and so are loads, relative to the limit."""
MOST_NODES = 20_000
"""Relaxations that are solved at most; after that, the best found is returned with its gap."""


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


_Slices = tuple[tuple[int, int], ...]


def best_allocation(tasks: Sequence[Sequence[Choice]], most_nodes: int = MOST_NODES) -> Allocation:
    """Return the allocation of the highest value that keeps every limit; of equal ones, one of lower load.

    Total: no task gives the empty allocation, a task without choices none at all.
    """
    if not tasks:
        return Allocation((), 0.0)
    limits = sorted({choice.most_total for choices in tasks for choice in choices if choice.most_total > -inf})
    if not limits:
        return Allocation(None, -inf)
    search = _Search(most_nodes)
    by_load = [
        sorted((choice.load, -choice.value, place, choice.most_total) for place, choice in enumerate(choices))
        for choices in tasks
    ]
    _climb(by_load, search)
    # Ranges of limits [low, high], the most promising first.
    pending: list[tuple[float, int, int]] = []

    def ask(low: int, high: int) -> None:
        knapsack = _Knapsack(by_load, limits[low], limits[high])
        bound = knapsack.bound(search)
        if bound > search.value + TOLERANCE:
            heapq.heappush(pending, (-bound, low, high))

    ask(0, len(limits) - 1)
    while pending:
        bound, low, high = heapq.heappop(pending)
        if -bound <= search.value + TOLERANCE:
            break
        if search.nodes_left <= 0:
            return Allocation(search.choices, search.value, max(0.0, -bound - search.value))
        if low == high:
            _Knapsack(by_load, limits[low], limits[high]).solve(search)
        else:
            middle = (low + high) // 2
            ask(low, middle)
            ask(middle + 1, high)
    return Allocation(search.choices, search.value, search.missed)


_ByLoad = Sequence[Sequence[tuple[float, float, int, float]]]
"""By task, its choices by load: load, -value, place, highest total load."""


def _climb(by_load: _ByLoad, search: _Search) -> None:
    """Tell the search of a good allocation: from the cheapest up, the best value for its load first.

    The better what is known at the beginning, the less has to be searched.
    """
    chosen = [choices[0] if choices else None for choices in by_load]
    if any(one is None or one[3] == -inf for one in chosen):
        return
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
        return
    better = True
    while better:
        better = False
        for _, task, place in steps:
            one, before = by_load[task][place], now[task]
            more = load + one[0] - before[0]
            if one[1] >= before[1] or more > one[3] or more > limit:
                continue
            now[task], load, better = one, more, True
            limit = min(each[3] for each in now)
    search.take(-sum(one[1] for one in now), tuple(one[2] for one in now))


class _Search:
    """The best allocation so far, and how much may still be spent."""

    def __init__(self, most_nodes: int) -> None:
        self.nodes_left = most_nodes
        self.value = -inf
        self.choices: tuple[int, ...] | None = None
        self.missed = 0.0

    def take(self, value: float, choices: tuple[int, ...]) -> None:
        if value > self.value:
            self.value, self.choices = value, choices


class _Knapsack:
    """The multiple-choice knapsack whose choices keep a limit of `low` and whose capacity is `high`."""

    def __init__(self, tasks: _ByLoad, low: float, high: float) -> None:
        self.exact = low == high
        self.capacity = high + TOLERANCE * abs(high) if high < inf else inf
        self.ladders = [_useful(choices, low) for choices in tasks]
        self._hulls: dict[tuple[int, int, int], list[tuple[float, float, float, int, int]]] = {}

    def bound(self, search: _Search) -> float:
        """Return no less than the best value; -inf where nothing fits."""
        if not all(self.ladders):
            return -inf
        return self._relax(self._all(), search)[0]

    def solve(self, search: _Search) -> None:
        """Tell the search of everything that is better than what it has."""
        bound, split, price = self._relax(self._all(), search)
        if split is None or bound <= search.value + TOLERANCE or not self._reduce(price, search):
            return
        stack = [self._all()]
        while stack:
            slices = stack.pop()
            bound, split, _ = self._relax(slices, search)
            if bound <= search.value + TOLERANCE or split is None:
                continue
            if search.nodes_left <= 0:
                search.missed = max(search.missed, bound - search.value)
                return
            task, place = split
            start, end = slices[task]
            # The upper part first: it is searched last, after the lower one made the best known better.
            stack.append((*slices[:task], (place, end), *slices[task + 1 :]))
            stack.append((*slices[:task], (start, place), *slices[task + 1 :]))

    def _all(self) -> _Slices:
        return tuple((0, len(ladder)) for ladder in self.ladders)

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
        self._hulls.clear()
        return all(self.ladders)

    def _relax(self, slices: _Slices, search: _Search) -> tuple[float, tuple[int, int] | None, float]:
        """Solve the linear relaxation; tell the search of the allocation that it rounds down to.

        Returns the bound; where to branch: the task that is split, and the first place of its upper part, None when
        the relaxation is an allocation, or nothing fits; and what a unit of load is worth there.
        """
        search.nodes_left -= 1
        places = [start for start, _ in slices]
        value = load = 0.0
        for ladder, place in zip(self.ladders, places, strict=True):
            value += ladder[place][1]
            load += ladder[place][0]
        if load > self.capacity:
            return -inf, None, 0.0
        steps: list[tuple[float, float, float, int, int]] = []
        for task, (start, end) in enumerate(slices):
            steps += self._hull(task, start, end)
        steps.sort()
        bound: float | None = None
        price = 0.0
        split: tuple[int, int] | None = None
        stuck: set[int] = set()
        for efficiency, more_load, more_value, task, place in steps:
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
        if self.exact:
            search.take(value, tuple(ladder[place][2] for ladder, place in zip(self.ladders, places, strict=True)))
        return (value, None, 0.0) if bound is None else (bound, split, price)

    def _hull(self, task: int, start: int, end: int) -> list[tuple[float, float, float, int, int]]:
        """Return the steps along the upper hull of some choices: (-value per load, load, value, task, place)."""
        key = (task, start, end)
        found = self._hulls.get(key)
        if found is None:
            ladder = self.ladders[task]
            corners = [start]
            for place in range(start + 1, end):
                while len(corners) > 1 and _slope(ladder, corners[-2], corners[-1]) <= _slope(
                    ladder, corners[-2], place
                ):
                    corners.pop()
                corners.append(place)
            found = [
                (
                    -_slope(ladder, before, place),
                    ladder[place][0] - ladder[before][0],
                    ladder[place][1] - ladder[before][1],
                    task,
                    place,
                )
                for before, place in pairwise(corners)
            ]
            self._hulls[key] = found
        return found


def _useful(choices: Sequence[tuple[float, float, int, float]], low: float) -> list[tuple[float, float, int]]:
    """Return (load, value, place) of the choices that keep the limit and are not beaten, by load."""
    kept: list[tuple[float, float, int]] = []
    best = -inf
    for load, negative, place, most_total in choices:
        if most_total >= low and -negative > best:
            best = -negative
            kept.append((load, best, place))
    return kept


def _slope(ladder: Sequence[tuple[float, float, int]], before: int, after: int) -> float:
    more_load = ladder[after][0] - ladder[before][0]
    more_value = ladder[after][1] - ladder[before][1]
    return more_value / more_load if more_load > 0 else inf
