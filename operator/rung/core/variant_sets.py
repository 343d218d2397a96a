"""InfAdapter's problem, solved exactly: which versions to run, and how much of the hardware each gets.

Salmani et al., "Reconciling High Accuracy, Cost-Efficiency, and Low Latency of Inference Serving Systems", EuroMLSys
2023: maximise AA - alpha RC - beta LC, so that the predicted load is carried within a budget. AA is the accuracy by
request, where load goes to the most accurate version first; RC the units used by all units of the budget; LC the load
times of versions that are not loaded yet by the largest load time. The paper gives it to a commercial solver; here it
is a depth-first search over the versions, the most accurate first, bounded by what can still be reached: with its five
versions and twenty cores a millisecond or a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

TOLERANCE = 1e-9
IDLE_RPS = 1e-6
MOST_NODES = 200_000
"""Allocations that are looked at most; after that, the best found is returned with its gap."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One version.

    Args:
        accuracy: 0 to 1.
        capacity_rps: by units given to it; place 0 is no unit. A capacity of 0 is of no use, and not chosen.
        load_seconds: what making it ready takes.
        loaded: it is ready already, so that costs nothing.
    """

    accuracy: float
    capacity_rps: tuple[float, ...]
    load_seconds: float = 0.0
    loaded: bool = False


@dataclass(frozen=True, slots=True)
class VariantSet:
    """What was found. `units` by variant; `carried_rps` by variant, of the predicted load."""

    units: tuple[int, ...]
    carried_rps: tuple[float, ...]
    accuracy: float
    """By request."""
    value: float
    feasible: bool
    """False: nothing carries the load within the budget, and this carries the most."""
    gap: float = 0.0
    """By how much the optimum may be higher; 0 unless the search was cut off."""


def best_variant_set(
    variants: Sequence[Variant],
    load_rps: float,
    budget: int,
    *,
    alpha: float = 0.05,
    beta: float = 0.001,
    use_all: bool = False,
    most_nodes: int = MOST_NODES,
) -> VariantSet:
    """Return the best set.

    Args:
        variants: in any order; none gives the empty set.
        load_rps: what has to be carried; NaN and less than 0 are 0.
        budget: units there are.
        alpha: what using the whole budget costs, in accuracy.
        beta: what loading the slowest version costs, in accuracy.
        use_all: every unit has to be used (servers that are there anyway).
        most_nodes: see there.
    """
    # Servers that are there anyway are to be as accurate as they can, whether or not anybody asks now.
    least_rps = IDLE_RPS if use_all else 0.0
    load = load_rps if load_rps > least_rps else least_rps
    search = _Search(variants, load, max(0, budget), alpha, beta, use_all, most_nodes)
    search.explore(0, search.budget, search.load_rps, 0.0)
    if search.units is not None:
        return search.result(search.units, feasible=True)
    return search.result(search.most_capacity(), feasible=False)


class _Search:
    def __init__(
        self,
        variants: Sequence[Variant],
        load_rps: float,
        budget: int,
        alpha: float,
        beta: float,
        use_all: bool,
        most_nodes: int,
    ) -> None:
        self.variants, self.load_rps, self.budget, self.use_all = variants, load_rps, budget, use_all
        self.order = sorted(range(len(variants)), key=lambda each: (-variants[each].accuracy, each))
        self.unit_price = alpha / budget if budget > 0 else 0.0
        slowest = max((variant.load_seconds for variant in variants), default=0.0)
        self.load_prices = [
            0.0 if variant.loaded or slowest <= 0 else beta * variant.load_seconds / slowest for variant in variants
        ]
        # The most that the versions from a place in the order on can carry with one unit, to see early what can't do.
        self.best_per_unit = [0.0] * (len(variants) + 1)
        for place in range(len(self.order) - 1, -1, -1):
            capacity = variants[self.order[place]].capacity_rps
            here = max((capacity[units] / units for units in range(1, len(capacity))), default=0.0)
            self.best_per_unit[place] = max(self.best_per_unit[place + 1], here)
        self.nodes_left = most_nodes
        self.value = -inf
        self.units: tuple[int, ...] | None = None
        self.missed = 0.0
        self._taken = [0] * len(variants)

    def explore(self, place: int, units_left: int, load_left: float, value: float) -> None:
        """Try every number of units for the versions from a place in the order on."""
        self.nodes_left -= 1
        if load_left <= TOLERANCE * self.load_rps and (units_left == 0 or not self.use_all):
            self._take(value)
            if not self.use_all:
                return
        if place == len(self.order):
            return
        number = self.order[place]
        variant = self.variants[number]
        # No version from here on is more accurate, and each unit of load needs a part of a unit at least.
        least_units = units_left if self.use_all else load_left / max(self.best_per_unit[place], TOLERANCE)
        bound = value + self._worth(variant, load_left) - self.unit_price * least_units
        if bound <= self.value + TOLERANCE or self.best_per_unit[place] * units_left < load_left * (1 - TOLERANCE):
            return
        if self.nodes_left <= 0:
            self.missed = max(self.missed, bound - self.value)
            return
        for units in range(min(units_left, len(variant.capacity_rps) - 1), -1, -1):
            capacity = variant.capacity_rps[units]
            if units and capacity <= 0:
                continue
            carried = min(capacity, load_left)
            price = self.unit_price * units + (self.load_prices[number] if units else 0.0)
            self._taken[number] = units
            self.explore(
                place + 1, units_left - units, load_left - carried, value + self._worth(variant, carried) - price
            )
        self._taken[number] = 0

    def _worth(self, variant: Variant, carried_rps: float) -> float:
        return variant.accuracy * (carried_rps / self.load_rps if self.load_rps > 0 else 0.0)

    def _take(self, value: float) -> None:
        if value > self.value + TOLERANCE:
            self.value, self.units = value, tuple(self._taken)

    def most_capacity(self) -> tuple[int, ...]:
        """Return the units that carry the most: a knapsack over the versions, by dynamic programming."""
        best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())] * (self.budget + 1)
        for variant in self.variants:
            best = [
                max(
                    (best[all_units - units][0] + capacity, (*best[all_units - units][1], units))
                    for units, capacity in enumerate(variant.capacity_rps[: all_units + 1])
                )
                for all_units in range(self.budget + 1)
            ]
        return best[self.budget][1] if self.variants else ()

    def result(self, units: tuple[int, ...], *, feasible: bool) -> VariantSet:
        """Return a set with what each of its versions carries."""
        left = self.load_rps
        carried = [0.0] * len(self.variants)
        for number in self.order:
            carried[number] = min(left, self.variants[number].capacity_rps[units[number]] if units else 0.0)
            left -= carried[number]
        total = sum(carried)
        accuracy = (
            sum(v.accuracy * c for v, c in zip(self.variants, carried, strict=True)) / total if total > 0 else 0.0
        )
        return VariantSet(units, tuple(carried), accuracy, self.value, feasible, self.missed)
