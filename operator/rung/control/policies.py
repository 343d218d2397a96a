"""From a pool's specification to the policy and the settings of the core."""

from __future__ import annotations

from math import ceil

from rung.api import PolicySpec, ServingPoolSpec, StaticParameters
from rung.api.pool import PoolMode
from rung.core.decide import FallbackBehavior, Settings
from rung.core.frontier import Metric
from rung.core.policies.base import Policy
from rung.core.policies.static import Static, StaticChoice
from rung.core.policies.stepwise import Stepwise, StepwiseParameters


def build_policy(spec: PolicySpec) -> Policy:
    """Return the policy that a pool names, with its parameters."""
    given = spec.parameters
    if isinstance(given, StaticParameters):
        return Static(StaticChoice(given.choice.value), dict(given.versions))
    judge_seconds = given.judge.seconds
    return Stepwise(
        StepwiseParameters(
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


def decide_settings(spec: ServingPoolSpec) -> Settings:
    """Return what every policy obeys in this pool."""
    return Settings(
        recommend=spec.mode is PoolMode.RECOMMEND,
        max_age_seconds=spec.metrics.max_age.seconds,
        fallback_after_seconds=spec.fallback.after.seconds,
        fallback=FallbackBehavior(spec.fallback.behavior.value),
        standby_below=spec.standby.below,
    )


def history_seconds(spec: PolicySpec) -> int:
    """Return how much of the signals' history the policy reads, with room for late scrapes and for the first rate."""
    given = spec.parameters
    judge_seconds = 0.0 if isinstance(given, StaticParameters) else given.judge.seconds
    return max(30, ceil(judge_seconds) + 20)
