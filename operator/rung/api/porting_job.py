"""`PortingJob`: a porting plan that the cluster carries out."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import AwareDatetime, Field, model_validator

from rung.api.base import (
    Column,
    Count,
    HardwareClass,
    Integer,
    Model,
    Names,
    Reference,
    Resource,
    Rule,
    Share,
    Text,
    Token,
    keyed_list,
    one_for_each_class,
)
from rung.api.conditions import Conditions
from rung.api.porting import PortingPlan
from rung.api.quantity import Cpu, Duration, PositiveDuration


class ProfileTarget(Model):
    """One hardware class that every version is measured on."""

    hardware_class: HardwareClass
    """Value of the nodes' label rung.dev/hardware-class."""
    cpu: Cpu = Cpu("1")
    """CPU limit of the server that is measured, for example 1 or 500m: that of the servers that will serve."""
    slo_latency: PositiveDuration
    """The latency that answers have to keep."""


class ClusterSpec(Model):
    """How the cluster carries out the plan."""

    code: Reference | None = None
    """A ConfigMap of Python modules, one file a key: the classes that model.import and data.import name."""
    retries: Annotated[Integer, Field(ge=0, le=100)] = 2
    """How often each trial, and each other step, is tried again after it failed."""
    deadline: PositiveDuration = Duration("24h")
    """The whole has to end within this time."""
    profiles: Annotated[tuple[ProfileTarget, ...], keyed_list("hardwareClass", 16)] = ()
    """What the versions are profiled on; without any, they are published and registered without a profile."""

    @model_validator(mode="after")
    def _one_target_for_each_class(self) -> Self:
        one_for_each_class(target.hardware_class for target in self.profiles)
        return self


class PortingJobSpec(PortingPlan):
    """A plan as `rung-port run` takes it, and how the cluster carries it out. It can't be changed later."""

    cluster: ClusterSpec = ClusterSpec()
    """How the cluster carries it out."""


class PortingPhase(StrEnum):
    """How far a porting job is."""

    PENDING = "Pending"
    SEARCHING = "Searching"
    PUBLISHING = "Publishing"
    PROFILING = "Profiling"
    REGISTERING = "Registering"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class TrialCounts(Model):
    """How many trials there were, the unpruned network not counted."""

    planned: Count = 0
    """As many as the budget allows."""
    made: Count = 0
    """Those that ended with a version or with a reason why there is none."""
    failed: Count = 0
    """Those of which nothing came: a check failed, or their pods did."""


class PortedVersion(Model):
    """One version that was made."""

    version: Count | None = None
    """Its number, once it is published."""
    accuracy: Share
    """Its accuracy on the test split."""
    flops: Count
    """Floating-point operations of one inference."""
    method: Token
    """How it was made."""


class StepPhase(StrEnum):
    """How far one step is."""

    WAITING = "Waiting"
    RUNNING = "Running"
    DONE = "Done"
    FAILED = "Failed"


class ClassProgress(Model):
    """How far profiling is on one hardware class."""

    hardware_class: HardwareClass
    """The hardware class."""
    phase: StepPhase
    """Waiting, Running, Done or Failed."""
    message: Text = ""
    """What went wrong, or disturbed it."""


class PortingJobStatus(Model):
    """How far the job is, and what came of it so far."""

    conditions: Conditions = ()
    """Complete and Failed."""
    phase: PortingPhase = PortingPhase.PENDING
    """Pending, Searching, Publishing, Profiling, Registering, Succeeded or Failed."""
    message: Text = ""
    """What is being done, what came of it, or what went wrong."""
    trials: TrialCounts = TrialCounts()
    """How many trials were made."""
    versions: Count = 0
    """How many versions are on the frontier so far; once published, how many were."""
    frontier: Annotated[tuple[PortedVersion, ...], Field(max_length=64)] = ()
    """The versions that no other one beats in both accuracy and operations, the most accurate first."""
    profiles: Annotated[tuple[ClassProgress, ...], keyed_list("hardwareClass", 16)] = ()
    """How far profiling is on each hardware class."""
    start_time: AwareDatetime | None = None
    """When it began."""
    completion_time: AwareDatetime | None = None
    """When it ended, well or not."""
    observed_generation: Count | None = None
    """The generation of the spec that this status was made for."""


class PortingJob(Resource):
    """A porting plan that the cluster carries out: search, publish, profile on each hardware class, register."""

    NAMES: ClassVar = Names("PortingJob", "portingjobs", "portingjob", "pjob")
    COLUMNS: ClassVar = (
        Column("Task", "string", ".spec.task", "The task that gets the versions"),
        Column("Phase", "string", ".status.phase", "How far it is"),
        Column("Trials", "integer", ".status.trials.made", "Trials that were made"),
        Column("Versions", "integer", ".status.versions", "Versions on the frontier so far"),
        Column("Age", "date", ".metadata.creationTimestamp", "Age of the object"),
        Column("Message", "string", ".status.message", "What is being done, or what went wrong", priority=1),
    )
    RULES: ClassVar = (
        Rule("self.spec == oldSelf.spec", "the spec of a PortingJob can't be changed: delete it and make another one"),
    )

    spec: PortingJobSpec
    """The plan, and how the cluster carries it out."""
    status: PortingJobStatus = PortingJobStatus()
    """How far it is."""
