"""The search: rounds of trials, each aimed at a gap of the frontier, with settings that Optuna's TPE learns to choose.

Deterministic: the same plan and the same outcomes give the same next round, so a run that was killed asks for the same
trials again and finds those it finished in the store. Costs are floating-point operations for that reason: measured
times would differ from run to run. What is worth serving is decided later, by throughput measured on the target.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rung.api.porting import PortingPlan, PruneSpec
from rung_porting.outcome import Outcome, seconds_spent
from rung_porting.recipe import Recipe, Turn, knobs
from rung_porting.search.gaps import Point, accuracy_at, frontier, next_costs

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, slots=True)
class _Known:
    """A float version that was made."""

    recipe: Recipe
    cost: float
    accuracy: float


FROM_BASE, FROM_NEIGHBOUR = "base", "neighbour"
_MOST_EPOCHS_FACTOR = 8
_CLEARLY = 1.3
"""What shall lose channels must cost so many times what is aimed at."""
_STARTUP_ROUNDS = 3
"""Before TPE chooses by what it learned, it tries settings at random."""


class Explorer:
    """Chooses the trials of one plan, round by round.

    Args:
        plan: what shall be ported.
    """

    def __init__(self, plan: PortingPlan) -> None:
        self.plan = plan
        self.outcomes: list[Outcome] = []
        self._tried: set[Recipe] = set()
        self._study: Any = None
        self._asked: list[tuple[Any, Recipe, float]] = []
        """Optuna's trials of this round, and the accuracy that the frontier had at their cost."""
        self._spent = 0

    def next_round(self) -> tuple[Recipe, ...]:
        """Return the recipes to make next; empty when the search is over. Every outcome of the last round must be told.

        The first round is the unpruned network alone, because everything else depends on it.
        """
        if not self.outcomes:
            return (Recipe(),)
        if len(self.outcomes) == 1 and self.plan.methods.family is not None:
            return tuple(Recipe(network=name) for name in self.plan.methods.family.members)
        prune = self.plan.methods.prune
        if prune is None or self.why_over() is not None:
            return ()
        count = min(self.plan.budget.parallel, self.plan.budget.trials - self._spent)
        costs = next_costs(self._points(), self._least_cost(), count)
        recipes = [recipe for cost in costs if (recipe := self._ask(cost, prune)) is not None]
        if recipes:
            return tuple(recipes)
        self.tell(())  # all of them were made before: they are spent
        return self.next_round()

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of the round, in its order."""
        from optuna.trial import TrialState

        by_recipe = {outcome.recipe: outcome for outcome in outcomes}
        for trial, recipe, expected in self._asked:
            outcome = by_recipe.get(recipe)
            if outcome is None or not outcome.versions:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, outcome.versions[0].validation_accuracy - expected)
        self._spent += len(self._asked)
        self._asked = []
        self.outcomes += outcomes

    def why_over(self) -> str | None:
        """Return why no more trials follow, or None while there are more."""
        budget, targets = self.plan.budget, self.plan.targets
        if self.plan.methods.prune is None:
            return "no pruning is asked for"
        along = frontier(self._points())
        if (
            targets.versions is not None
            and len(along) >= targets.versions
            and along[0].cost <= 1.25 * self._least_cost()
        ):
            return f"the targets are met: {len(along)} versions, {along[-1].cost / along[0].cost:.0f}x in operations"
        if self._spent >= budget.trials:
            return f"{self._spent} of {budget.trials} trials are made"
        seconds = seconds_spent(self.outcomes)
        if budget.time is not None and seconds >= budget.time.seconds:
            return f"{seconds:.0f} s were spent, the budget is {budget.time}"
        return None

    # ------------------------------------------------------------------------------------------------------ proposing

    def _ask(self, cost: float, prune: PruneSpec) -> Recipe | None:
        """Return a recipe for about this cost, or None when no sparsity reaches it."""
        trial = self._open_study().ask()
        expected = accuracy_at(self._points(), cost)
        start = trial.suggest_categorical("start", [FROM_BASE, FROM_NEIGHBOUR])
        parent = self._neighbour_above(cost) if start == FROM_NEIGHBOUR else self._base_above(trial, cost)
        turns = trial.suggest_categorical("iterations", list(prune.iterations)) if start == FROM_BASE else 1
        epochs = trial.suggest_categorical("epochs", list(prune.epochs))
        scales = prune.learning_rate_scale
        scale = trial.suggest_float("learning_rate_scale", scales.min, scales.max, log=True)
        criterion = trial.suggest_categorical("criterion", [each.value for each in prune.criteria])
        allocation = trial.suggest_categorical("allocation", [each.value for each in prune.allocations])
        distill = self.plan.methods.distill is not None and trial.suggest_categorical("distill", [False, True])
        sparsity = min(prune.max_sparsity, 1.0 - math.sqrt(cost / parent.cost))
        each = round(1.0 - (1.0 - sparsity) ** (1.0 / turns), 4)
        recipe = parent.recipe.trained
        ratio = self._made(Recipe()).cost / self._made(recipe).cost * parent.cost / cost
        for _ in range(turns):
            turn = Turn(
                sparsity=max(each, 0.01),
                criterion=criterion,
                allocation=allocation,
                epochs=self._epochs(epochs, ratio),
                learning_rate_scale=float(f"{scale:.3g}"),
                distill=distill,
            )
            recipe = recipe.model_copy(update={"turns": (*recipe.turns, turn)})
        self._asked.append((trial, recipe, expected))
        if recipe in self._tried:
            return None
        self._tried.add(recipe)
        return recipe

    def _epochs(self, chosen: int, ratio: float) -> int:
        """Return more epochs the smaller a network is (1/ratio of the unpruned): it needs more, and each costs less."""
        return max(chosen, min(_MOST_EPOCHS_FACTOR * chosen, round(chosen * math.sqrt(ratio) / 2)))

    def _open_study(self) -> optuna.Study:
        import optuna

        if self._study is None:
            optuna.logging.set_verbosity(optuna.logging.ERROR)
            logging.getLogger("optuna").setLevel(logging.ERROR)
            # Multivariate TPE still counts as experimental there. (No catch_warnings: several searches have threads.)
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=self.plan.seed,
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=_STARTUP_ROUNDS * self.plan.budget.parallel,
            )
            self._study = optuna.create_study(direction="maximize", sampler=sampler)
        return self._study

    # -------------------------------------------------------------------------------------------------- what is known

    def _points(self) -> list[Point]:
        return [Point(each.cost, each.accuracy) for each in self._known()]

    def _known(self) -> list[_Known]:
        floats = [version for outcome in self.outcomes for version in outcome.versions if not version.int8]
        return [_Known(version.recipe, float(version.flops), version.validation_accuracy) for version in floats]

    def _made(self, recipe: Recipe) -> _Known:
        return next(each for each in self._known() if each.recipe == recipe)

    def _base_above(self, trial: Any, cost: float) -> _Known:
        """Return the unpruned network with the knob where it, pruned, shall have this cost.

        Other costs come with it: every network becomes a version at each value of the knob.
        """
        turned = {str(place): knob for place, knob in enumerate((None, *knobs(self.plan)))}
        chosen = turned[trial.suggest_categorical("knob", list(turned))] if len(turned) > 1 else None
        found = {each.recipe: each for each in self._known()}.get(Recipe(knob=chosen))
        return found if found is not None and found.cost > _CLEARLY * cost else self._made(Recipe())

    def _neighbour_above(self, cost: float) -> _Known:
        """Return the cheapest version of the frontier that costs clearly more and is the plan's own network, pruned."""
        along = {(point.cost, point.accuracy) for point in frontier(self._points())}
        above = [
            each
            for each in self._known()
            if (each.cost, each.accuracy) in along and each.cost > _CLEARLY * cost and each.recipe.network is None
        ]
        return min(above, key=lambda each: each.cost, default=self._made(Recipe()))

    def _least_cost(self) -> float:
        return self._made(Recipe()).cost / self.plan.targets.flops_span
