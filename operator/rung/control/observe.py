"""From what was seen to what policies read: builds the snapshot of a pool. Pure but for `read_signals`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from rung.adapters.prometheus import MetricsUnavailable, PoolSignals, Prometheus
from rung.api import InferenceTask, ModelVersion, ServingPool
from rung.api.task import DemandSource
from rung.control.servers import Observation, ServerWorker
from rung.control.view import ClusterView, ServerPod, matches
from rung.core.signals import age_seconds, demand_samples, utilization_samples
from rung.core.snapshot import Mode, PoolSnapshot, Profile, ServerState, TaskState, Version


@dataclass(frozen=True, slots=True)
class Signals:
    """Raw samples by pod, or why there are none."""

    raw: PoolSignals = field(default_factory=PoolSignals)
    problem: str = ""


NO_SIGNALS = Signals(problem="no server to ask for")


async def read_signals(prometheus: Prometheus, namespace: str, pods: Collection[str]) -> Signals:
    """Read every signal of the pool, one query each. A failure is part of the answer."""
    try:
        return Signals(await prometheus.read(namespace, pods))
    except MetricsUnavailable as error:
        return Signals(problem=str(error))


def core_version(version: ModelVersion) -> Version:
    """Reduce a ModelVersion to what policies read."""
    profiles = {
        profile.hardware_class: Profile(
            max_throughput_rps=profile.max_throughput,
            latency_p95_seconds=profile.latency.p95.seconds if profile.latency else None,
            cpu_seconds_per_inference=profile.cpu_seconds_per_inference,
            memory_bytes=profile.memory_bytes,
            load_seconds=profile.load_time.seconds if profile.load_time else None,
        )
        for profile in version.spec.profiles
    }
    lineage = version.spec.lineage
    return Version(version.spec.version, version.spec.accuracy.value, profiles, flops=lineage.flops)


def core_task(task: InferenceTask, versions: Iterable[ModelVersion], pods: Iterable[ServerPod]) -> TaskState:
    """Reduce an InferenceTask and its versions to what policies read."""
    spec = task.spec
    servers = frozenset(pod.name for pod in pods if matches(spec.server_selector, pod.labels))
    return TaskState(
        name=task.name,
        versions=tuple(core_version(version) for version in versions),
        slo_latency_seconds=spec.slo.latency.seconds,
        min_accuracy=spec.min_accuracy,
        max_metric=spec.max_metric,
        weight=spec.weight,
        mode=Mode(spec.mode.value),
        pinned_version=spec.pinned_version,
        servers=servers if spec.server_selector else None,
        declared_demand_rps=spec.demand.rate if spec.demand.source is DemandSource.DECLARED else None,
    )


def build_snapshot(
    now_seconds: float,
    view: ClusterView,
    pool: ServingPool,
    workers: Mapping[str, ServerWorker],
    signals: Signals,
) -> PoolSnapshot:
    """Put together what is known of a pool now. `workers` are its servers, by pod name."""
    tasks = view.tasks_of(pool)
    pods = [worker.pod for worker in workers.values()]
    servers = tuple(
        _server(worker, now_seconds=now_seconds, view=view, pool=pool, tasks=tasks, signals=signals)
        for worker in workers.values()
    )
    return PoolSnapshot(
        time_seconds=now_seconds,
        servers=servers,
        tasks=tuple(core_task(task, view.versions_of(task), pods) for task in tasks),
    )


def _server(
    worker: ServerWorker,
    *,
    now_seconds: float,
    view: ClusterView,
    pool: ServingPool,
    tasks: Iterable[InferenceTask],
    signals: Signals,
) -> ServerState:
    pod, seen = worker.pod, worker.observation
    capacity_cores = view.capacity_cores(pod) or 0.0
    demand = demand_samples(
        signals.raw.success.get(pod.name, ()),
        signals.raw.failure.get(pod.name, ()),
        signals.raw.pending.get(pod.name, ()),
    )
    loaded = {task.name: seen.loaded[task.model] for task in tasks if seen.loaded.get(task.model)}
    return ServerState(
        name=pod.name,
        hardware_class=view.hardware_class(pod, pool.spec.hardware_class_label),
        capacity_cores=capacity_cores,
        ready=pod.ready and not pod.terminating and seen.reachable,
        utilization=utilization_samples(signals.raw.cpu_seconds.get(pod.name, ()), capacity_cores),
        demand={task.name: demand[task.model] for task in tasks if task.model in demand},
        active={task: max(versions) for task, versions in loaded.items()},
        loaded=loaded,
        available=_available(tasks, seen),
        broken={task.name: worker.broken.waiting(task.model, now_seconds) for task in tasks},
    )


def _available(tasks: Iterable[InferenceTask], seen: Observation) -> dict[str, frozenset[int]] | None:
    if seen.inventory is None:
        return None
    return {task.name: seen.files(task.model) for task in tasks}


def signal_ages(snapshot: PoolSnapshot) -> dict[str, float]:
    """Return the age of the newest sample of each signal, the oldest server counting."""
    ages: dict[str, float] = {}
    for server in snapshot.servers:
        cpu = age_seconds(server.utilization, snapshot.time_seconds)
        if cpu is not None:
            ages["cpu"] = max(ages.get("cpu", 0.0), cpu)
        for samples in server.demand.values():
            demand = age_seconds(samples, snapshot.time_seconds)
            if demand is not None:
                ages["demand"] = max(ages.get("demand", 0.0), demand)
    return ages
