"""The search: which trials it asks for, and that it asks for the same again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytestmark = pytest.mark.porting
pytest.importorskip("optuna", reason="needs the porting environment: make setup-porting")

from rung.api.porting import PortingPlan  # noqa: E402
from rung_porting.outcome import Made, Outcome, seconds_spent  # noqa: E402
from rung_porting.recipe import Knob, Recipe  # noqa: E402
from rung_porting.search.explorer import Explorer  # noqa: E402

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


def outcome(recipe: Recipe, values: tuple[int, ...] = ()) -> Outcome:
    """What a network would do whose accuracy falls with the square root of its size."""
    left = 1.0
    for turn in recipe.turns:
        left *= 1 - turn.sparsity
    flops = max(1, int(BASE_FLOPS * left**2 * (0.3 if recipe.network else 1)))
    accuracy = 0.95 - 0.02 * (BASE_FLOPS / flops) ** 0.5 / 10
    versions = [Made(recipe, False, Path("none"), accuracy, accuracy, 100, 0.001, 1000, flops, 1, None, 0.0)]
    for value in values:
        turned = recipe.model_copy(update={"knob": Knob(argument="frames", value=value)})
        made = replace(versions[0], recipe=turned, flops=max(1, flops * value // 16))
        versions.append(replace(made, validation_accuracy=accuracy - 0.05 / value))
    return Outcome(recipe, tuple(versions), spent={str(recipe): 10.0})


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


def test_a_knob_makes_no_trials_of_its_own_and_its_versions_are_part_of_the_frontier() -> None:
    explorer = Explorer(plan(methods={"prune": {"iterations": [1]}, "knob": {"argument": "frames", "values": [4, 1]}}))
    rounds = search(explorer, lambda recipe: outcome(recipe, (4, 1)))
    recipes = list(itertools.chain(*rounds))
    assert all(recipe.knob is None for recipe in recipes), "weights are made, and the knob is turned afterwards"
    widths = [1 - recipe.turns[0].sparsity for recipe in recipes if len(recipe.turns) == 1]
    assert max(widths) > 0.7, "a trial that aims at few operations may take few channels out of a turned knob's version"


def test_a_knob_that_could_not_be_turned_is_not_aimed_at() -> None:
    explorer = Explorer(plan(methods={"prune": {}, "knob": {"argument": "frames", "values": [4, 1]}}))
    search(explorer, outcome)
    assert explorer.why_over() == "10 of 10 trials are made"


def test_no_stage_is_counted_twice() -> None:
    first = Outcome(Recipe(), (), spent={"train": 30.0, "export": 2.0})
    second = Outcome(Recipe(network="resnet10"), (), spent={"train": 30.0, "prune": 5.0})
    assert seconds_spent([first, second]) == 37.0
    assert seconds_spent([]) == 0
