"""What the operator knows of the cluster: parsed objects, kept current by kopf's indices, read by the pool loops.

Objects are parsed once, when they change, not once a pass. Pods and nodes shrink to the few facts that matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from rung.adapters.pods import SERVING
from rung.api import Cpu, InferenceTask, Memory, ModelVersion, PortingJob, ServingPool

POOL_LABEL = "rung.dev/pool"
TRITON_CONTAINER = "triton"
DEFAULT_GRPC_PORT = 8001
DEFAULT_HTTP_PORT = 8000
DEFAULT_AGENT_PORT = 8090
DEFAULT_HARDWARE_CLASS = "default"

Namespaced = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class ServerPod:
    """One Triton pod. A container that started again has a new `incarnation`."""

    namespace: str
    name: str
    uid: str
    node: str | None
    ip: str | None
    labels: Mapping[str, str]
    ready: bool
    terminating: bool
    restarts: int = 0
    cpu_limit_cores: float | None = None
    memory_limit_bytes: int | None = None
    grpc_port: int = DEFAULT_GRPC_PORT
    agent_port: int = DEFAULT_AGENT_PORT
    client_grpc_port: int = DEFAULT_GRPC_PORT
    """Where clients are to ask: at the gate, if there is one."""
    client_http_port: int = DEFAULT_HTTP_PORT
    gated: bool = False
    """Whether its readiness waits for Rung's word, `rung.dev/serving`."""
    serving: bool | None = None
    """What that word is at present; None: it was never said."""
    pod_ready: bool = False
    """Whether the pod as a whole is ready, so that Services lead to it."""

    @property
    def triton_address(self) -> str | None:
        """host:port of the gRPC API; None while the pod has no address."""
        return f"{_bracketed(self.ip)}:{self.grpc_port}" if self.ip else None

    @property
    def agent_address(self) -> str | None:
        """host:port of the agent's HTTP API; None while the pod has no address."""
        return f"{_bracketed(self.ip)}:{self.agent_port}" if self.ip else None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a server inherits from the node it runs on."""

    name: str
    uid: str
    labels: Mapping[str, str]
    allocatable_cores: float | None


def _bracketed(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


def _cores(text: object) -> float | None:
    try:
        return Cpu(str(text)).cores
    except ValueError:
        return None


def _bytes(text: object) -> int | None:
    try:
        return Memory(str(text)).bytes
    except ValueError:
        return None


def _port(containers: Iterable[Mapping[str, Any]], name: str, default: int) -> int:
    for container in containers:
        for port in container.get("ports") or ():
            if port.get("name") == name:
                return int(port["containerPort"])
    return default


def may_serve(raw: Mapping[str, Any]) -> bool:
    """Whether a pod may be a server of some pool: it has the chart's label, or a container named triton.

    Of the other pods, which may be many, nothing is kept.
    """
    labels = (raw.get("metadata") or {}).get("labels") or {}
    containers = (raw.get("spec") or {}).get("containers") or []
    return POOL_LABEL in labels or any(container.get("name") == TRITON_CONTAINER for container in containers)


def read_pod(raw: Mapping[str, Any]) -> ServerPod:
    """Reduce a pod to what concerns a server. Fields that are missing give a server that is not ready."""
    metadata, spec, status = raw.get("metadata") or {}, raw.get("spec") or {}, raw.get("status") or {}
    containers = spec.get("containers") or []
    triton = next((c for c in containers if c.get("name") == TRITON_CONTAINER), containers[0] if containers else {})
    limits = (triton.get("resources") or {}).get("limits") or {}
    started = [s for s in status.get("containerStatuses") or [] if s.get("name") == triton.get("name")]
    # The pod is ready as a whole, or only its agent is not: a server whose agent restarts goes on serving.
    conditions = {c.get("type"): c.get("status") == "True" for c in status.get("conditions") or []}
    grpc_port = _port(containers, "grpc", DEFAULT_GRPC_PORT)
    http_port = _port(containers, "http", DEFAULT_HTTP_PORT)
    return ServerPod(
        namespace=metadata.get("namespace", ""),
        name=metadata.get("name", ""),
        uid=metadata.get("uid", ""),
        node=spec.get("nodeName"),
        ip=status.get("podIP"),
        labels=dict(metadata.get("labels") or {}),
        ready=bool(conditions.get("Ready")) or any(s.get("ready") for s in started),
        terminating=metadata.get("deletionTimestamp") is not None,
        restarts=sum(int(s.get("restartCount") or 0) for s in started),
        cpu_limit_cores=_cores(limits.get("cpu")),
        memory_limit_bytes=_bytes(limits.get("memory")),
        grpc_port=grpc_port,
        agent_port=_port(containers, "agent", DEFAULT_AGENT_PORT),
        client_grpc_port=_port(containers, "gate-grpc", grpc_port),
        client_http_port=_port(containers, "gate-http", http_port),
        gated=any(gate.get("conditionType") == SERVING for gate in spec.get("readinessGates") or ()),
        serving=conditions.get(SERVING),
        pod_ready=bool(conditions.get("Ready")),
    )


def read_node(raw: Mapping[str, Any]) -> NodeFacts:
    """Reduce a node to its labels and its allocatable CPU."""
    metadata, status = raw.get("metadata") or {}, raw.get("status") or {}
    return NodeFacts(
        name=metadata.get("name", ""),
        uid=metadata.get("uid", ""),
        labels=dict(metadata.get("labels") or {}),
        allocatable_cores=_cores((status.get("allocatable") or {}).get("cpu")),
    )


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every label of the selector is there with its value; an empty selector matches everything."""
    return all(labels.get(key) == value for key, value in selector.items())


class _HasUid(Protocol):
    @property
    def uid(self) -> str | None: ...


_Seen = TypeVar("_Seen", bound=_HasUid)


@dataclass(frozen=True)
class ClusterView:
    """The objects by the keys under which the loops look for them. Values are collections, as in a kopf index."""

    pools: Mapping[Namespaced, Iterable[ServingPool]] = field(default_factory=dict)
    """By namespace and name."""
    tasks: Mapping[Namespaced, Iterable[InferenceTask]] = field(default_factory=dict)
    """By namespace and name of the pool."""
    versions: Mapping[Namespaced, Iterable[ModelVersion]] = field(default_factory=dict)
    """By namespace and name of the task."""
    pods: Mapping[str, Iterable[ServerPod]] = field(default_factory=dict)
    """By namespace."""
    nodes: Mapping[str, Iterable[NodeFacts]] = field(default_factory=dict)
    """By name."""
    porting_jobs: Mapping[Namespaced, Iterable[PortingJob]] = field(default_factory=dict)
    """By namespace and name."""
    gone: set[str | None] = field(default_factory=set)
    """Uids of objects that ended while nobody could tell the index: they are not seen any more."""

    def uids(self) -> dict[tuple[str, str], frozenset[str]]:
        """Return the uids of what is indexed, by kind (in the plural) and namespace (empty for nodes)."""
        found: dict[tuple[str, str], set[str]] = {}
        named = {"servingpools": self.pools, "inferencetasks": self.tasks, "modelversions": self.versions}
        named |= {"portingjobs": self.porting_jobs}
        for kind, index in named.items():
            for (namespace, _), objects in index.items():
                found.setdefault((kind, namespace), set()).update(each.uid for each in objects if each.uid)
        for namespace, pods in self.pods.items():
            found[("pods", namespace)] = {pod.uid for pod in pods if pod.uid}
        found[("nodes", "")] = {node.uid for nodes in self.nodes.values() for node in nodes if node.uid}
        return {place: frozenset(uids) for place, uids in found.items() if uids}

    def _seen(self, objects: Iterable[_Seen]) -> Iterable[_Seen]:
        return (each for each in objects if each.uid not in self.gone) if self.gone else objects

    def pool(self, key: Namespaced) -> ServingPool | None:
        """Return a pool, None when there is none of that name that can be read."""
        return next(iter(self._seen(self.pools.get(key, ()))), None)

    def all_porting_jobs(self) -> tuple[PortingJob, ...]:
        """Return the porting jobs of every namespace, by namespace and name."""
        found = [job for jobs in self.porting_jobs.values() for job in self._seen(jobs)]
        return tuple(sorted(found, key=lambda job: (job.namespace, job.name)))

    def tasks_of(self, pool: ServingPool) -> tuple[InferenceTask, ...]:
        """Return the tasks of a pool, by name."""
        found = self._seen(self.tasks.get((pool.namespace, pool.name), ()))
        return tuple(sorted(found, key=lambda task: task.name))

    def orphans(self) -> Iterator[InferenceTask]:
        """Yield the tasks whose pool is not there, or can't be read."""
        for pool, tasks in self.tasks.items():
            if self.pool(pool) is None:
                yield from self._seen(tasks)

    def versions_of(self, task: InferenceTask) -> tuple[ModelVersion, ...]:
        """Return the registered versions of a task, by number."""
        found = self._seen(self.versions.get((task.namespace, task.name), ()))
        return tuple(sorted(found, key=lambda version: version.spec.version))

    def servers_of(self, pool: ServingPool) -> Iterator[ServerPod]:
        """Yield the pods of a pool's servers, by name."""
        for pod in sorted(self._seen(self.pods.get(pool.namespace, ())), key=lambda pod: pod.name):
            if matches(pool.spec.server_selector, pod.labels):
                yield pod

    def _node(self, pod: ServerPod) -> NodeFacts | None:
        return next(iter(self._seen(self.nodes.get(pod.node or "", ()))), None)

    def hardware_class(self, pod: ServerPod, label: str) -> str:
        """Return a server's hardware class: the label on the pod, else on its node, else `default`."""
        node = self._node(pod)
        return pod.labels.get(label) or (node.labels.get(label) if node else None) or DEFAULT_HARDWARE_CLASS

    def capacity_cores(self, pod: ServerPod) -> float | None:
        """Return the CPU a server may use: its container's limit, else what its node can give."""
        if pod.cpu_limit_cores:
            return pod.cpu_limit_cores
        node = self._node(pod)
        return node.allocatable_cores if node else None
