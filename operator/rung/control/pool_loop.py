"""The loop over one pool: observe, decide, re-check, act, status. It never waits for a swap or for the API server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rung.adapters.prometheus import CpuSource, Prometheus
from rung.api import (
    Decision,
    InferenceTask,
    InferenceTaskStatus,
    ModelVersion,
    ModelVersionStatus,
    ServingPool,
    ServingPoolStatus,
)
from rung.control.metrics import Metrics
from rung.control.observe import NO_SIGNALS, Signals, build_snapshot, read_signals, signal_ages
from rung.control.policies import build_policy, decide_settings
from rung.control.publish import Note, ObjectKey, Publisher
from rung.control.servers import Finished, ServerWorker, Want
from rung.control.statuses import Pass, pool_status, task_status
from rung.control.version_statuses import version_status
from rung.control.view import ClusterView, Namespaced, ServerPod
from rung.core.decide import decide
from rung.core.frontier import normalized_accuracy
from rung.core.plan import Code, Memory, Reason, Target
from rung.core.snapshot import TaskState

logger = logging.getLogger(__name__)

STATUS_OF_VERSIONS_EVERY_SECONDS = 5.0

QUIET = frozenset({Code.STEADY, Code.SETTLING, Code.AT_TOP, Code.NO_ROOM, Code.AT_BOTTOM})
"""Reasons that change nothing: they are in the conditions, and make no event of their own."""


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
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.key = key
        self.label = f"{key[0]}/{key[1]}"
        self.last_pass_monotonic = time.monotonic()
        self.workers: dict[str, ServerWorker] = {}
        self._worker_keys: dict[str, ServerKey] = {}
        self._view = view
        self._publisher = publisher
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._memory: Memory | None = None
        self._reader: Prometheus | None = None
        self._reader_settings: object = None
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._gate_width = 1
        self._pool_before: ServingPool | None = None
        self._statuses = _Statuses()
        self._targets: dict[tuple[str, str], int] = {}
        self._versions_written = float("-inf")
        self._metrics_problem = ""
        self._distrusted: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Make a pass each interval until cancelled; a pass that fails is logged, and the next one is made."""
        try:
            while True:
                started = time.monotonic()
                pool = self._view.pool(self.key)
                if pool is not None:
                    try:
                        await self.run_once(pool)
                    except Exception:
                        logger.exception("A pass over pool %s failed; what serves goes on serving", self.label)
                    else:
                        self.last_pass_monotonic = time.monotonic()
                        self._metrics.last_pass.labels(self.label).set(self._wall_clock())
                        self._metrics.loop_duration.labels(self.label).observe(time.monotonic() - started)
                else:
                    self.last_pass_monotonic = time.monotonic()
                interval = pool.spec.interval.seconds if pool else 1.0
                await asyncio.sleep(max(0.05, interval - (time.monotonic() - started)))
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop looking after the servers. They keep what they have."""
        await asyncio.gather(*(worker.stop() for worker in self.workers.values()), return_exceptions=True)
        self.workers.clear()
        if self._reader is not None:
            await self._reader.close()
            self._reader = None
        self._metrics.forget_pool(self.label)

    # ------------------------------------------------------------------ one pass

    async def run_once(self, pool: ServingPool) -> None:
        """Make one pass: observe, decide, act (start it), status."""
        await self._follow_servers(pool)
        signals = await self._signals(pool)
        tasks = self._view.tasks_of(pool)
        versions = {task.name: self._view.versions_of(task) for task in tasks}
        now_seconds = self._wall_clock()
        snapshot = build_snapshot(now_seconds, self._view, pool, self.workers, signals)
        if self._memory is None:
            self._memory = pool.status.policy_memory or {}
        policy = build_policy(pool.spec.policy)
        plan, self._memory = decide(policy, snapshot, self._memory, decide_settings(pool.spec))
        seen = Pass(
            pool=pool,
            tasks=tasks,
            versions=versions,
            snapshot=snapshot,
            plan=plan,
            memory=self._memory,
            workers=dict(self.workers),
            metric=policy.metric,
            metrics_problem=self._problem(signals, snapshot_ages := signal_ages(snapshot), pool),
        )
        for signal, age in snapshot_ages.items():
            self._metrics.signal_age.labels(self.label, signal).set(age)
        self._act(seen)
        self._report(seen)

    async def _follow_servers(self, pool: ServingPool) -> None:
        """Have a worker for each pod with an address; drop those whose pod is gone, made again, or started again."""
        pods = {pod.name: pod for pod in self._view.servers_of(pool) if pod.triton_address and not pod.terminating}
        wanted = {name: ServerKey(pod.uid, pod.triton_address or "") for name, pod in pods.items()}
        gone = [name for name, key in self._worker_keys.items() if wanted.get(name) != key]
        for name in gone:
            worker = self.workers.pop(name)
            del self._worker_keys[name]
            self._metrics.forget_server(self.label, name)
            await worker.stop()
        if pool.spec.rollout.max_concurrent != self._gate_width:
            self._gate_width = pool.spec.rollout.max_concurrent
            self._gates.clear()
        for name, pod in pods.items():
            worker = self.workers.get(name) or self._new_worker(pool, pod)
            worker.pod = pod
            worker.load_deadline_seconds = pool.spec.rollout.load_deadline.seconds

    def _new_worker(self, pool: ServingPool, pod: ServerPod) -> ServerWorker:
        worker = ServerWorker(
            pod,
            cold_gate=self._gate,
            load_deadline_seconds=pool.spec.rollout.load_deadline.seconds,
            interval_seconds=pool.spec.interval.seconds,
            wall_clock=self._wall_clock,
        )
        self.workers[pod.name] = worker
        self._worker_keys[pod.name] = ServerKey(pod.uid, pod.triton_address or "")
        worker.start()
        return worker

    def _gate(self, model: str) -> asyncio.Semaphore:
        return self._gates.setdefault(model, asyncio.Semaphore(self._gate_width))

    async def _signals(self, pool: ServingPool) -> Signals:
        metrics = pool.spec.metrics
        if self._reader is None or self._reader_settings != (metrics.prometheus_url, metrics.cpu):
            if self._reader is not None:
                await self._reader.close()
            self._reader = Prometheus(metrics.prometheus_url, cpu_source=CpuSource(metrics.cpu.value))
            self._reader_settings = (metrics.prometheus_url, metrics.cpu)
        if not self.workers:
            return NO_SIGNALS
        return await read_signals(self._reader, pool.namespace, tuple(self.workers))

    def _problem(self, signals: Signals, ages: Mapping[str, float], pool: ServingPool) -> str:
        if signals.problem:
            return signals.problem
        longest = pool.spec.metrics.max_age.seconds
        if "cpu" not in ages:
            return f"Prometheus at {pool.spec.metrics.prometheus_url} has no CPU samples of these servers yet"
        if ages["cpu"] > longest:
            return f"the newest CPU sample is {ages['cpu']:.0f} s old (spec.metrics.maxAge: {longest:g} s)"
        return ""

    # ------------------------------------------------------------------ act

    def _act(self, seen: Pass) -> None:
        """Hand each server what it shall be. The worker checks again, at the moment it acts."""
        tasks = {task.name: task for task in seen.tasks}
        states = {state.name: state for state in seen.snapshot.tasks}
        plans = {plan.server: plan for plan in seen.plan.servers}
        for server in seen.snapshot.servers:
            worker = self.workers.get(server.name)
            if worker is None:
                continue
            plan = plans.get(server.name)
            targets = plan.targets if plan else {}
            applied = plan.apply if plan else frozenset[str]()
            files = {tasks[n].model: _files(states[n], target) for n, target in targets.items() if n in tasks}
            wanted = {
                tasks[name].model: Want(target, _memory_bytes(states[name], server.hardware_class))
                for name, target in targets.items()
                if name in tasks and name in applied
            }
            worker.want(wanted, files)

    # ------------------------------------------------------------------ status

    def _report(self, seen: Pass) -> None:
        decisions = self._decisions(seen)
        for worker in self.workers.values():
            for finished in worker.finished():
                self._swap_ended(seen, finished)
        for task in seen.tasks:
            status = task_status(seen, task, self._statuses.task(task), decisions.get(task.name))
            self._statuses.tasks[task.name] = status
            self._publisher.status(_key(task), status.to_json())
        newest = max(decisions.values(), key=lambda decision: decision.time, default=None)
        before = self._statuses.pool or seen.pool.status
        self._statuses.pool = pool_status(seen, before, newest)
        self._publisher.status(_key(seen.pool), self._statuses.pool.to_json())
        self._report_versions(seen)
        self._report_health(seen)
        self._measure(seen)

    def _report_versions(self, seen: Pass) -> None:
        if seen.snapshot.time_seconds - self._versions_written < STATUS_OF_VERSIONS_EVERY_SECONDS:
            return
        self._versions_written = seen.snapshot.time_seconds
        for task in seen.tasks:
            for version in seen.versions[task.name]:
                before = self._statuses.versions.get(version.name, version.status)
                status = version_status(seen, task, version, before)
                self._statuses.versions[version.name] = status
                self._publisher.status(_key(version), status.to_json())

    def _decisions(self, seen: Pass) -> dict[str, Decision]:
        """The decisions of this pass that changed what a task shall be, with an event for each."""
        changed: dict[str, Decision] = {}
        tasks = {task.name: task for task in seen.tasks}
        for reason in seen.plan.reasons:
            target = seen.target(reason.task, reason.server)
            before = self._targets.get((reason.task, reason.server))
            after = target.active if target else None
            if after is not None:
                self._targets[(reason.task, reason.server)] = after
            if (
                reason.task not in tasks
                or after is None
                or after == before
                or (before is None and reason.code in QUIET)
            ):
                continue
            changed[reason.task] = self._decision(seen, reason, before, after)
            self._metrics.decisions.labels(self.label, reason.task, reason.code.value).inc()
            self._publisher.note(Note(_key(tasks[reason.task]), reason.code.value, reason.sentence))
            logger.info(
                reason.sentence,
                extra={"pool": self.label, "task": reason.task, "server": reason.server, "code": reason.code.value,
                       "from_version": before, "to_version": after},
            )  # fmt: skip
        return changed

    def _decision(self, seen: Pass, reason: Reason, before: int | None, after: int) -> Decision:
        return Decision(
            time=seen.time,
            code=reason.code.value,
            sentence=reason.sentence,
            task=reason.task,
            server=reason.server,
            from_version=before,
            to_version=after,
            numbers=dict(reason.numbers),
        )

    def _swap_ended(self, seen: Pass, finished: Finished) -> None:
        outcome = finished.outcome
        task = next((task for task in seen.tasks if task.model == finished.model), None)
        name = task.name if task else finished.model
        kind = "standby" if finished.standby else outcome.kind.value
        self._metrics.swaps.labels(self.label, name, kind, outcome.outcome.value).inc()
        level = logging.INFO if outcome.ok else logging.WARNING
        logger.log(
            level,
            "%s on %s: %s", name, finished.server, outcome.sentence,
            extra={"pool": self.label, "task": name, "server": finished.server, "kind": kind,
                   "outcome": outcome.outcome.value, "duration_seconds": round(outcome.duration_seconds, 4)},
        )  # fmt: skip
        if outcome.ok:
            self._metrics.swap_duration.labels(self.label, kind).observe(outcome.duration_seconds)
        elif task is not None:
            self._publisher.note(Note(_key(task), "SwapFailed", f"{finished.server}: {outcome.sentence}", warning=True))
        if task is not None and outcome.ok and not finished.standby:
            self._publisher.note(Note(_key(task), "Swapped", f"{finished.server}: {outcome.sentence}"))

    def _report_health(self, seen: Pass) -> None:
        """Tell the administrators, once, when metrics go away or come back and when a profile can't be trusted."""
        key = _key(seen.pool)
        if bool(seen.metrics_problem) != bool(self._metrics_problem):
            if seen.metrics_problem:
                sentence = f"{seen.metrics_problem}; the last allocation is held"
                self._publisher.note(Note(key, "MetricsMissing", sentence, warning=True))
                logger.warning(sentence, extra={"pool": self.label})
            else:
                self._publisher.note(Note(key, "MetricsBack", "CPU and demand are fresh again"))
                logger.info("CPU and demand are fresh again", extra={"pool": self.label})
        self._metrics_problem = seen.metrics_problem
        distrusted = frozenset(plan.server for plan in seen.plan.servers if not plan.profile_trusted)
        for server in sorted(distrusted - self._distrusted):
            sentence = f"{server}: the CPU is far above what the profiles predict; measure the versions again there"
            self._publisher.note(Note(key, "ProfileNotTrusted", sentence, warning=True))
            logger.warning(sentence, extra={"pool": self.label})
        self._distrusted = distrusted

    def _measure(self, seen: Pass) -> None:
        plans = {plan.server: plan for plan in seen.plan.servers}
        states = {state.name: state for state in seen.snapshot.tasks}
        for server in seen.snapshot.servers:
            plan = plans.get(server.name)
            if plan and plan.expected_utilization is not None:
                self._metrics.expected_utilization.labels(self.label, server.name).set(plan.expected_utilization)
            if server.utilization:
                self._metrics.observed_utilization.labels(self.label, server.name).set(server.utilization[-1].value)
            for task, number in server.active.items():
                self._metrics.active_version.labels(self.label, task, server.name).set(number)
                version = next((v for v in states[task].versions if v.number == number), None)
                if version:
                    value = normalized_accuracy(version, states[task])
                    self._metrics.normalized_accuracy.labels(self.label, task, server.name).set(value)
            for task, samples in server.demand.items():
                if samples:
                    self._metrics.demand.labels(self.label, task, server.name).set(samples[-1].value)


class _Statuses:
    """The statuses as they were last built; at first those that the API server has."""

    def __init__(self) -> None:
        self.pool: ServingPoolStatus | None = None
        self.tasks: dict[str, InferenceTaskStatus] = {}
        self.versions: dict[str, ModelVersionStatus] = {}

    def task(self, task: InferenceTask) -> InferenceTaskStatus:
        return self.tasks.get(task.name, task.status)


def _key(resource: InferenceTask | ServingPool | ModelVersion) -> ObjectKey:
    metadata = resource.metadata
    return ObjectKey(type(resource).__name__, metadata.namespace, metadata.name, metadata.uid)


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
