"""`ServingPool`: the servers that one policy looks after, and how it does."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field

from rung.api.base import (
    Column,
    Count,
    Integer,
    LabelKey,
    Labels,
    Model,
    Names,
    NotNegative,
    ObjectName,
    Resource,
    Text,
)
from rung.api.conditions import Conditions, Decision
from rung.api.policy import PolicySpec
from rung.api.quantity import Cpu, Duration, Memory, PositiveDuration

Url = Annotated[str, Field(max_length=2048, pattern=r"^https?://[^ /]+[^ ]*$")]


class PoolMode(StrEnum):
    """Whether plans are carried out."""

    AUTO = "Auto"
    RECOMMEND = "Recommend"


class CpuSource(StrEnum):
    """Where the CPU use of a server comes from."""

    AGENT = "Agent"
    CADVISOR = "CAdvisor"


class FallbackBehavior(StrEnum):
    """What to do when signals stay away."""

    HOLD = "Hold"
    CHEAPEST = "Cheapest"


class PoolServerPhase(StrEnum):
    """What one server of the pool is doing."""

    PENDING = "Pending"
    SERVING = "Serving"
    SWAPPING = "Swapping"
    DRAINED = "Drained"
    NOT_READY = "NotReady"


class MetricsSpec(Model):
    """Where the signals come from."""

    prometheus_url: Url
    """Address of the Prometheus that scrapes the pool's pods, for example http://prometheus.monitoring:9090."""
    cpu: CpuSource = CpuSource.AGENT
    """Agent: CPU use from the agent beside each Triton, every second. CAdvisor: from the kubelet, coarser."""
    max_age: PositiveDuration = Duration("5s")
    """Signals older than this count as missing."""


class FallbackSpec(Model):
    """What to do when the signals stay away."""

    after: PositiveDuration = Duration("60s")
    """Signals must be missing this long; until then the last allocation is held."""
    behavior: FallbackBehavior = FallbackBehavior.HOLD
    """Hold: keep the last allocation. Cheapest: let the cheapest version of each task answer."""


class StandbySpec(Model):
    """What is kept loaded beside the version that answers, so that stepping down is instant."""

    below: Annotated[Integer, Field(ge=0, le=16)] | None = None
    """How many rungs below the active version are kept loaded: 1 when absent, 2 where the reflex chooses among them."""
    memory_budget: Memory | None = None
    """Memory that all standbys of one server may take, for example 512Mi, by the peaks in their profiles; the nearest
    standby of each task goes first. No limit of their own when absent, nor for versions whose peak nobody measured."""


class DrainMode(StrEnum):
    """When a server is taken out of the balancing."""

    COLD = "Cold"
    NEVER = "Never"


class RolloutSpec(Model):
    """How swaps are carried out."""

    max_concurrent: Annotated[Integer, Field(ge=1, le=1000)] = 1
    """How many servers may load a version of one task at the same time."""
    load_deadline: PositiveDuration = Duration("30s")
    """A load that takes longer has failed: what answered before goes on answering."""
    drain: DrainMode = DrainMode.COLD
    """Cold: while a version is loaded, the chart's balancer (`balancer.enabled`) gives the server's requests to the
    others, if they have room for them; steps down don't wait for that. Never: it goes on answering."""


HostNames = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=253)], ...], Field(max_length=16)]


class GatewaySpec(Model):
    """The Gateway (gateway.networking.k8s.io) that leads clients to the servers, told by Rung."""

    name: ObjectName
    """Name of the Gateway."""
    namespace: ObjectName | None = None
    """Its namespace; the pool's own when absent."""
    section_name: ObjectName | None = None
    """One of its listeners; every listener when absent."""
    hostnames: HostNames = ()
    """Host names of the routes; any when empty."""
    grpc_section_name: ObjectName | None = None
    """The listener for gRPC, where HTTP has one of its own: a controller need not take both kinds of route for the same
    host names at one listener."""
    grpc_hostnames: HostNames = ()
    """Host names for gRPC; those of HTTP when empty."""


class ReflexMode(StrEnum):
    """Whether a single request may be answered by a loaded rung below the one that was decided."""

    OFF = "Off"
    ON = "On"


class ServingPoolSpec(Model):
    """Which servers belong to the pool, and how they are looked after."""

    server_selector: Annotated[Labels, Field(min_length=1, max_length=16)]
    """Labels of the Triton pods that belong to the pool, for example rung.dev/pool: edge. Of the pods with these
    labels, those count that carry rung.dev/pool or have a container named triton."""
    hardware_class_label: LabelKey = "rung.dev/hardware-class"
    """The label that names a server's hardware class; looked up on the pod, then on its node, else `default`."""
    policy: PolicySpec = PolicySpec()
    """How the version of each task is chosen."""
    interval: PositiveDuration = Duration("1s")
    """Time between two decisions."""
    mode: PoolMode = PoolMode.AUTO
    """Auto: plans are carried out. Recommend: they are only published, whatever the tasks say."""
    metrics: MetricsSpec
    """Where the signals come from."""
    fallback: FallbackSpec = FallbackSpec()
    """What to do when the signals stay away."""
    standby: StandbySpec = StandbySpec()
    """What is kept loaded beside the version that answers."""
    rollout: RolloutSpec = RolloutSpec()
    """How swaps are carried out."""
    gateway: GatewaySpec | None = None
    """A Gateway of the cluster's own that spreads the requests: Rung keeps a Service for each server, and an HTTPRoute
    and a GRPCRoute for each task with the weights of the plan. Absent where the chart's balancer does, or nothing."""
    reflex: ReflexMode = ReflexMode.OFF
    """On: a request that would be late is answered by a loaded rung below, which takes the gate in front of each Triton
    (`reflex.enabled` in the chart). Off: the version that was decided answers everything."""


class PoolServerStatus(Model):
    """One server of the pool, as it was last seen."""

    name: str
    """Name of the pod."""
    node: str | None = None
    """Name of the node it runs on."""
    hardware_class: str = "default"
    """Its hardware class."""
    capacity: Cpu | None = None
    """CPU it may use, in cores; absent while that is not known."""
    utilization: NotNegative | None = None
    """CPU used divided by CPU it may use; absent while there is no fresh signal."""
    expected_utilization: NotNegative | None = None
    """What the profiles predict for its allocation at today's demand."""
    phase: PoolServerPhase
    """Pending, Serving, Swapping, Drained or NotReady."""
    message: Text = ""
    """More about the phase, for people."""


class ServingPoolStatus(Model):
    """What Rung sees and does in this pool."""

    conditions: Conditions = ()
    """Ready, MetricsAvailable, Overloaded and CapacityKnown; and Balanced, where something spreads the requests."""
    servers: tuple[PoolServerStatus, ...] = ()
    """Each server of the pool."""
    ready_servers: Count = 0
    """How many servers are ready."""
    tasks: Count = 0
    """How many tasks the pool serves."""
    utilization: NotNegative | None = None
    """CPU used divided by CPU that may be used, of the busiest server."""
    expected_utilization: NotNegative | None = None
    """What the profiles predict for the allocation, of the busiest server."""
    policy_memory: Annotated[
        dict[str, Any] | None, Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
    ] = None
    """What the policy must remember between two decisions. Not for people."""
    last_decision: Decision | None = None
    """The last decision in this pool that changed something, and why."""
    observed_generation: Count | None = None
    """The generation of the spec that this status was made for."""


class ServingPool(Resource):
    """The Triton servers that one policy looks after."""

    NAMES: ClassVar = Names("ServingPool", "servingpools", "servingpool", "spool")
    COLUMNS: ClassVar = (
        Column("Policy", "string", ".spec.policy.name", "How versions are chosen"),
        Column("Mode", "string", ".spec.mode", "Whether plans are carried out"),
        Column("Servers", "integer", ".status.readyServers", "Servers that are ready"),
        Column("Tasks", "integer", ".status.tasks", "Tasks that are served"),
        Column("CPU", "number", ".status.utilization", "CPU used divided by CPU that may be used, busiest server"),
        Column("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", "Whether the pool is looked after"),
        Column("Reason", "string", ".status.lastDecision.code", "Why something last changed"),
        Column("Age", "date", ".metadata.creationTimestamp", "Age of the object"),
        Column("Expected", "number", ".status.expectedUtilization", "What the profiles predict", priority=1),
        Column("Why", "string", ".status.lastDecision.sentence", "The last decision as a sentence", priority=1),
    )

    spec: ServingPoolSpec
    """Which servers, and how they are looked after."""
    status: ServingPoolStatus = ServingPoolStatus()
    """What Rung sees and does."""
