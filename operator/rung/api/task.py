"""`InferenceTask`: one question that clients ask of a model, and what its owner expects of the answers."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from rung.api.base import (
    Column,
    Count,
    Labels,
    Model,
    Names,
    NotNegative,
    Number,
    Positive,
    Reference,
    Resource,
    Rule,
    Share,
    Text,
    VersionNumber,
    given,
    rules,
)
from rung.api.conditions import Conditions, Decision
from rung.api.quantity import PositiveDuration

_MODEL_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_MODEL_SENTENCE = "this object's name can't name a model (at most 63 of a-z, 0-9 and -): give spec.model"
ModelName = Annotated[str, Field(min_length=1, max_length=63, pattern=_MODEL_PATTERN)]
"""The name of a task in the model repository."""


class TaskMode(StrEnum):
    """Who decides about a task."""

    AUTO = "Auto"
    RECOMMEND = "Recommend"
    PINNED = "Pinned"


class DemandSource(StrEnum):
    """Where a task's demand comes from."""

    OBSERVED = "Observed"
    DECLARED = "Declared"


class ServerPhase(StrEnum):
    """What one server is doing for one task."""

    PENDING = "Pending"
    SERVING = "Serving"
    SWAPPING = "Swapping"
    NOT_READY = "NotReady"
    FAILED = "Failed"


class ServiceClass(StrEnum):
    """Whose requests go first when there is not room for all."""

    REAL_TIME = "RealTime"
    BEST_EFFORT = "BestEffort"


class ServiceLevel(Model):
    """How fast answers must come."""

    latency: PositiveDuration
    """An answer must arrive within this time, for example 400ms. What a version can carry was measured for a latency:
    the condition VersionsAvailable tells when a profile was measured for a longer one than this."""
    objective: Annotated[Number, Field(ge=0.5, lt=1)] = 0.999
    """Share of answers that must be in time; the policy Frontier plans for it."""


class Demand(Model):
    """How the demand of a task is known."""

    model_config = rules(
        Rule(
            f"self.source != 'Declared' || {given('self.rate')}",
            "rate is needed when source is Declared",
        ),
        Rule(
            f"self.source != 'Observed' || !{given('self.rate')}",
            "rate is only allowed when source is Declared",
        ),
    )

    source: DemandSource = DemandSource.OBSERVED
    """Observed: counted at the servers. Declared: the owner gives the rate."""
    rate: NotNegative | None = None
    """Declared demand in inferences per second over all servers; only with source Declared."""

    @model_validator(mode="after")
    def _rate_fits_source(self) -> Self:
        if self.source is DemandSource.DECLARED and self.rate is None:
            raise ValueError("rate is needed when source is Declared")
        if self.source is DemandSource.OBSERVED and self.rate is not None:
            raise ValueError("rate is only allowed when source is Declared")
        return self


class InferenceTaskSpec(Model):
    """What the owner of a task asks for."""

    model_config = rules(
        Rule(
            f"self.mode != 'Pinned' || {given('self.pinnedVersion')}",
            "pinnedVersion is needed when mode is Pinned",
        ),
        Rule(
            f"self.mode == 'Pinned' || !{given('self.pinnedVersion')}",
            "pinnedVersion is only allowed when mode is Pinned",
        ),
    )

    pool_ref: Reference
    """The ServingPool whose servers answer this task. It may be changed: the task then moves to the other pool."""
    model: ModelName | None = None
    """Name of the model in Triton, which is that of its folder in the model repository: at most 63 lower-case letters,
    digits and hyphens. The name of this object when absent. It can't be changed later."""
    server_selector: Annotated[Labels, Field(max_length=16)] = Field(default={})
    """Labels of the pool's pods that serve this task; every server of the pool when empty."""
    slo: ServiceLevel
    """The service level: how fast answers must come."""
    min_accuracy: Share | None = None
    """Never serve a version whose accuracy (0 to 1, absolute) is below this."""
    max_metric: Positive | None = None
    """Never serve a version whose metric is above this. The metric is that of the pool's policy; by default
    1 / maxThroughput, the seconds of a whole server that one inference takes."""
    weight: Annotated[Positive, Field(le=1000)] = 1.0
    """How much this task's accuracy counts against that of the others, above 0 and at most 1000. The policy Stepwise
    weighs tasks; Static doesn't."""
    mode: TaskMode = TaskMode.AUTO
    """Auto: Rung chooses the version. Recommend: it only says what it would choose. Pinned: pinnedVersion answers."""
    pinned_version: VersionNumber | None = None
    """The version that answers, in mode Pinned; only allowed there."""
    demand: Demand = Demand()
    """How the demand of this task is known."""
    service_class: ServiceClass = ServiceClass.REAL_TIME
    """RealTime: every request is answered. BestEffort: requests are refused, with RESOURCE_EXHAUSTED or 429, before
    those of other tasks are late; that takes spec.reflex: On of the pool."""

    @model_validator(mode="after")
    def _pin_fits_mode(self) -> Self:
        if self.mode is TaskMode.PINNED and self.pinned_version is None:
            raise ValueError("pinnedVersion is needed when mode is Pinned")
        if self.mode is not TaskMode.PINNED and self.pinned_version is not None:
            raise ValueError("pinnedVersion is only allowed when mode is Pinned")
        return self


class FrontierStatus(Model):
    """The versions that may serve the task and that no other version beats in both accuracy and throughput."""

    count: Count
    """How many versions are on the frontier."""
    best_version: VersionNumber | None = None
    """The most accurate version on it."""
    best_accuracy: Share | None = None
    """Accuracy of that version, 0 to 1."""
    cheapest_version: VersionNumber | None = None
    """The cheapest version on it."""
    cheapest_accuracy: Share | None = None
    """Accuracy of that version, 0 to 1."""
    throughput_ratio: NotNegative | None = None
    """Maximal throughput of the cheapest version divided by that of the best."""


class TaskServerStatus(Model):
    """What one server does for this task."""

    name: str
    """Name of the pod."""
    active: VersionNumber | None = None
    """The version that answers; absent when none does."""
    standby: tuple[VersionNumber, ...] = ()
    """Versions that are loaded beside it and do not answer."""
    phase: ServerPhase
    """Pending, Serving, Swapping, NotReady or Failed."""
    message: Text = ""
    """More about the phase, for people."""


class InferenceTaskStatus(Model):
    """What Rung sees and does for this task."""

    conditions: Conditions = ()
    """Ready, Transitioning, Degraded and VersionsAvailable."""
    active_version: VersionNumber | None = None
    """The version that answers; where servers differ, the least accurate one that answers."""
    target_version: VersionNumber | None = None
    """The version that shall answer; differs from activeVersion while servers swap."""
    recommended_version: VersionNumber | None = None
    """What Rung would choose, where the task or its pool is in mode Recommend."""
    accuracy: Share | None = None
    """Accuracy of the active version, 0 to 1; the mean where servers differ."""
    normalized_accuracy: Share | None = None
    """The accuracy divided by that of the task's best version."""
    demand: NotNegative | None = None
    """Demand now, in inferences per second over all servers."""
    frontier: FrontierStatus | None = None
    """How many versions there are to choose from, and how far they reach."""
    servers: tuple[TaskServerStatus, ...] = ()
    """Each server that serves this task."""
    last_decision: Decision | None = None
    """The last decision about this task, and why."""
    observed_generation: Count | None = None
    """The generation of the spec that this status was made for."""


_MODEL = "(has({0}.spec.model) && dyn({0}.spec.model) != null ? {0}.spec.model : {0}.metadata.name)"


class InferenceTask(Resource):
    """One question that clients ask of a model. Rung chooses which version of the model answers."""

    NAMES: ClassVar = Names("InferenceTask", "inferencetasks", "inferencetask", "itask")
    RULES: ClassVar = (
        Rule(
            f"{_MODEL.format('self')} == {_MODEL.format('oldSelf')}",
            "spec.model can't be changed: create another InferenceTask",
        ),
        Rule(f"{_MODEL.format('self')}.matches('{_MODEL_PATTERN}')", _MODEL_SENTENCE),
    )
    COLUMNS: ClassVar = (
        Column("Pool", "string", ".spec.poolRef.name", "The pool whose servers answer"),
        Column("Active", "integer", ".status.activeVersion", "The version that answers"),
        Column("Accuracy", "number", ".status.accuracy", "Accuracy of the active version"),
        Column("Norm", "number", ".status.normalizedAccuracy", "Accuracy divided by that of the best version"),
        Column("Demand", "number", ".status.demand", "Inferences per second asked for"),
        Column("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", "Whether a version answers"),
        Column("Reason", "string", ".status.lastDecision.code", "Why the last decision was taken"),
        Column("Age", "date", ".metadata.creationTimestamp", "Age of the object"),
        Column("Target", "integer", ".status.targetVersion", "The version that shall answer", priority=1),
        Column("Mode", "string", ".spec.mode", "Who decides", priority=1),
        Column("Why", "string", ".status.lastDecision.sentence", "The last decision as a sentence", priority=1),
    )

    spec: InferenceTaskSpec
    """What the owner asks for."""
    status: InferenceTaskStatus = InferenceTaskStatus()
    """What Rung sees and does."""

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if not re.fullmatch(_MODEL_PATTERN, self.model):
            raise ValueError(_MODEL_SENTENCE)
        return self

    @property
    def model(self) -> str:
        """Name of the model in Triton."""
        return self.spec.model or self.metadata.name
