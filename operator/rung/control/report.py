"""Tells what a pass over a pool saw and did: statuses, events, metrics and the log.

With many tasks most of them are as they were a second ago. So each pass builds the statuses of those where something
that matters changed, and of a share of the others in turn.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

from rung.api import Decision, InferenceTask
from rung.api.base import Model, Resource
from rung.control.metrics import Metrics, set_gauge
from rung.control.observation import REVIVE, STANDBY, Finished
from rung.control.pool_statuses import pool_status
from rung.control.publish import Note, ObjectKey, Publisher, key_of
from rung.control.statuses import LONGEST_MESSAGE, Pass, rival_status, task_status
from rung.control.version_statuses import version_status
from rung.core import memory as memories
from rung.core.frontier import normalized_accuracy
from rung.core.plan import Code, Reason

logger = logging.getLogger(__name__)

TASKS_IN_TURN = 20
"""So many tasks have their statuses built in each pass though nothing of note changed."""
VERSIONS_OF_TASKS_IN_TURN = 3
"""Of so many tasks the statuses of their versions are: in them less changes by itself."""

QUIET = frozenset({Code.STEADY, Code.SETTLING, Code.AT_TOP, Code.NO_ROOM, Code.AT_BOTTOM})
"""Reasons that change nothing: they are in the conditions, and make no event of their own."""


class Reporter:
    """Everything that one pool's loop says to people."""

    def __init__(self, label: str, publisher: Publisher, metrics: Metrics) -> None:
        self._label = label
        self._publisher = publisher
        self._metrics = metrics
        self._built: dict[ObjectKey, Any] = {}
        """The statuses as they were last built; those of an earlier operator are in the objects."""
        self._facts: dict[str, object] = {}
        self._version_facts: dict[str, object] = {}
        self._task_turn = Turn(TASKS_IN_TURN)
        self._version_turn = Turn(VERSIONS_OF_TASKS_IN_TURN)
        self._targets: dict[tuple[str, str], int] | None = None
        self._metrics_problem = ""
        self._doubted: frozenset[str] = frozenset()
        self._said: set[str] = set()
        self._measured: set[tuple[str, str]] = set()

    def report(self, seen: Pass, finished: Iterable[Finished]) -> None:
        """Tell of one pass, and of the swaps that ended since the last one."""
        decisions = self._decisions(seen)
        tasks = {task.model: task for task in seen.tasks}
        for swap in finished:
            self._swap_ended(tasks.get(swap.model), swap)
        self._report_tasks(seen, decisions)
        self._report_versions(seen)
        newest = next(iter(decisions.values()), None)
        self._publish(seen.pool, pool_status(seen, self._before(seen.pool), newest))
        self._forget(seen)
        self._report_health(seen)
        self._measure(seen)

    def _before(self, resource: Resource) -> Any:
        return self._built.get(key_of(resource), resource.status)

    def _publish(self, resource: Resource, status: Model) -> None:
        key = key_of(resource)
        if self._built.get(key) != status:
            self._built[key] = status
            self._publisher.status(key, status.to_json())

    def _forget(self, seen: Pass) -> None:
        """Forget objects that are gone, when there are more than there should be."""
        tasks = [*seen.tasks, *(task for task, _ in seen.rivals)]
        if len(self._built) <= 1 + len(tasks) + sum(map(len, seen.versions.values())):
            return
        versions = (version for found in seen.versions.values() for version in found)
        for key in self._built.keys() - {key_of(each) for each in (seen.pool, *tasks, *versions)}:
            del self._built[key]
            self._publisher.forget(key)

    def _report_tasks(self, seen: Pass, decisions: Mapping[str, Decision]) -> None:
        turn = self._task_turn.next([task.name for task in seen.tasks])
        for task in seen.tasks:
            facts = _facts(seen, task)
            if facts != self._facts.get(task.name) or task.name in turn or task.name in decisions:
                self._facts[task.name] = facts
                self._publish(task, task_status(seen, task, self._before(task), decisions.get(task.name)))
        for task, owner in seen.rivals:
            self._publish(task, rival_status(seen, task, self._before(task), owner))
        for name in self._facts.keys() - {task.name for task in seen.tasks}:
            del self._facts[name]

    def _report_versions(self, seen: Pass) -> None:
        changed = set()
        for task in seen.tasks:
            facts = _version_facts(seen, task)
            if facts != self._version_facts.get(task.name):
                self._version_facts[task.name] = facts
                changed.add(task.name)
        for name in self._version_facts.keys() - {task.name for task in seen.tasks}:
            del self._version_facts[name]
        turn = self._version_turn.next([task.name for task in seen.tasks])
        for task in seen.tasks:
            for version in seen.versions[task.name] if task.name in changed or task.name in turn else ():
                self._publish(version, version_status(seen, task, version, self._before(version)))

    def _decisions(self, seen: Pass) -> dict[str, Decision]:
        """The decisions of this pass that changed what a task shall be, with an event for each."""
        changed: dict[str, Decision] = {}
        tasks = {task.name: task for task in seen.tasks}
        targets: dict[tuple[str, str], int] = {}
        told = _remembered(seen) if self._targets is None else self._targets
        for reason in seen.plan.reasons:
            place = (reason.task, reason.server)
            target = seen.target(*place)
            before = told.get(place)
            after = target.active if target else None
            kept = before if after is None else after
            if kept is not None:
                targets[place] = kept
            if after is None or after == before or (before is None and reason.code in QUIET):
                continue
            changed[reason.task] = _decision(seen, reason, before, after)
            self._metrics.decisions.labels(self._label, reason.task, reason.code.value).inc()
            self._publisher.note(Note(key_of(tasks[reason.task]), reason.code.value, reason.sentence))
            logger.info(
                reason.sentence,
                extra={"pool": self._label, "task": reason.task, "server": reason.server, "code": reason.code.value,
                       "from_version": before, "to_version": after},
            )  # fmt: skip
        # A server that is away for a moment has no reasons; what it was told is not news when it is back.
        away = {server.name for server in seen.snapshot.servers if not server.ready}
        targets |= {place: number for place, number in told.items() if place[1] in away and place[0] in tasks}
        self._targets = targets
        return changed

    def _swap_ended(self, task: InferenceTask | None, finished: Finished) -> None:
        outcome, kind = finished.outcome, finished.kind
        name = task.name if task else finished.model
        self._metrics.swaps.labels(self._label, name, kind, outcome.outcome.value).inc()
        logger.log(
            logging.WARNING if kind == REVIVE or not outcome.ok else logging.INFO,
            "%s on %s: %s", name, finished.server, outcome.sentence,
            extra={"pool": self._label, "task": name, "server": finished.server, "kind": kind,
                   "outcome": outcome.outcome.value, "duration_seconds": round(outcome.duration_seconds, 4)},
        )  # fmt: skip
        if outcome.ok:
            self._metrics.swap_duration.labels(self._label, kind).observe(outcome.duration_seconds)
        if task is None or (outcome.ok and kind == STANDBY):
            return
        reason = "SwapFailed" if not outcome.ok else ("Revived" if kind == REVIVE else "Swapped")
        sentence = f"{finished.server}: {outcome.sentence}"
        self._publisher.note(Note(key_of(task), reason, sentence, warning=reason != "Swapped"))

    def _report_health(self, seen: Pass) -> None:
        """Tell the administrators, once, what they should know: metrics, profiles, memory that was dropped."""
        meanwhile = "the last allocation is held" if seen.needs_signals else "the policy does without"
        problem = f"{seen.metrics_problem}; {meanwhile}" if seen.metrics_problem else seen.demand_problem
        if problem and not self._metrics_problem:
            self._tell(seen, "MetricsMissing", problem, warning=True)
        elif self._metrics_problem and not problem:
            self._tell(seen, "MetricsBack", "the signals are fresh again")
        self._metrics_problem = problem
        for server in sorted(seen.doubted - self._doubted):
            sentence = f"{server}: the CPU is far above what the profiles predict; measure the versions again there"
            self._tell(seen, "ProfileNotTrusted", sentence, warning=True)
        self._doubted = seen.doubted
        notes = {*seen.plan.notes, *seen.pool.notes}
        for note in sorted(notes - self._said):
            self._tell(seen, "PolicyNote", note, warning=True)
        self._said = notes

    def _tell(self, seen: Pass, reason: str, sentence: str, *, warning: bool = False) -> None:
        self._publisher.note(Note(key_of(seen.pool), reason, sentence, warning=warning))
        logger.log(logging.WARNING if warning else logging.INFO, sentence, extra={"pool": self._label})

    def _measure(self, seen: Pass) -> None:
        metrics, label = self._metrics, self._label
        plans = {plan.server: plan for plan in seen.plan.servers}
        measured: set[tuple[str, str]] = set()
        for server in seen.snapshot.servers:
            if not server.ready:
                metrics.forget_server(label, server.name)
                continue
            plan = plans.get(server.name)
            set_gauge(metrics.expected_utilization, (label, server.name), plan.expected_utilization if plan else None)
            newest = server.utilization[-1].value if server.utilization and not seen.metrics_problem else None
            set_gauge(metrics.observed_utilization, (label, server.name), newest)
            for task, number in server.active.items():
                measured.add((task, server.name))
                state = seen.states[task]
                metrics.active_version.labels(label, task, server.name).set(number)
                version = next((v for v in state.versions if v.number == number), None)
                value = normalized_accuracy(version, state) if version else None
                set_gauge(metrics.normalized_accuracy, (label, task, server.name), value)
                samples = server.demand.get(task)
                set_gauge(metrics.demand, (label, task, server.name), samples[-1].value if samples else None)
        for task, name in self._measured - measured:
            metrics.forget_task(label, task, name)
        self._measured = measured


class Turn:
    """Goes round a list that may change, some at a time."""

    def __init__(self, share: int) -> None:
        self._share = share
        self._next = 0

    def next(self, names: Sequence[str]) -> frozenset[str]:
        """Return those whose turn it is; all of them while they are few."""
        if len(names) <= self._share:
            return frozenset(names)
        start = self._next % len(names)
        self._next = start + self._share
        return frozenset((*names, *names)[start : start + self._share])


def _facts(seen: Pass, task: InferenceTask) -> object:
    """What must be in a task's status within a second, when it changes."""
    state = seen.state(task)
    # One quiet reason for another says nothing that could not wait for its turn.
    codes = tuple(reason.code for reason in seen.reasons(task.name) if reason.code not in QUIET)
    servers = tuple(
        (
            server.name,
            server.ready,
            server.loaded.get(task.name),
            seen.target(task.name, server.name),
            task.model in seen.workers[server.name].swapping(),
            server.broken.get(task.name),
        )
        for server in seen.servers_of(state)
    )
    return task.metadata.uid, task.metadata.generation, seen.pool.spec.mode, len(state.versions), codes, servers


def _version_facts(seen: Pass, task: InferenceTask) -> object:
    """What must be in the statuses of a task's versions within a second, when it changes."""
    servers = seen.servers_of(seen.state(task))
    return (
        tuple((version.metadata.uid, version.metadata.generation) for version in seen.versions[task.name]),
        tuple(server.available and server.available.get(task.name) for server in servers),
        tuple(each for s in servers for each in seen.workers[s.name].broken.all() if each.model == task.model),
    )


def _remembered(seen: Pass) -> dict[tuple[str, str], int]:
    """What an earlier operator wanted: to want it still is no decision."""
    memory, _ = memories.read(seen.pool.status.policy_memory, seen.snapshot.time_seconds)
    return {(task, name): number for name, server in memory.servers.items() for task, number in server.wanted.items()}


def _decision(seen: Pass, reason: Reason, before: int | None, after: int) -> Decision:
    return Decision(
        time=seen.time,
        code=reason.code.value,
        sentence=reason.sentence[:LONGEST_MESSAGE],
        task=reason.task,
        server=reason.server,
        from_version=before,
        to_version=after,
        numbers={name: value for name, value in reason.numbers.items() if isfinite(value)},
    )
