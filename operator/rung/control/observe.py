"""From what was seen to what policies read: builds the snapshot of a pool. Pure but for `read_signals`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from rung.adapters.prometheus import MetricsUnavailable, PoolSignals, Prometheus
from rung.api import InferenceTask, ModelVersion, ServiceClass, ServingPool
from rung.api.task import DemandSource
from rung.control.history import History
from rung.control.observation import Observation
from rung.control.servers import ServerWorker
from rung.control.view import ClusterView, matches
from rung.core.classes import with_assumed_profiles
from rung.core.signals import LONGEST_GAP_SECONDS, RawSeries, age_seconds
from rung.core.snapshot import Mode, PoolSnapshot, Profile, ServerState, TaskState, Version


@dataclass(frozen=True, slots=True)
class Signals:
    """Raw samples by pod, or why there are none."""

    raw: PoolSignals = field(default_factory=PoolSignals)
    problem: str = ""


_T = TypeVar("_T")

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
            cpu_cores=profile.cpu.cores if profile.cpu else None,
            co_location_factor=profile.co_location_factor,
        )
        for profile in version.spec.profiles
    }
    lineage = version.spec.lineage
    return Version(version.spec.version, version.spec.accuracy.value, profiles, flops=lineage.flops)


def registered_sha256(versions: Iterable[ModelVersion]) -> dict[int, str]:
    """Return what the file of each version has to be, by its number."""
    return {version.spec.version: version.spec.artifact.sha256 for version in versions}


@dataclass(frozen=True, slots=True)
class _Made:
    registered: tuple[ModelVersion, ...]
    classes: Mapping[str, float]
    versions: tuple[Version, ...]
    sha256: Mapping[int, str]


class CoreVersions:
    """Versions as policies read them, made again only where a task's ModelVersions changed."""

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}

    def of(
        self, task: str, versions: tuple[ModelVersion, ...], classes: Mapping[str, float] | None = None
    ) -> tuple[Version, ...]:
        """Return the versions of a task, with profiles for these hardware classes (the cores of a server of each)."""
        made, classes = self._made.get(task), classes or {}
        # The same objects as before are equal at a glance.
        if made is None or made.registered != versions or made.classes != classes:
            measured = with_assumed_profiles(tuple(core_version(version) for version in versions), classes)
            made = self._made[task] = _Made(versions, classes, measured, registered_sha256(versions))
        return made.versions

    def sha256(self, task: str) -> Mapping[int, str]:
        """Return what the file of each version has to be, of a task that was asked for before."""
        return self._made[task].sha256

    def keep(self, tasks: Collection[str]) -> None:
        """Forget the other tasks."""
        for name in self._made.keys() - set(tasks):
            del self._made[name]


def hardware_classes(view: ClusterView, pool: ServingPool, workers: Mapping[str, ServerWorker]) -> dict[str, float]:
    """Return the hardware classes of a pool's servers, with the cores of the smallest server of each."""
    found: dict[str, float] = {}
    for worker in workers.values():
        name = view.hardware_class(worker.pod, pool.spec.hardware_class_label)
        cores = view.capacity_cores(worker.pod) or 0.0
        found[name] = min(cores, found.get(name, cores))
    return found


def core_task(task: InferenceTask, versions: tuple[Version, ...], servers: frozenset[str]) -> TaskState:
    """Reduce an InferenceTask to what policies read. `servers` are those that its selector finds."""
    spec = task.spec
    return TaskState(
        name=task.name,
        versions=versions,
        slo_latency_seconds=spec.slo.latency.seconds,
        objective=spec.slo.objective,
        min_accuracy=spec.min_accuracy,
        max_metric=spec.max_metric,
        weight=spec.weight,
        mode=Mode(spec.mode.value),
        pinned_version=spec.pinned_version,
        servers=servers if spec.server_selector else None,
        declared_demand_rps=spec.demand.rate if spec.demand.source is DemandSource.DECLARED else None,
        best_effort=spec.service_class is ServiceClass.BEST_EFFORT,
    )


def build_snapshot(
    now_seconds: float,
    view: ClusterView,
    pool: ServingPool,
    workers: Mapping[str, ServerWorker],
    signals: Signals,
    tasks: Sequence[InferenceTask],
    versions: Mapping[str, tuple[Version, ...]],
    sha256: Mapping[str, Mapping[int, str]],
    history: History | None = None,
) -> PoolSnapshot:
    """Put together what is known of a pool now.

    `workers` are its servers by pod name. `versions` go by task, and so does `sha256`: what each one's file has to be.
    Without a `history`, what was read now is all that is known of the signals.
    """
    pods = [worker.pod for worker in workers.values()]
    history = history or History(inf)
    history.keep(workers)
    by_model = {task.model: task.name for task in tasks}
    servers = tuple(
        _server(
            worker,
            now_seconds=now_seconds,
            view=view,
            pool=pool,
            tasks=by_model,
            signals=signals,
            sha256=sha256,
            history=history,
        )
        for worker in workers.values()
    )
    # Tasks that belong together have the same selector.
    places: dict[frozenset[tuple[str, str]], frozenset[str]] = {}
    for selector in (task.spec.server_selector for task in tasks):
        key = frozenset(selector.items())
        if key not in places:
            places[key] = frozenset(pod.name for pod in pods if matches(selector, pod.labels))
    return PoolSnapshot(
        time_seconds=now_seconds,
        servers=servers,
        tasks=tuple(
            core_task(task, versions[task.name], places[frozenset(task.spec.server_selector.items())]) for task in tasks
        ),
    )


def _server(
    worker: ServerWorker,
    *,
    now_seconds: float,
    view: ClusterView,
    pool: ServingPool,
    tasks: Mapping[str, str],
    signals: Signals,
    sha256: Mapping[str, Mapping[int, str]],
    history: History,
) -> ServerState:
    """Put together what is known of a server; `tasks` has the name of the task of each model."""
    pod, seen = worker.pod, worker.observation
    capacity_cores = view.capacity_cores(pod) or 0.0
    known = history.update(pod.name, signals.raw, capacity_cores)
    # Of a pool's tasks most may be elsewhere: only what is here is looked at.
    loaded = {task: versions for task, versions in _by_task(seen.loaded, tasks).items() if versions}
    broken = {breakage.model for breakage in worker.broken.all()} & tasks.keys()
    return ServerState(
        name=pod.name,
        hardware_class=view.hardware_class(pod, pool.spec.hardware_class_label),
        capacity_cores=capacity_cores,
        ready=pod.ready and not pod.terminating and seen.reachable,
        utilization=known.utilization,
        demand=_by_task(known.demand, tasks),
        pending=_by_task(known.pending, tasks),
        late=_by_task(known.late, tasks),
        active={task: max(versions) for task, versions in loaded.items()},
        loaded=loaded,
        available=_available(tasks, seen, sha256),
        broken={tasks[model]: worker.broken.waiting(model, now_seconds) for model in sorted(broken)},
    )


def _by_task(by_model: Mapping[str, _T], tasks: Mapping[str, str]) -> dict[str, _T]:
    return {tasks[model]: value for model, value in by_model.items() if model in tasks}


def _available(
    tasks: Mapping[str, str], seen: Observation, sha256: Mapping[str, Mapping[int, str]]
) -> dict[str, frozenset[int]] | None:
    if seen.inventory is None:
        return None
    return {task: seen.files(model, sha256[task]) for model in seen.inventory.tasks if (task := tasks.get(model))}


def metrics_problem(signals: Signals, snapshot: PoolSnapshot, pool: ServingPool) -> str:
    """Say why there are no fresh signals of some server that is ready; empty when there are."""
    if signals.problem:
        return signals.problem
    metrics = pool.spec.metrics
    servers = [server for server in snapshot.servers if server.ready] or list(snapshot.servers)
    missing = [server.name for server in servers if not server.utilization]
    if missing:
        return f"Prometheus at {metrics.prometheus_url} has no CPU samples of {', '.join(missing)} yet"
    ages = {server.name: age_seconds(server.utilization, snapshot.time_seconds) or 0.0 for server in servers}
    oldest = max(ages, key=lambda name: ages[name], default=None)
    if oldest is not None and ages[oldest] > metrics.max_age.seconds:
        return (
            f"the newest CPU sample of {oldest} is {ages[oldest]:.0f} s old "
            f"(spec.metrics.maxAge: {metrics.max_age.seconds:g} s)"
        )
    return ""


def demand_problem(
    signals: Signals, snapshot: PoolSnapshot, pool: ServingPool, ages_seconds: Mapping[str, float]
) -> str:
    """Say of which ready servers nobody counts the requests, though their demand is to be observed; else empty.

    `ages_seconds` is the age of the demand by server. Triton has counters of a version as soon as it is loaded, so they
    are missed once a scrape must have found them.
    """
    observed = {task.name for task in snapshot.tasks if task.declared_demand_rps is None}
    uncounted = [
        server.name
        for server in snapshot.servers
        if server.ready
        and observed & server.loaded.keys()
        and not signals.raw.success.get(server.name)
        and ages_seconds.get(server.name, 0.0) > LONGEST_GAP_SECONDS
    ]
    if not uncounted:
        return ""
    return (
        f"Prometheus at {pool.spec.metrics.prometheus_url} has no request counters of {', '.join(uncounted)}, so no "
        "version steps up there: the agent's page (port `agent`) has them while Triton's port `metrics` answers the "
        "agent; look at the agent's log, and at what is scraped"
    )


def failing_versions(
    success: Iterable[RawSeries], failure: Iterable[RawSeries], since_seconds: float
) -> dict[str, frozenset[int]]:
    """Return, by model, the versions of which requests failed and none succeeded between a server's newest scrapes.

    What was scraped last before `since_seconds` says nothing about now.
    """
    answered = {_model_version(series) for series in success if _rose(series)}
    found: dict[str, set[int]] = {}
    for series in failure:
        model, version = place = _model_version(series)
        fresh = bool(series.samples) and series.samples[-1].time_seconds >= since_seconds
        if model and version.isdigit() and place not in answered and fresh and _rose(series):
            found.setdefault(model, set()).add(int(version))
    return {model: frozenset(versions) for model, versions in found.items()}


def answering_versions(success: Iterable[RawSeries], since_seconds: float) -> dict[str, frozenset[int]]:
    """Return, by model, the versions that answered between a server's newest scrapes, if these are not older."""
    found: dict[str, set[int]] = {}
    for series in success:
        model, version = _model_version(series)
        if model and version.isdigit() and _rose(series) and series.samples[-1].time_seconds >= since_seconds:
            found.setdefault(model, set()).add(int(version))
    return {model: frozenset(versions) for model, versions in found.items()}


def _model_version(series: RawSeries) -> tuple[str, str]:
    return series.labels.get("model", ""), series.labels.get("version", "")


def _rose(series: RawSeries) -> bool:
    newest = series.samples[-2:]
    return len(newest) == 2 and newest[1].value > newest[0].value


def without_rivals(
    tasks: Iterable[InferenceTask],
) -> tuple[tuple[InferenceTask, ...], tuple[tuple[InferenceTask, str], ...]]:
    """Return the tasks that are looked after, and the others, each with the task that has its model.

    A model of a server can answer one task only; the first by name has it.
    """
    owners: dict[str, str] = {}
    kept, rivals = [], []
    for task in tasks:
        owner = owners.setdefault(task.model, task.name)
        if owner == task.name:
            kept.append(task)
        else:
            rivals.append((task, owner))
    return tuple(kept), tuple(rivals)
