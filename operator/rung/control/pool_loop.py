"""The loop over one pool: observe, decide, re-check, act, status. It never waits for a swap or for the API server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rung.adapters.agent import Reflex, ReflexTask
from rung.adapters.gateway import Gateways
from rung.adapters.pods import Pods
from rung.adapters.prometheus import CpuSource, Prometheus
from rung.api import DrainMode, PoolMode, ReflexMode, ServingPool
from rung.control.balancing import Balancing
from rung.control.history import History
from rung.control.metrics import Metrics, set_gauge
from rung.control.observation import Want
from rung.control.observe import (
    NO_SIGNALS,
    CoreVersions,
    Signals,
    answering_versions,
    build_snapshot,
    demand_problem,
    failing_versions,
    hardware_classes,
    metrics_problem,
    read_signals,
    without_rivals,
)
from rung.control.policies import build_policy, decide_settings, history_seconds
from rung.control.publish import Publisher
from rung.control.report import Reporter
from rung.control.servers import ServerWorker
from rung.control.signal_ages import SIGNALS, SignalAges
from rung.control.standby import within_budget
from rung.control.statuses import Pass
from rung.control.trust import Doubt, judge
from rung.control.turns import LoadTurns
from rung.control.view import ClusterView, Namespaced, ServerPod
from rung.core.balance import steady
from rung.core.decide import decide
from rung.core.plan import Memory, Target
from rung.core.reflex import reflex_tasks
from rung.core.snapshot import ServerState, TaskState

if TYPE_CHECKING:
    from rung.adapters.xds import XdsServer

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""How long a graceful stop waits for swaps that are under way."""


@dataclass(frozen=True, slots=True)
class ServerKey:
    """A server by its pod and its address: a pod that is made again is another server."""

    uid: str
    address: str


class PoolLoop:
    """Looks after one pool, once an interval, until it is cancelled."""

    def __init__(
        self,
        key: Namespaced,
        view: ClusterView,
        publisher: Publisher,
        metrics: Metrics,
        *,
        pods: Pods | None = None,
        xds: XdsServer | None = None,
        gateways: Gateways | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.key = key
        self.label = f"{key[0]}/{key[1]}"
        self.last_pass_monotonic = time.monotonic()
        self.interval_seconds = 1.0
        self.workers: dict[str, ServerWorker] = {}
        self._worker_keys: dict[str, ServerKey] = {}
        self._balancing = Balancing(self.label, pods, xds, self._count_drain, gateways)
        self._view = view
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._memory: Memory | None = None
        self._reader: Prometheus | None = None
        self._reader_settings: object = None
        self._history = History(0.0)
        self._turns = LoadTurns()
        self._core_versions = CoreVersions()
        self._ages = SignalAges()
        self._doubts: dict[str, Doubt] = {}
        self._knows_servers = False
        self._reporter = Reporter(self.label, publisher, metrics)

    async def run(self) -> None:
        """Make a pass each interval until cancelled; a pass that fails is logged, and the next one is made.

        It counts as a sign of life all the same: to start the operator again would mend nothing, and harm every pool.
        """
        try:
            while True:
                started = time.monotonic()
                pool = self._view.pool(self.key)
                if pool is not None:
                    try:
                        await self.run_once(pool)
                    except Exception:
                        logger.exception("A pass over pool %s failed; what serves goes on serving", self.label)
                        self._metrics.passes_failed.labels(self.label).inc()
                    else:
                        self._metrics.last_pass.labels(self.label).set(self._wall_clock())
                        self._metrics.loop_duration.labels(self.label).observe(time.monotonic() - started)
                self.last_pass_monotonic = time.monotonic()
                self.interval_seconds = pool.spec.interval.seconds if pool else 1.0
                await asyncio.sleep(max(0.05, self.interval_seconds - (time.monotonic() - started)))
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop looking after the servers. They keep what they have."""
        workers = self.workers.values()
        await asyncio.gather(*(worker.stop(PATIENCE_SECONDS) for worker in workers), return_exceptions=True)
        self.workers.clear()
        await self._balancing.close()
        if self._reader is not None:
            await self._reader.close()
            self._reader = None
        self._metrics.forget_pool(self.label)

    def _count_drain(self, server: str, drained: bool) -> None:
        self._metrics.drains.labels(self.label, server, "drained" if drained else "beside").inc()

    # ------------------------------------------------------------------ one pass

    async def run_once(self, pool: ServingPool) -> None:
        """Make one pass: observe, decide, act (start it), status."""
        await self._follow_servers(pool)
        policy = build_policy(pool.spec.policy)
        signals = await self._signals(pool, history_seconds(policy))
        tasks, rivals = without_rivals(self._view.tasks_of(pool))
        registered = {task.name: self._view.versions_of(task) for task in tasks}
        classes = hardware_classes(self._view, pool, self.workers)
        versions = {name: self._core_versions.of(name, found, classes) for name, found in registered.items()}
        self._core_versions.keep(versions)
        sha256 = {name: self._core_versions.sha256(name) for name in registered}
        now_seconds = self._wall_clock()
        snapshot = build_snapshot(
            now_seconds, self._view, pool, self.workers, signals, tasks, versions, sha256, self._history
        )
        if self._balancing.has_balancer:
            snapshot = replace(steady(snapshot), balanced=True)
        if self._memory is None:
            self._memory = pool.status.policy_memory or {}
        plan, self._memory = decide(policy, snapshot, self._memory, decide_settings(pool.spec))
        self._doubts = judge(self._doubts, snapshot.servers, plan, now_seconds)
        self._ages.follow(snapshot, needs_demand=policy.needs_signals)
        for signal in SIGNALS:
            set_gauge(self._metrics.signal_age, (self.label, signal), self._ages.oldest(signal))
        cpu_problem = metrics_problem(signals, snapshot, pool)
        looks_at_demand = policy.needs_signals and not cpu_problem
        seen = Pass(
            pool=pool,
            tasks=tasks,
            versions=registered,
            snapshot=snapshot,
            plan=plan,
            memory=self._memory,
            workers=dict(self.workers),
            metric=policy.metric,
            metrics_problem=cpu_problem,
            demand_problem=demand_problem(signals, snapshot, pool, self._ages.by_server("demand"))
            if looks_at_demand
            else "",
            doubted=frozenset(server for server, doubt in self._doubts.items() if doubt.told),
            needs_signals=policy.needs_signals,
            rivals=rivals,
            balanced=self._balancing.condition(),
        )
        self._act(seen, sha256)
        # An operator that starts says nothing before it has looked at its servers: what was said before still holds.
        self._knows_servers = self._knows_servers or all(w.observation.asked for w in self.workers.values())
        if self._knows_servers:
            await self._balancing.update(seen)
        raw, since = signals.raw, now_seconds - pool.spec.metrics.max_age.seconds
        for name, worker in self.workers.items():
            # Also without fresh signals: what failed when they were last there is not known to fail now.
            worker.answered(answering_versions(raw.success.get(name, ()), since))
            worker.suspect(failing_versions(raw.success.get(name, ()), raw.failure.get(name, ()), since))
        if self._knows_servers:
            self._reporter.report(seen, [ended for worker in self.workers.values() for ended in worker.finished()])

    async def _follow_servers(self, pool: ServingPool) -> None:
        """Have a worker for each pod with an address; drop those whose pod is gone, made again, or started again."""
        pods = {pod.name: pod for pod in self._view.servers_of(pool) if pod.triton_address and not pod.terminating}
        wanted = {name: ServerKey(pod.uid, pod.triton_address or "") for name, pod in pods.items()}
        gone = [name for name, key in self._worker_keys.items() if wanted.get(name) != key]
        for name in gone:
            worker = self.workers.pop(name)
            del self._worker_keys[name]
            self._history.keep(self.workers)
            self._metrics.forget_server(self.label, name)
            await worker.stop()
        self._turns.width = pool.spec.rollout.max_concurrent
        for name, pod in pods.items():
            worker = self.workers.get(name) or self._new_worker(pool, pod)
            worker.pod = pod
            worker.load_deadline_seconds = pool.spec.rollout.load_deadline.seconds
            worker.interval_seconds = pool.spec.interval.seconds
            worker.balancing = self._balancing if pool.spec.rollout.drain is DrainMode.COLD else None

    def _new_worker(self, pool: ServingPool, pod: ServerPod) -> ServerWorker:
        worker = ServerWorker(
            pod,
            turns=self._turns,
            load_deadline_seconds=pool.spec.rollout.load_deadline.seconds,
            interval_seconds=pool.spec.interval.seconds,
            wall_clock=self._wall_clock,
        )
        self.workers[pod.name] = worker
        self._worker_keys[pod.name] = ServerKey(pod.uid, pod.triton_address or "")
        worker.start()
        return worker

    async def _signals(self, pool: ServingPool, range_seconds: int) -> Signals:
        metrics = pool.spec.metrics
        settings = (metrics.prometheus_url, metrics.cpu, range_seconds, pool.spec.reflex is ReflexMode.ON)
        if self._reader is None or self._reader_settings != settings:
            if self._reader is not None:
                await self._reader.close()
                self._reader = None
            url, source, history, gates = settings
            try:
                self._reader = Prometheus(url, cpu_source=CpuSource(source.value), range_seconds=history, gates=gates)
            except ValueError as error:
                # The schema's pattern does not find every address that makes no sense.
                return Signals(problem=f"spec.metrics.prometheusUrl can't be used, mend it: {error}")
            self._reader_settings = settings
            self._history = History(float(history))
        if not self.workers:
            return NO_SIGNALS
        return await read_signals(self._reader, pool.namespace, tuple(self.workers))

    # ------------------------------------------------------------------ act

    def _act(self, seen: Pass, sha256: Mapping[str, Mapping[int, str]]) -> None:
        """Hand each server what it shall be. The worker checks again, at the moment it acts."""
        tasks = {task.name: task for task in seen.tasks}
        plans = {plan.server: plan for plan in seen.plan.servers}
        budget = seen.pool.spec.standby.memory_budget
        numbers = {task.model: sha256[task.name].keys() for task in seen.tasks}
        for server in seen.snapshot.servers:
            worker = self.workers.get(server.name)
            if worker is None:
                continue
            for model in {breakage.model for breakage in worker.broken.all()}:
                # One that is still being loaded holds the others back, registered or not.
                loading = worker.observation.loading.get(model, ())
                worker.broken.keep(model, {*numbers.get(model, ()), *loading})
            plan = plans.get(server.name)
            targets = plan.targets if plan else {}
            applied = plan.apply if plan else frozenset[str]()
            files = {tasks[name].model: _files(seen.states[name], target) for name, target in targets.items()}
            peaks = {name: _memory_bytes(seen.states[name], server.hardware_class) for name in applied}
            orders = within_budget({name: targets[name] for name in applied}, peaks, budget.bytes if budget else None)
            orders = worker.within_memory(orders)
            wants = {tasks[name].model: Want(target, sha256[name], peaks[name]) for name, target in orders.items()}
            worker.want(wants, files)
            worker.reflex = gate_tasks(seen, server)


def gate_tasks(seen: Pass, server: ServerState) -> Reflex:
    """Return the tasks for which the gate of a server chooses: none unless the pool's reflex is on, and Rung acts."""
    if seen.pool.spec.reflex is not ReflexMode.ON or seen.pool.spec.mode is not PoolMode.AUTO:
        return Reflex()
    models = {task.name: task.model for task in seen.tasks}
    return Reflex(
        cores=server.capacity_cores or None,
        tasks={
            models[name]: ReflexTask(
                slo_seconds=task.slo_latency_seconds,
                best_effort=task.best_effort,
                service_seconds=dict(task.service_seconds),
            )
            for name, task in reflex_tasks(seen.snapshot, server, seen.metric).items()
        },
    )


def _files(task: TaskState, target: Target) -> tuple[int, ...]:
    """Every version of a task, the soonest wanted first: what answers, its standbys, then the nearest in number."""
    first = [target.active, *target.standby]
    rest = sorted((v.number for v in task.versions if v.number not in first), key=lambda n: abs(n - target.active))
    return (*first, *rest)


def _memory_bytes(task: TaskState, hardware_class: str) -> dict[int, int]:
    found = {}
    for version in task.versions:
        profile = version.profiles.get(hardware_class)
        if profile is not None and profile.memory_bytes is not None:
            found[version.number] = profile.memory_bytes
    return found
