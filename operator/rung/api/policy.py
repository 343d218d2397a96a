"""The policies a pool can name, each with its parameters and the values of its source as defaults.

To add one: its name in `PolicyName`, its parameters as a model, its block in `PolicySpec`. The rule that only the
block of the named policy may be set follows from the table `_BLOCKS`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from rung.api.base import Model, Number, PositiveShare, Rule, VersionNumber, given, rules
from rung.api.quantity import Duration, PositiveDuration


class PolicyName(StrEnum):
    """The policies that this operator can carry out."""

    STATIC = "Static"
    STEPWISE = "Stepwise"


class StaticChoice(StrEnum):
    """The rung every task stays on."""

    BEST = "Best"
    CHEAPEST = "Cheapest"
    VERSION = "Version"


class StepwiseMetric(StrEnum):
    """What a version costs, in the eyes of the Stepwise policy."""

    INVERSE_THROUGHPUT = "InverseThroughput"
    LATENCY = "Latency"
    FLOPS = "Flops"


class StaticParameters(Model):
    """Parameters of the policy Static: every task stays on one rung."""

    model_config = rules(
        Rule("self.choice != 'Version' || size(self.versions) > 0", "versions is needed when choice is Version"),
        Rule("self.choice == 'Version' || size(self.versions) == 0", "versions is only allowed when choice is Version"),
    )

    choice: StaticChoice = StaticChoice.BEST
    """Best: the most accurate version. Cheapest: the cheapest one on the frontier. Version: the one in versions."""
    versions: Annotated[dict[str, VersionNumber], Field(max_length=256)] = Field(default={})
    """Version by name of the task, with choice Version; a task that is not named here gets its best version."""

    @model_validator(mode="after")
    def _versions_fit_choice(self) -> Self:
        if self.choice is StaticChoice.VERSION and not self.versions:
            raise ValueError("versions is needed when choice is Version")
        if self.choice is not StaticChoice.VERSION and self.versions:
            raise ValueError("versions is only allowed when choice is Version")
        return self


class StepwiseParameters(Model):
    """Parameters of the policy Stepwise; the defaults are the values of the thesis it comes from."""

    model_config = rules(
        Rule("self.upBelow < self.downAbove", "upBelow must be below downAbove"),
        Rule("self.goal < self.downAbove", "goal must be below downAbove"),
        Rule("duration(self.judge) >= duration('1s')", "judge must be 1s or longer"),
        Rule("duration(self.judge) <= duration('2m')", "judge must not be longer than 2m"),
        Rule("duration(self.settle) <= duration(self.upAfter)", "settle must not be longer than upAfter"),
    )

    metric: StepwiseMetric = StepwiseMetric.INVERSE_THROUGHPUT
    """What a version costs: one divided by its maximal throughput, its latency, or its floating-point operations."""
    settle: PositiveDuration = Duration("15s")
    """Nothing happens this long after a change."""
    judge: PositiveDuration = Duration("10s")
    """How much of the newest CPU history is judged, from 1s to 2m. There is one sample a second."""
    up_after: PositiveDuration = Duration("30s")
    """Time since the last change before a step up, or a move to a better point for today's demand."""
    down_above: PositiveShare = 0.7
    """Step down when the mean utilisation is above this."""
    up_below: PositiveShare = 0.5
    """Step up when the highest utilisation is below this."""
    goal: PositiveShare = 0.65
    """Utilisation that a step up aims at."""
    min_reduction: Annotated[Number, Field(gt=0, lt=1)] = 0.4
    """A step down must lower the total metric by at least this share."""
    trust: Annotated[Number, Field(ge=1, le=100)] = 1.2
    """The profile is trusted up to observed CPU = predicted CPU times this."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.up_below >= self.down_above:
            raise ValueError("upBelow must be below downAbove")
        if self.goal >= self.down_above:
            raise ValueError("goal must be below downAbove")
        if self.judge.seconds < 1:
            raise ValueError("judge must be 1s or longer")
        if self.judge.seconds > 120:
            raise ValueError("judge must not be longer than 2m")
        if self.settle.seconds > self.up_after.seconds:
            raise ValueError("settle must not be longer than upAfter")
        return self


_BLOCKS = {PolicyName.STATIC: "static", PolicyName.STEPWISE: "stepwise"}


class PolicySpec(Model):
    """A policy by name, and its parameters in the block of the same name."""

    model_config = rules(
        *(
            Rule(f"self.name == '{name}' || !{given(f'self.{block}')}", f"{block} is only allowed when name is {name}")
            for name, block in _BLOCKS.items()
        )
    )

    name: PolicyName = PolicyName.STEPWISE
    """Stepwise: steps down when the CPU is busy, up when there is room. Static: every task stays on one rung."""
    static: StaticParameters | None = None
    """Parameters of the policy Static; only allowed with that name."""
    stepwise: StepwiseParameters | None = None
    """Parameters of the policy Stepwise; only allowed with that name."""

    @property
    def parameters(self) -> StaticParameters | StepwiseParameters:
        """The parameters of the named policy, defaults where its block is absent."""
        if self.name is PolicyName.STATIC:
            return self.static or StaticParameters()
        return self.stepwise or StepwiseParameters()

    @model_validator(mode="after")
    def _only_the_named_block(self) -> Self:
        for name, block in _BLOCKS.items():
            if name is not self.name and getattr(self, block) is not None:
                raise ValueError(f"{block} is only allowed when name is {name}")
        return self
