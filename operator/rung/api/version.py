"""`ModelVersion`: one trained, exported and profiled network for a task."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from rung.api.base import (
    Column,
    Count,
    HardwareClass,
    Model,
    Names,
    NotNegative,
    ObjectName,
    Positive,
    PositiveCount,
    Reference,
    Resource,
    Rule,
    Share,
    Text,
    Token,
    VersionNumber,
    keyed_list,
    one_for_each_class,
    rules,
)
from rung.api.conditions import Conditions
from rung.api.quantity import Cpu, PositiveDuration


def _names_one_object(uri: str) -> str:
    if "/../" in uri or uri.endswith("/"):
        raise ValueError("must name one object, without '..'")
    return uri


class Artifact(Model):
    """Where the network is, and how to know that it is the right one."""

    uri: Annotated[
        str,
        Field(max_length=2048, pattern=r"^s3://[a-z0-9][-a-z0-9.]*[a-z0-9]/[^ ]+$"),
        AfterValidator(_names_one_object),
        Rule("!self.contains('/../') && !self.endsWith('/')", "must name one object, without '..'"),
    ]
    """Address of the ONNX file: s3://BUCKET/PREFIX/TASK/VERSION/model.onnx."""
    sha256: Annotated[
        str,
        Field(pattern=r"^[0-9a-f]{64}$", max_length=64),
        Rule("self == oldSelf", "artifact.sha256 can't be changed: publish another version"),
    ]
    """SHA-256 of the file, 64 lower-case hexadecimal digits. It can't be changed later."""
    bytes: PositiveCount
    """Size of the file in bytes."""


class Accuracy(Model):
    """How good the version's answers are, and how that is known."""

    metric: Token = "accuracy"
    """What was measured, for example accuracy or top5."""
    value: Share
    """The measured value, 0 to 1; higher is better."""
    samples: PositiveCount | None = None
    """How many samples it was measured on."""
    dataset: Annotated[str, Field(max_length=253)] | None = None
    """The data it was measured on."""


class LatencyPercentiles(Model):
    """Latency of answers under load that stays within the service level."""

    model_config = rules(
        Rule(
            "duration(self.p50) <= duration(self.p95) && duration(self.p95) <= duration(self.p99)",
            "p50, p95 and p99 must not fall",
        )
    )

    p50: PositiveDuration
    """Half of the answers came within this time."""
    p95: PositiveDuration
    """95 of 100 answers came within this time."""
    p99: PositiveDuration
    """99 of 100 answers came within this time."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.p50.seconds <= self.p95.seconds <= self.p99.seconds:
            raise ValueError("p50, p95 and p99 must not fall")
        return self


class Profile(Model):
    """What the version was measured to do on one hardware class."""

    hardware_class: HardwareClass
    """The hardware class: servers of one class share a profile."""
    cpu: Cpu | None = None
    """CPU limit of the server that was measured, for example 1 or 500m; it is part of what the profile holds for."""
    slo_latency: PositiveDuration
    """The latency that answers had to keep while the throughput was measured."""
    max_throughput: Positive
    """Highest rate, in inferences per second, at which answers came within sloLatency."""
    latency: LatencyPercentiles | None = None
    """Latency of the answers at 60 % of maxThroughput."""
    cpu_seconds_per_inference: Positive | None = None
    """CPU-seconds that one inference costs."""
    memory_bytes: PositiveCount | None = None
    """Peak memory of the loaded version, in bytes."""
    standby_memory_bytes: PositiveCount | None = None
    """Memory of the version while it is loaded and answers nothing, in bytes."""
    load_time: PositiveDuration | None = None
    """Time from the order to load until the version answers."""
    load_cpu_seconds: NotNegative | None = None
    """CPU-seconds that loading it cost the server."""
    batch_size: PositiveCount = 1
    """Largest batch while this was measured."""
    instances: PositiveCount = 1
    """Instances of the model while this was measured."""
    co_location_factor: Positive | None = None
    """How many times dearer, in CPU-seconds, inferences were beside another task than alone; 1 is no difference."""
    profiled_at: AwareDatetime | None = None
    """When this was measured."""
    tool: Annotated[str, Field(max_length=253)] | None = None
    """The program that measured, with its version."""


class Lineage(Model):
    """How the version came to be."""

    parent: ObjectName | None = None
    """The ModelVersion it was made from; absent for the first one."""
    method: Token = "base"
    """How it was made: base, l1, taylor, fpgm, int8, distilled, ..."""
    sparsity: Share | None = None
    """Share of the parent's weights that was removed, 0 to 1."""
    epochs: NotNegative | None = None
    """Epochs of training or fine-tuning."""
    parameters: PositiveCount | None = None
    """Number of parameters."""
    flops: PositiveCount | None = None
    """Floating-point operations of one inference."""


class ModelVersionSpec(Model):
    """One version, as it was published."""

    task_ref: Annotated[Reference, Rule("self == oldSelf", "taskRef can't be changed: publish another version")]
    """The InferenceTask it answers. It can't be changed later."""
    version: Annotated[VersionNumber, Rule("self == oldSelf", "version can't be changed: publish another version")]
    """Number of the version in Triton: generation x 1,000,000 + accuracy in parts per 100,000. Numbers given by
    hand work too; they should rise with the accuracy. It can't be changed later."""
    artifact: Artifact
    """Where the network is."""
    accuracy: Accuracy
    """How good its answers are."""
    profiles: Annotated[tuple[Profile, ...], keyed_list("hardwareClass", 64)] = ()
    """What it was measured to do, one element for each hardware class."""
    lineage: Lineage = Lineage()
    """How it came to be."""

    @model_validator(mode="after")
    def _one_profile_for_each_class(self) -> Self:
        one_for_each_class(profile.hardware_class for profile in self.profiles)
        return self


class BrokenServer(Model):
    """A server on which the version failed to load."""

    server: str
    """Name of the pod."""
    message: Text = ""
    """What went wrong."""
    failures: Count = 1
    """How often it failed there in a row."""
    retry_after: AwareDatetime | None = None
    """When it is tried again."""


class ModelVersionStatus(Model):
    """What Rung knows of this version."""

    conditions: Conditions = ()
    """Valid, OnFrontier and Available."""
    on_frontier_for: tuple[str, ...] = ()
    """Hardware classes on which no other version is both more accurate and faster."""
    dominated_by: str | None = None
    """A ModelVersion that is at least as accurate and as fast; absent when this one is on the frontier."""
    broken_on: tuple[BrokenServer, ...] = ()
    """Servers on which it failed to load."""
    observed_generation: Count | None = None
    """The generation of the spec that this status was made for."""


class ModelVersion(Resource):
    """One trained, exported and profiled network for a task."""

    NAMES: ClassVar = Names("ModelVersion", "modelversions", "modelversion", "mver")
    COLUMNS: ClassVar = (
        Column("Task", "string", ".spec.taskRef.name", "The task it answers"),
        Column("Version", "integer", ".spec.version", "Its number in Triton"),
        Column("Accuracy", "number", ".spec.accuracy.value", "Its accuracy"),
        Column("Throughput", "number", ".spec.profiles[0].maxThroughput", "Inferences per second, first profile"),
        Column("Method", "string", ".spec.lineage.method", "How it was made"),
        Column(
            "Frontier", "string", ".status.conditions[?(@.type=='OnFrontier')].status", "Whether it is worth serving"
        ),
        Column("Age", "date", ".metadata.creationTimestamp", "Age of the object"),
        Column(
            "Available", "string", ".status.conditions[?(@.type=='Available')].status", "On its servers", priority=1
        ),
        Column("Dominated-By", "string", ".status.dominatedBy", "The version that beats it", priority=1),
    )

    spec: ModelVersionSpec
    """The version, as it was published."""
    status: ModelVersionStatus = ModelVersionStatus()
    """What Rung knows of it."""
