"""From a plan and what was seen to the statuses of tasks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite

from rung.api import (
    Condition,
    ConditionStatus,
    Decision,
    FrontierStatus,
    InferenceTask,
    InferenceTaskStatus,
    ModelVersion,
    PoolMode,
    ServerPhase,
    ServingPool,
    TaskMode,
    TaskServerStatus,
    with_conditions,
)
from rung.control.servers import ServerWorker
from rung.core.frontier import Metric, ladder, normalized_accuracy
from rung.core.plan import Memory, Plan, Reason, ServerPlan, Target
from rung.core.signals import demand_rps
from rung.core.snapshot import PoolSnapshot, ServerState, TaskState, Version

DEMAND_WINDOW_SECONDS = 5.0
LONGEST_MESSAGE = 1024
"""What the API takes of one message."""


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
    """Why there is no fresh CPU signal; empty when there is."""
    demand_problem: str = ""
    """Why there is no demand signal, where the policy needs one and the CPU signal is there; else empty."""
    doubted: frozenset[str] = frozenset()
    """Servers whose profiles can't be trusted."""
    needs_signals: bool = True
    """Whether the policy decides by signals."""
    rivals: tuple[tuple[InferenceTask, str], ...] = ()
    """Tasks that are left out, each with the name of the one that has its model."""
    balanced: tuple[bool, str, str] | None = None
    """Whether someone spreads the requests as the plan says, a reason, a sentence; None where nobody is meant to."""

    def __post_init__(self) -> None:
        """Sort by name once what is asked for a task or a server at a time."""
        by_task: dict[str, list[Reason]] = {}
        for reason in self.plan.reasons:
            by_task.setdefault(reason.task, []).append(reason)
        object.__setattr__(self, "_reasons", by_task)
        object.__setattr__(self, "states", {state.name: state for state in self.snapshot.tasks})
        object.__setattr__(self, "_plans", {plan.server: plan for plan in self.plan.servers})
        object.__setattr__(self, "_ladders", {})
        object.__setattr__(self, "_servers", {server.name: server for server in self.snapshot.servers})

    states: Mapping[str, TaskState] = field(init=False, repr=False)
    """The tasks as the policy saw them, by name."""
    _reasons: Mapping[str, list[Reason]] = field(init=False, repr=False)
    _plans: Mapping[str, ServerPlan] = field(init=False, repr=False)
    _ladders: dict[tuple[str, str], tuple[Version, ...]] = field(init=False, repr=False)
    _servers: Mapping[str, ServerState] = field(init=False, repr=False)

    @property
    def time(self) -> datetime:
        """When the pass was made."""
        return _moment(self.snapshot.time_seconds)

    def state(self, task: InferenceTask) -> TaskState:
        """The task as the policy saw it."""
        return self.states[task.name]

    def servers_of(self, task: TaskState) -> tuple[ServerState, ...]:
        """The servers that a task belongs on."""
        if task.servers is None:
            return self.snapshot.servers
        return tuple(self._servers[name] for name in sorted(task.servers) if name in self._servers)

    def target(self, task: str, server: str) -> Target | None:
        """What the plan wants for a task on a server."""
        plan = self._plans.get(server)
        return plan.targets.get(task) if plan else None

    def ladder(self, task: TaskState, hardware_class: str) -> tuple[Version, ...]:
        """The frontier of every registered version of a task, cheapest first."""
        key = (task.name, hardware_class)
        if key not in self._ladders:
            self._ladders[key] = ladder(task.versions, hardware_class, self.metric)
        return self._ladders[key]

    def reasons(self, task: str) -> tuple[Reason, ...]:
        """Why the task is where it is, one reason for each server."""
        return tuple(self._reasons.get(task, ()))

    def condition(self, kind: str, holds: bool | None, reason: str, message: str, generation: int | None) -> Condition:
        """Build a condition of this moment; `holds` None is Unknown."""
        return condition_at(self.time, kind, holds, reason, message, generation)


def _moment(time_seconds: float) -> datetime:
    return datetime.fromtimestamp(time_seconds, UTC).replace(microsecond=0)


def condition_at(
    time: datetime, kind: str, holds: bool | None, reason: str, message: str, generation: int | None
) -> Condition:
    """Build a condition; `holds` None is Unknown."""
    status = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}[holds]
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:LONGEST_MESSAGE],
        last_transition_time=time,
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
    active = {s.name: s.active[task.name] for s in servers if s.ready and task.name in s.active}
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
        accuracy=round(sum(v.accuracy for v in known) / len(known), 5) if known else None,
        normalized_accuracy=round(min(1.0, sum(normalized) / len(normalized)), 5) if normalized else None,
        demand=round(sum(demands), 1) if demands else None,
        frontier=_frontier(seen, state, servers),
        servers=details,
        last_decision=changed or before.last_decision,
        observed_generation=task.metadata.generation,
    )


def rival_status(seen: Pass, task: InferenceTask, before: InferenceTaskStatus, served_by: str) -> InferenceTaskStatus:
    """Build the status of a task that is left out: another task of the pool has its model."""
    sentence = f"model {task.model} is looked after for task {served_by} of this pool: give one of them another model"
    return _left_out(task, before, seen.time, "ModelTaken", sentence)


def orphan_status(task: InferenceTask, before: InferenceTaskStatus, time_seconds: float) -> InferenceTaskStatus:
    """Build the status of a task whose pool is not there (or can't be read): nobody looks after it."""
    pool = task.spec.pool_ref.name
    sentence = (
        f"namespace {task.namespace} has no ServingPool {pool} that can be read: create it, "
        "or name another in spec.poolRef.name"
    )
    return _left_out(task, before, _moment(time_seconds), "NoPool", sentence)


def _left_out(
    task: InferenceTask, before: InferenceTaskStatus, time: datetime, reason: str, sentence: str
) -> InferenceTaskStatus:
    """Build the status of a task that nobody looks after: nothing is known of what answers it."""
    generation = task.metadata.generation
    conditions = (
        condition_at(time, "Ready", False, reason, sentence, generation),
        condition_at(time, "Degraded", True, reason, sentence, generation),
    )
    return InferenceTaskStatus(
        conditions=with_conditions(before.conditions, conditions),
        last_decision=before.last_decision,
        observed_generation=generation,
    )


def _least(numbers: Iterable[int], versions: Mapping[int, object]) -> int | None:
    known = [number for number in numbers if number in versions] or list(numbers)
    return min(known, default=None)


def _task_server(seen: Pass, task: InferenceTask, server: ServerState, observed_only: bool) -> TaskServerStatus:
    worker = seen.workers[server.name]
    # What a server had when it was last heard of is not what it answers now.
    active = server.active.get(task.name) if server.ready else None
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
        message = broken[-1].message if broken else _pending_message(worker, task, server)
    elif target and target.active != active and not observed_only:
        phase, message = (
            ServerPhase.PENDING,
            f"waits to become version {target.active}: {_pending_message(worker, task, server)}",
        )
    return TaskServerStatus(
        name=server.name,
        active=active,
        standby=tuple(sorted(loaded - {active}, reverse=True)) if active is not None else (),
        phase=phase,
        message=message[:LONGEST_MESSAGE],
    )


def _pending_message(worker: ServerWorker, task: InferenceTask, server: ServerState) -> str:
    seen = worker.observation
    if seen.inventory is None:
        return f"the agent does not answer: {seen.inventory_message or 'not asked yet'}"
    found = seen.inventory.tasks.get(task.model)
    if found is None:
        why = "" if seen.inventory.repository.reachable else f" ({seen.inventory.repository.message})"
        return f"the server's mirror has no files of model {task.model}{why}"
    if not found.config:
        return f"the server's mirror has no config.pbtxt of model {task.model}"
    others = found.available - (server.available or {}).get(task.name, frozenset())
    states = {
        f"{version.state.value} (not as registered)" if number in others else version.state.value
        for number, version in found.versions.items()
    }
    return f"versions in the server's mirror: {', '.join(sorted(states)) or 'none'}"


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
    answering = [d for d in details if d.active is not None]
    failed = [b for w in seen.workers.values() for b in w.broken.all() if b.model == task.model]
    moving = [d.name for d in details if d.phase is ServerPhase.SWAPPING]
    registered = len(state.versions)
    slower = _profiled_for_longer(seen, task, {server.hardware_class for server in seen.servers_of(state)})
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
            "; ".join(f"version {b.version}: {b.message}" for b in failed)[:LONGEST_MESSAGE]
            or ("" if len(answering) == len(details) else f"{len(answering)} of {len(details)} servers answer"),
            generation,
        ),
        seen.condition(
            "VersionsAvailable",
            registered > 0,
            ("ProfiledForLongerLatency" if slower else "Registered") if registered else "NoModelVersion",
            f"{registered} registered{slower}"
            if registered
            else f"no ModelVersion names this task: publish one, with taskRef.name: {task.name}",
            generation,
        ),
    )


def _profiled_for_longer(seen: Pass, task: InferenceTask, classes: set[str]) -> str:
    """Say that versions were measured for a longer latency than the task asks for: they can carry less than that."""
    profiles = [profile for version in seen.versions[task.name] for profile in version.spec.profiles]
    asked = task.spec.slo.latency.seconds
    longest = max((p.slo_latency.seconds for p in profiles if p.hardware_class in classes), default=asked)
    return f", profiled for answers within {longest:g} s and not {asked:g} s" if longest > asked else ""


def _frontier(seen: Pass, state: TaskState, servers: tuple[ServerState, ...]) -> FrontierStatus | None:
    if not servers or not state.versions:
        return None
    hardware_class = servers[0].hardware_class
    rungs = seen.ladder(state, hardware_class)
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
        throughput_ratio=round(ratio, 2) if ratio and isfinite(ratio) else None,
    )
