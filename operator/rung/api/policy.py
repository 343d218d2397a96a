"""The policies a pool can name, each with its parameters and the values of its source as defaults.

To add one: its name in `PolicyName`, its parameters as a model, its block in `PolicySpec`. The rule that only the
block of the named policy may be set follows from the table `_BLOCKS`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from rung.api.base import Integer, Model, Number, PositiveShare, Rule, VersionNumber, given, rules
from rung.api.quantity import Duration, PositiveDuration


class PolicyName(StrEnum):
    """The policies that this operator can carry out."""

    FRONTIER = "Frontier"
    STEPWISE = "Stepwise"
    STATIC = "Static"
    MODEL_SWITCHING = "ModelSwitching"
    INFAAS = "InFaaS"
    INFADAPTER = "InfAdapter"
    PROTEUS = "Proteus"


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


class FrontierParameters(Model):
    """Parameters of the policy Frontier."""

    late_share: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Share of late answers to plan for; 1 - slo.objective of each task when absent."""
    remember: PositiveDuration = Duration("45s")
    """A step up needs room for the demand of this long before, from 5s to 2m."""
    up_after: PositiveDuration = Duration("5s")
    """Time since the last change before a step up."""
    calibrate: bool = True
    """Whether what inferences cost is corrected by the CPU that they were seen to use."""

    model_config = rules(
        Rule("duration(self.remember) >= duration('5s')", "remember must be 5s or longer"),
        Rule("duration(self.remember) <= duration('2m')", "remember must not be longer than 2m"),
    )

    @model_validator(mode="after")
    def _in_bounds(self) -> Self:
        if self.remember.seconds < 5:
            raise ValueError("remember must be 5s or longer")
        if self.remember.seconds > 120:
            raise ValueError("remember must not be longer than 2m")
        return self


class InfaasParameters(Model):
    """Parameters of the policy InFaaS."""

    quiet_votes: Annotated[Integer, Field(ge=1, le=10000)] = 10
    """Decisions in a row in which a cheaper version would do, before it is taken."""


class ForecasterName(StrEnum):
    """How the load of the next half minute is predicted from one-minute maxima."""

    EXPONENTIAL_MEAN = "ExponentialMean"
    LAST_MAXIMUM = "LastMaximum"
    LSTM = "Lstm"


class InfadapterParameters(Model):
    """Parameters of the policy InfAdapter; the defaults are the values of its paper."""

    model_config = rules(
        Rule(f"self.forecaster != 'Lstm' || {given('self.lstm')}", "lstm is needed when forecaster is Lstm"),
    )

    alpha: Annotated[Number, Field(ge=0, le=1)] = 0.05
    """Accuracy that the use of all hardware costs."""
    beta: Annotated[Number, Field(ge=0, le=1)] = 0.001
    """Accuracy that loading the slowest version costs."""
    every: PositiveDuration = Duration("30s")
    """Time between two decisions."""
    first_after: PositiveDuration = Duration("2m")
    """Time until the first one."""
    reserve: PositiveShare = 0.8
    """Share of what a version sustains that it is given."""
    margin: Annotated[Number, Field(ge=0, le=10)] = 0.1
    """The predicted load is raised by this share."""
    agreeing: Annotated[Integer, Field(ge=1, le=1000)] = 4
    """Decisions that have to agree before there is less capacity."""
    forecaster: ForecasterName = ForecasterName.EXPONENTIAL_MEAN
    """ExponentialMean: weighted, span 10. LastMaximum: the highest of ten minutes. Lstm: the network in lstm."""
    lstm: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """File of a network that `rung-port forecaster` trained, as the operator's pod sees it."""

    @model_validator(mode="after")
    def _lstm_has_a_file(self) -> Self:
        if self.forecaster is ForecasterName.LSTM and not self.lstm:
            raise ValueError("lstm is needed when forecaster is Lstm")
        return self


class ProteusParameters(Model):
    """Parameters of the policy Proteus."""

    every: PositiveDuration = Duration("10s")
    """Time between two plans."""


_BLOCKS = {
    PolicyName.FRONTIER: "frontier",
    PolicyName.STEPWISE: "stepwise",
    PolicyName.STATIC: "static",
    PolicyName.INFAAS: "infaas",
    PolicyName.INFADAPTER: "infadapter",
    PolicyName.PROTEUS: "proteus",
}
"""ModelSwitching has no parameters."""


class PolicySpec(Model):
    """A policy by name, and its parameters in the block of the same name."""

    model_config = rules(
        *(
            Rule(f"self.name == '{name}' || !{given(f'self.{block}')}", f"{block} is only allowed when name is {name}")
            for name, block in _BLOCKS.items()
        )
    )

    name: PolicyName = PolicyName.FRONTIER
    """Frontier: the most accuracy that keeps answers in time. Stepwise: steps down when the CPU is busy, up when there
    is room. Static: every task stays on one rung. The others are baselines from papers, see docs/policies.md."""
    frontier: FrontierParameters | None = None
    """Parameters of the policy Frontier; only allowed with that name."""
    stepwise: StepwiseParameters | None = None
    """Parameters of the policy Stepwise; only allowed with that name."""
    static: StaticParameters | None = None
    """Parameters of the policy Static; only allowed with that name."""
    infaas: InfaasParameters | None = None
    """Parameters of the policy InFaaS; only allowed with that name."""
    infadapter: InfadapterParameters | None = None
    """Parameters of the policy InfAdapter; only allowed with that name."""
    proteus: ProteusParameters | None = None
    """Parameters of the policy Proteus; only allowed with that name."""

    @model_validator(mode="after")
    def _only_the_named_block(self) -> Self:
        for name, block in _BLOCKS.items():
            if name is not self.name and getattr(self, block) is not None:
                raise ValueError(f"{block} is only allowed when name is {name}")
        return self
