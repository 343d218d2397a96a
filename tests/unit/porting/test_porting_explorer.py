"""The search: which trials it asks for, and that it asks for the same again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.porting
pytest.importorskip("optuna", reason="needs the porting environment: make setup-porting")

from rung.api.porting import PortingPlan  # noqa: E402
from rung_porting.recipe import Recipe  # noqa: E402
from rung_porting.search.explorer import Explorer  # noqa: E402
from rung_porting.stages import Made, Outcome  # noqa: E402

BASE_FLOPS = 1_000_000


def plan(**changes: object) -> PortingPlan:
    return PortingPlan.model_validate(
        {
            "task": "digits",
            "model": {"builtin": "residual"},
            "data": {"builtin": "digits"},
            "input": [1, 8, 8],
            "budget": {"trials": 10, "parallel": 2},
            "targets": {"flopsSpan": 100},
            **changes,
        }
    )


def outcome(recipe: Recipe) -> Outcome:
    """What a network would do whose accuracy falls with the square root of its size."""
    left = 1.0
    for turn in recipe.turns:
        left *= 1 - turn.sparsity
    flops = max(1, int(BASE_FLOPS * left**2 * (0.3 if recipe.network else 1)))
    accuracy = 0.95 - 0.02 * (BASE_FLOPS / flops) ** 0.5 / 10
    made = Made(recipe, False, Path("none"), accuracy, accuracy, 100, 0.001, 1000, flops, 1, None, 0.0, 1.0)
    return Outcome(recipe, (made,), seconds=10.0)


def search(explorer: Explorer, make: Callable[[Recipe], Outcome] = outcome) -> list[tuple[Recipe, ...]]:
    rounds = []
    while recipes := explorer.next_round():
        rounds.append(recipes)
        explorer.tell([make(recipe) for recipe in recipes])
        assert len(rounds) < 50
    return rounds


def test_the_unpruned_network_is_first_and_trials_come_in_rounds() -> None:
    explorer = Explorer(plan())
    rounds = search(explorer)
    assert rounds[0] == (Recipe(),)
    assert all(1 <= len(recipes) <= 2 for recipes in rounds[1:])
    assert sum(len(recipes) for recipes in rounds[1:]) <= 10
    assert explorer.why_over() == "10 of 10 trials are made"
    recipes = list(itertools.chain(*rounds))
    assert len(set(recipes)) == len(recipes), "nothing is made twice"


def test_the_same_outcomes_give_the_same_search() -> None:
    assert search(Explorer(plan())) == search(Explorer(plan()))
    assert search(Explorer(plan())) != search(Explorer(plan(seed=2)))


def test_the_trials_fill_the_frontier_down_to_the_target() -> None:
    explorer = Explorer(plan())
    search(explorer)
    costs = sorted(version.flops for each in explorer.outcomes for version in each.versions)
    assert costs[0] < BASE_FLOPS / 50
    assert max(dear / cheap for cheap, dear in itertools.pairwise(costs)) < 8, "no wide gap is left"


def test_failed_trials_are_spent_and_do_not_stop_the_search() -> None:
    explorer = Explorer(plan())
    rounds = search(
        explorer, lambda recipe: outcome(recipe) if recipe.is_base else Outcome(recipe, (), "the loss became nan")
    )
    assert len(rounds) >= 2
    assert explorer.why_over() == "10 of 10 trials are made"


def test_it_ends_early_when_time_is_spent_or_targets_are_met() -> None:
    explorer = Explorer(plan(budget={"trials": 100, "time": "55s"}))
    assert len(list(itertools.chain(*search(explorer)))) == 7, "ten seconds each, and a round is never cut"
    assert "the budget is 55s" in str(explorer.why_over())
    explorer = Explorer(plan(budget={"trials": 100}, targets={"flopsSpan": 100, "versions": 5}))
    search(explorer)
    assert str(explorer.why_over()).startswith("the targets are met: ")


def test_the_family_comes_before_pruning_and_can_be_all() -> None:
    members = {"family": {"members": ["resnet10", "resnet18"]}}
    explorer = Explorer(plan(methods=members))
    assert search(explorer) == [(Recipe(),), (Recipe(network="resnet10"), Recipe(network="resnet18"))]
    assert explorer.why_over() == "no pruning is asked for"
    rounds = search(Explorer(plan(methods={**members, "prune": {}})))
    assert len(rounds) > 2
    assert all(recipe.network is None for recipes in rounds[2:] for recipe in recipes)
