"""From a plan and what was seen to the statuses of the pool, its tasks and their versions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rung.api import (
    Condition,
    ConditionStatus,
    Cpu,
    Decision,
    FrontierStatus,
    InferenceTask,
    InferenceTaskStatus,
    ModelVersion,
    PoolMode,
    PoolServerPhase,
    PoolServerStatus,
    ServerPhase,
    ServingPool,
    ServingPoolStatus,
    TaskMode,
    TaskServerStatus,
    with_conditions,
)
from rung.control.servers import ServerWorker
from rung.core.frontier import Metric, ladder, normalized_accuracy
from rung.core.plan import Memory, Plan, Reason, ServerPlan, Target
from rung.core.signals import demand_rps
from rung.core.snapshot import PoolSnapshot, ServerState, TaskState

DEMAND_WINDOW_SECONDS = 5.0


@dataclass(frozen=True)
class Pass:
    """Everything that one pass over a pool saw and decided."""

    pool: ServingPool
    tasks: tuple[InferenceTask, ...]
    versions: Mapping[str, tuple[ModelVersion, ...]]
    snapshot: PoolSnapshot
    plan: Plan
    memory: Memory
    workers: Mapping[str, ServerWorker]
    metric: Metric
    metrics_problem: str = ""
    """Why there are no fresh signals; empty when there are."""

    @property
    def time(self) -> datetime:
        """When the pass was made."""
        return datetime.fromtimestamp(self.snapshot.time_seconds, UTC).replace(microsecond=0)

    def state(self, task: InferenceTask) -> TaskState:
        """The task as the policy saw it."""
        return next(state for state in self.snapshot.tasks if state.name == task.name)

    def servers_of(self, task: TaskState) -> tuple[ServerState, ...]:
        """The servers that a task belongs on."""
        return tuple(s for s in self.snapshot.servers if task.servers is None or s.name in task.servers)

    def target(self, task: str, server: str) -> Target | None:
        """What the plan wants for a task on a server."""
        plan = next((p for p in self.plan.servers if p.server == server), None)
        return plan.targets.get(task) if plan else None

    def reasons(self, task: str) -> tuple[Reason, ...]:
        """Why the task is where it is, one reason for each server."""
        return tuple(reason for reason in self.plan.reasons if reason.task == task)

    def condition(self, kind: str, holds: bool | None, reason: str, message: str, generation: int | None) -> Condition:
        """Build a condition of this moment; `holds` None is Unknown."""
        status = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}[holds]
        return Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=self.time,
            observed_generation=generation,
        )


# ---------------------------------------------------------------------------------------------------------- tasks


def task_status(
    seen: Pass, task: InferenceTask, before: InferenceTaskStatus, changed: Decision | None
) -> InferenceTaskStatus:
    """Build the status of a task. `changed` is a decision of this pass that changed what the task shall be."""
    state = seen.state(task)
    servers = seen.servers_of(state)
    by_number = {version.number: version for version in state.versions}
    active = {s.name: s.active[task.name] for s in servers if task.name in s.active}
    targets = {s.name: t.active for s in servers if (t := seen.target(task.name, s.name)) is not None}
    known = [by_number[number] for number in active.values() if number in by_number]
    worst = min(known, key=lambda version: version.accuracy, default=None)
    normalized = [normalized_accuracy(version, state) for version in known]
    demands = [
        d
        for s in servers
        if (d := demand_rps(state, s, len(servers), seen.snapshot.time_seconds, DEMAND_WINDOW_SECONDS)) is not None
    ]
    observed_only = task.spec.mode is TaskMode.RECOMMEND or seen.pool.spec.mode is PoolMode.RECOMMEND
    recommended = _least(targets.values(), by_number)
    wanted = None if observed_only else recommended
    details = tuple(_task_server(seen, task, server, observed_only) for server in servers)
    return InferenceTaskStatus(
        conditions=with_conditions(before.conditions, _task_conditions(seen, task, state, details, active)),
        active_version=worst.number if worst else _least(active.values(), by_number),
        target_version=wanted,
        recommended_version=recommended if observed_only else None,
        accuracy=_rounded(sum(v.accuracy for v in known) / len(known), 5) if known else None,
        normalized_accuracy=_rounded(min(1.0, sum(normalized) / len(normalized)), 5) if normalized else None,
        demand=_rounded(sum(demands), 1) if demands else None,
        frontier=_frontier(seen, state, servers),
        servers=details,
        last_decision=changed or before.last_decision,
        observed_generation=task.metadata.generation,
    )


def _least(numbers: Iterable[int], versions: Mapping[int, object]) -> int | None:
    known = [number for number in numbers if number in versions] or list(numbers)
    return min(known, default=None)


def _rounded(value: float, digits: int) -> float:
    return round(value, digits)


def _task_server(seen: Pass, task: InferenceTask, server: ServerState, observed_only: bool) -> TaskServerStatus:
    worker = seen.workers[server.name]
    active = server.active.get(task.name)
    target = seen.target(task.name, server.name)
    loaded = server.loaded.get(task.name, frozenset())
    phase, message = ServerPhase.SERVING, ""
    if not server.ready:
        phase, message = ServerPhase.NOT_READY, worker.observation.message or "the pod is not ready"
    elif task.model in worker.swapping():
        phase, message = ServerPhase.SWAPPING, f"to version {target.active}" if target else ""
    elif active is None:
        broken = [b for b in worker.broken.all() if b.model == task.model]
        phase = ServerPhase.FAILED if broken else ServerPhase.PENDING
        message = broken[-1].message if broken else _pending_message(worker, task)
    elif target and target.active != active and not observed_only:
        phase, message = (
            ServerPhase.PENDING,
            f"waits to become version {target.active}: {_pending_message(worker, task)}",
        )
    return TaskServerStatus(
        name=server.name,
        active=active,
        standby=tuple(sorted(loaded - {active}, reverse=True)) if active is not None else (),
        phase=phase,
        message=message[:1000],
    )


def _pending_message(worker: ServerWorker, task: InferenceTask) -> str:
    seen = worker.observation
    if seen.inventory is None:
        return f"the agent does not answer: {seen.inventory_message or 'not asked yet'}"
    found = seen.inventory.tasks.get(task.model)
    if found is None:
        why = "" if seen.inventory.repository.reachable else f" ({seen.inventory.repository.message})"
        return f"the server's mirror has no files of model {task.model}{why}"
    if not found.config:
        return f"the server's mirror has no config.pbtxt of model {task.model}"
    states = sorted({version.state.value for version in found.versions.values()})
    return f"versions in the server's mirror: {', '.join(states) or 'none'}"


def _task_conditions(
    seen: Pass,
    task: InferenceTask,
    state: TaskState,
    details: tuple[TaskServerStatus, ...],
    active: Mapping[str, int],
) -> tuple[Condition, ...]:
    generation = task.metadata.generation
    reasons = seen.reasons(task.name)
    why = next(iter(reasons), None)
    code = why.code.value if why else "NoServer"
    sentence = why.sentence if why else "no ready server of the pool serves this task"
    answering = [d for d in details if d.active is not None and d.phase is not ServerPhase.NOT_READY]
    failed = [b for w in seen.workers.values() for b in w.broken.all() if b.model == task.model]
    moving = [d.name for d in details if d.phase is ServerPhase.SWAPPING]
    registered = len(state.versions)
    return (
        seen.condition("Ready", bool(answering), code if answering else "NothingAnswers", sentence, generation),
        seen.condition(
            "Transitioning",
            bool(moving),
            "Swapping" if moving else "Settled",
            f"swapping on {', '.join(moving)}" if moving else "",
            generation,
        ),
        seen.condition(
            "Degraded",
            bool(failed) or len(answering) < len(details),
            "VersionBroken" if failed else ("ServerMissing" if len(answering) < len(details) else "AllWell"),
            "; ".join(f"version {b.version}: {b.message}" for b in failed)[:1000]
            or ("" if len(answering) == len(details) else f"{len(answering)} of {len(details)} servers answer"),
            generation,
        ),
        seen.condition(
            "VersionsAvailable",
            registered > 0,
            "Registered" if registered else "NoModelVersion",
            f"{registered} registered"
            if registered
            else f"no ModelVersion names this task: publish one, with taskRef.name: {task.name}",
            generation,
        ),
    )


def _frontier(seen: Pass, state: TaskState, servers: tuple[ServerState, ...]) -> FrontierStatus | None:
    if not servers or not state.versions:
        return None
    hardware_class = servers[0].hardware_class
    rungs = ladder(state.versions, hardware_class, seen.metric)
    if not rungs:
        return None
    cheapest, best = rungs[0], rungs[-1]
    profiles = cheapest.profiles.get(hardware_class), best.profiles.get(hardware_class)
    ratio = profiles[0].max_throughput_rps / profiles[1].max_throughput_rps if profiles[0] and profiles[1] else None
    return FrontierStatus(
        count=len(rungs),
        best_version=best.number,
        best_accuracy=best.accuracy,
        cheapest_version=cheapest.number,
        cheapest_accuracy=cheapest.accuracy,
        throughput_ratio=_rounded(ratio, 2) if ratio else None,
    )


# ----------------------------------------------------------------------------------------------------------- pool


def pool_status(seen: Pass, before: ServingPoolStatus, changed: Decision | None) -> ServingPoolStatus:
    """Build the status of the pool. `changed` is the newest decision that changed something."""
    plans = {plan.server: plan for plan in seen.plan.servers}
    details = tuple(_pool_server(seen, server, plans.get(server.name)) for server in seen.snapshot.servers)
    used = [d.utilization for d in details if d.utilization is not None]
    expected = [d.expected_utilization for d in details if d.expected_utilization is not None]
    return ServingPoolStatus(
        conditions=with_conditions(before.conditions, _pool_conditions(seen, details, plans)),
        servers=details,
        ready_servers=sum(server.ready for server in seen.snapshot.servers),
        tasks=len(seen.tasks),
        utilization=max(used, default=None),
        expected_utilization=max(expected, default=None),
        policy_memory=dict(seen.memory),
        last_decision=changed or before.last_decision,
        observed_generation=seen.pool.metadata.generation,
    )


def _pool_server(seen: Pass, server: ServerState, plan: ServerPlan | None) -> PoolServerStatus:
    worker = seen.workers[server.name]
    if not server.ready:
        phase, message = PoolServerPhase.NOT_READY, worker.observation.message or "the pod is not ready"
    elif worker.swapping():
        phase, message = PoolServerPhase.SWAPPING, ", ".join(sorted(worker.swapping()))
    elif not server.active:
        phase, message = PoolServerPhase.PENDING, worker.observation.inventory_message or "serves nothing yet"
    else:
        phase, message = PoolServerPhase.SERVING, worker.observation.inventory_message
    newest = server.utilization[-1].value if server.utilization and not seen.metrics_problem else None
    return PoolServerStatus(
        name=server.name,
        node=worker.pod.node,
        hardware_class=server.hardware_class,
        capacity=Cpu.from_cores(server.capacity_cores) if server.capacity_cores else None,
        utilization=_rounded(newest, 2) if newest is not None else None,
        expected_utilization=_rounded(plan.expected_utilization, 2)
        if plan and plan.expected_utilization is not None
        else None,
        phase=phase,
        message=message[:1000],
    )


def _pool_conditions(
    seen: Pass, details: tuple[PoolServerStatus, ...], plans: Mapping[str, ServerPlan]
) -> tuple[Condition, ...]:
    generation = seen.pool.metadata.generation
    ready = sum(server.ready for server in seen.snapshot.servers)
    count = len(details)
    over = {p.server: p.expected_utilization for p in plans.values() if (p.expected_utilization or 0.0) > 1.0}
    distrusted = sorted(p.server for p in plans.values() if not p.profile_trusted)
    unprofiled = sorted(
        {
            s.hardware_class
            for s in seen.snapshot.servers
            if any(
                t.versions and not any(s.hardware_class in v.profiles for v in t.versions) for t in seen.snapshot.tasks
            )
        }
    )
    if distrusted:
        capacity = (
            False,
            "ProfileNotTrusted",
            f"CPU is far above what the profiles predict on {', '.join(distrusted)}",
        )
    elif unprofiled:
        capacity = (False, "NoProfile", f"no version is profiled on hardware class {', '.join(unprofiled)}")
    else:
        capacity = (True, "Profiled", "")
    return (
        seen.condition(
            "Ready",
            ready > 0,
            "Serving" if ready else "NoServer",
            f"{ready} of {count} servers are ready"
            if count
            else "no pod has the labels of spec.serverSelector: "
            + ", ".join(f"{key}={value}" for key, value in seen.pool.spec.server_selector.items()),
            generation,
        ),
        seen.condition(
            "MetricsAvailable",
            not seen.metrics_problem,
            "Fresh" if not seen.metrics_problem else "Missing",
            seen.metrics_problem[:1000],
            generation,
        ),
        seen.condition(
            "Overloaded",
            bool(over),
            "DemandAboveCapacity" if over else "Fits",
            "; ".join(f"{server} would need {value:.0%} of its CPU" for server, value in over.items() if value),
            generation,
        ),
        seen.condition("CapacityKnown", capacity[0], capacity[1], capacity[2], generation),
    )
