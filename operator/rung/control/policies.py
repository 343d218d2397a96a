"""From a pool's specification to the policy and the settings of the core."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from rung.adapters.lstm import NoForecaster, open_forecaster
from rung.api import (
    ForecasterName,
    FrontierParameters,
    InfaasParameters,
    InfadapterParameters,
    PolicyName,
    PolicySpec,
    ProteusParameters,
    ServingPoolSpec,
    StaticParameters,
    StepwiseParameters,
)
from rung.api.pool import PoolMode, ReflexMode
from rung.core.decide import FallbackBehavior, Settings
from rung.core.forecast import ExponentialMean, Forecaster, LastMaximum
from rung.core.frontier import Metric
from rung.core.policies import frontier, frontier_parameters, infadapter, stepwise
from rung.core.policies.base import Policy
from rung.core.policies.infaas import InFaaS
from rung.core.policies.model_switching import ModelSwitching
from rung.core.policies.proteus import Proteus
from rung.core.policies.static import Static, StaticChoice

STANDBY, REFLEX_STANDBY = 1, 2
"""How many rungs below stay loaded where nobody says it: in simulation, the reflex needs two, and a third one brings
nothing (docs/experiments/reflex.md)."""


def build_policy(spec: PolicySpec) -> Policy:
    """Return the policy that a pool names, with its parameters."""
    build: dict[PolicyName, Callable[[], Policy]] = {
        PolicyName.FRONTIER: lambda: _frontier(spec.frontier or FrontierParameters()),
        PolicyName.STEPWISE: lambda: _stepwise(spec.stepwise or StepwiseParameters()),
        PolicyName.STATIC: lambda: _static(spec.static or StaticParameters()),
        PolicyName.MODEL_SWITCHING: ModelSwitching,
        PolicyName.INFAAS: lambda: InFaaS((spec.infaas or InfaasParameters()).quiet_votes),
        PolicyName.INFADAPTER: lambda: _infadapter(spec.infadapter or InfadapterParameters()),
        PolicyName.PROTEUS: lambda: Proteus((spec.proteus or ProteusParameters()).every.seconds),
    }
    return build[spec.name]()


def _static(given: StaticParameters) -> Static:
    return Static(StaticChoice(given.choice.value), dict(given.versions))


def _stepwise(given: StepwiseParameters) -> stepwise.Stepwise:
    judge_seconds = given.judge.seconds
    return stepwise.Stepwise(
        stepwise.StepwiseParameters(
            metric=Metric(given.metric.value),
            window_seconds=max(20.0, judge_seconds),
            settle_seconds=given.settle.seconds,
            judge_seconds=judge_seconds,
            up_after_seconds=given.up_after.seconds,
            down_above=given.down_above,
            up_below=given.up_below,
            goal=given.goal,
            min_reduction=given.min_reduction,
            trust=given.trust,
            # There is one sample a second: of a short time no five can be asked.
            min_samples=min(5, max(1, int(judge_seconds // 2))),
        )
    )


def _frontier(given: FrontierParameters) -> frontier.Frontier:
    return frontier.Frontier(
        frontier_parameters.FrontierParameters(
            late_share=given.late_share,
            remember_seconds=given.remember.seconds,
            up_after_seconds=given.up_after.seconds,
            calibrate=given.calibrate,
        )
    )


def _infadapter(given: InfadapterParameters) -> infadapter.InfAdapter:
    forecaster: Forecaster = ExponentialMean(span=10, margin=0.0)
    note = ""
    if given.forecaster is ForecasterName.LAST_MAXIMUM:
        forecaster = LastMaximum(infadapter.WINDOWS)
    elif given.forecaster is ForecasterName.LSTM:
        try:
            forecaster = open_forecaster(given.lstm or "")
        except NoForecaster as error:
            note = f"InfAdapter predicts with the exponential mean: {error}."
    return infadapter.InfAdapter(
        infadapter.InfAdapterParameters(
            alpha=given.alpha,
            beta=given.beta,
            decide_every_seconds=given.every.seconds,
            first_after_seconds=given.first_after.seconds,
            reserve=given.reserve,
            margin=given.margin,
            agreeing=given.agreeing,
            forecaster=forecaster,
            note=note,
        )
    )


def decide_settings(spec: ServingPoolSpec) -> Settings:
    """Return what every policy obeys in this pool."""
    return Settings(
        recommend=spec.mode is PoolMode.RECOMMEND,
        max_age_seconds=spec.metrics.max_age.seconds,
        fallback_after_seconds=spec.fallback.after.seconds,
        fallback=FallbackBehavior(spec.fallback.behavior.value),
        standby_below=_standby_below(spec),
    )


def _standby_below(spec: ServingPoolSpec) -> int:
    if spec.standby.below is not None:
        return spec.standby.below
    return REFLEX_STANDBY if spec.reflex is ReflexMode.ON else STANDBY


def history_seconds(policy: Policy) -> int:
    """Return how much of the signals' history to read, with room for late scrapes and for the first rate."""
    return max(30, ceil(policy.history_seconds) + 20)
