"""Carries out the porting jobs: looks at their Jobs, starts what is next, and says how far they are.

Level-triggered like the pools' loops: nothing is remembered between two looks but what was told as an event.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import Field, ValidationError

from rung.adapters.jobs import JobPod, JobState
from rung.adapters.kubernetes import Cluster, KubernetesError, Refused
from rung.api import (
    ClassProgress,
    Condition,
    PortedVersion,
    PortingJob,
    PortingJobStatus,
    PortingPhase,
    StepPhase,
    TrialCounts,
    with_conditions,
)
from rung.api.base import Model
from rung.control.porting_manifests import STEP_ANNOTATION, Templates, job_manifest, plan_manifest, selector
from rung.control.publish import Note, Publisher, key_of
from rung.control.statuses import condition_at
from rung.control.view import ClusterView
from rung.core.porting_steps import (
    MadeVersion,
    Next,
    Plan,
    Report,
    Step,
    StepKind,
    StepState,
    Verdict,
    frontier,
    next_steps,
    trials,
)

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 2.0
LONGEST_MESSAGE = 1000
_PHASES = {
    StepKind.SEARCH: PortingPhase.SEARCHING,
    StepKind.PUBLISH: PortingPhase.PUBLISHING,
    StepKind.PROFILE: PortingPhase.PROFILING,
    StepKind.REGISTER: PortingPhase.REGISTERING,
}
_ENDED = {PortingPhase.SUCCEEDED, PortingPhase.FAILED}


class _Words(Model):
    """What a pod of ours leaves as its last words."""

    made: bool = False
    versions: tuple[PortedVersion, ...] = ()
    failure: str = ""
    over: str = ""
    message: str = Field(default="", max_length=4096)


class PortingLoop:
    """All porting jobs of one operator.

    Args:
        view: what is indexed.
        cluster: where Jobs are made.
        publisher: writes statuses and events.
        templates: the chart's pod templates; None where porting is off.
    """

    def __init__(
        self,
        view: ClusterView,
        cluster: Cluster,
        publisher: Publisher,
        templates: Templates | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._view = view
        self._cluster = cluster
        self._publisher = publisher
        self._templates = templates
        self._clock = clock
        self._statuses: dict[str, PortingJobStatus] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            jobs = self._view.all_porting_jobs()
            uids = {job.uid for job in jobs}
            self._statuses = {uid: status for uid, status in self._statuses.items() if uid in uids}
            for job in jobs:
                try:
                    await self._look(job)
                except KubernetesError as error:
                    logger.warning("The porting job %s/%s is looked at again later: %s", job.namespace, job.name, error)
                except Exception:
                    logger.exception("Looking at the porting job %s/%s failed; it goes on", job.namespace, job.name)
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _look(self, job: PortingJob) -> None:
        before = self._statuses.get(job.uid or "", job.status)
        if before.phase in _ENDED:
            return
        if self._templates is None:
            off = "porting is off in this release of the chart: helm upgrade --set porting.enabled=true"
            self._say(job, before.model_copy(update={"message": off}))
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        started = before.start_time or now
        left = job.spec.cluster.deadline.seconds - (now - started).total_seconds()
        jobs = await self._cluster.jobs.list_jobs(job.namespace, selector(job))
        pods = await self._cluster.jobs.list_pods(job.namespace, selector(job))
        plan = plan_of(job)
        states = step_states([each for each in jobs if each.owner_uid == job.uid], pods)
        found = next_steps(plan, states)
        if found.verdict is Verdict.GOES_ON and left <= 0:
            found = Next(Verdict.FAILED, found.kind, message=f"it did not end within {job.spec.cluster.deadline}")
        fault = await self._start(job, [job_manifest(job, step, self._templates, left) for step in found.start])
        if fault:
            found = Next(found.verdict, found.kind, message=fault)
        status = status_of(job, plan, states, found, now).model_copy(update={"start_time": started})
        self._say(job, status.model_copy(update={"conditions": _conditions(job, before, status, now)}))

    async def _start(self, job: PortingJob, manifests: list[dict[str, Any]]) -> str:
        """Create Jobs, and the plan before them. Returns why one could not be created, or nothing."""
        try:
            if manifests:
                await self._cluster.jobs.create(plan_manifest(job))
            created = [await self._cluster.jobs.create(each) for each in manifests]
        except Refused as error:
            return str(error)
        return "" if all(created) else "waits until Jobs of an earlier one of its name are gone"

    def _say(self, job: PortingJob, status: PortingJobStatus) -> None:
        key = key_of(job)
        self._publisher.status(key, status.to_json())
        uid = job.uid or ""
        before = self._statuses.get(uid, job.status)
        self._statuses[uid] = status
        if status.phase is not before.phase:
            warning = status.phase is PortingPhase.FAILED
            self._publisher.note(Note(key, status.phase.value, status.message, warning=warning))


def plan_of(job: PortingJob) -> Plan:
    """Return what the steps of a job depend on."""
    spec = job.spec
    return Plan(
        trials=spec.budget.trials if spec.methods.prune is not None else 0,
        parallel=spec.budget.parallel,
        family=len(spec.methods.family.members) if spec.methods.family is not None else 0,
        classes=tuple(target.hardware_class for target in spec.cluster.profiles),
    )


def step_states(jobs: Iterable[JobState], pods: Iterable[JobPod]) -> dict[str, StepState]:
    """Return each step's state by its key, from its Job and the Job's pods."""
    by_job: dict[str, list[JobPod]] = {}
    for pod in pods:
        by_job.setdefault(pod.job, []).append(pod)
    return {
        job.annotations[STEP_ANNOTATION]: _state(job, by_job.get(job.name, []))
        for job in jobs
        if STEP_ANNOTATION in job.annotations
    }


def _state(job: JobState, pods: list[JobPod]) -> StepState:
    succeeded = [pod for pod in pods if pod.phase == "Succeeded"]
    others = [pod for pod in pods if pod.phase not in ("Succeeded", "Running") and pod.message]
    told = [_words(pod).message for pod in succeeded]
    why = _words(others[-1]).message or " ".join(others[-1].message.split()) if others else ""
    finished = job.complete or job.failed
    if not pods and not finished and not job.active:
        why = f"it has no pod; kubectl describe job {job.name} says why"
    message = "; ".join(filter(None, [why[-LONGEST_MESSAGE:], job.message]))
    return StepState(
        finished=finished,
        succeeded=job.complete,
        running=any(pod.phase == "Running" for pod in pods),
        message=next(filter(None, told), message) if job.complete else message,
        failed_indexes=job.failed_indexes,
        reports=tuple(_report(pod) for pod in sorted(succeeded, key=lambda pod: pod.index)),
    )


def _words(pod: JobPod) -> _Words:
    try:
        return _Words.model_validate(json.loads(pod.message))
    except (ValueError, ValidationError, RecursionError):
        return _Words()


def _report(pod: JobPod) -> Report:
    words = _words(pod)
    versions = tuple(MadeVersion(each.accuracy, each.flops, each.method, each.version) for each in words.versions)
    return Report(words.made, versions, words.failure, words.over)


def status_of(
    job: PortingJob, plan: Plan, states: Mapping[str, StepState], found: Next, now: datetime
) -> PortingJobStatus:
    """Say how far a job is; the start and the conditions are left to who knows the status before."""
    count, along = trials(plan, states), frontier(plan, states)
    ended = found.verdict is not Verdict.GOES_ON
    waits = [state.message for state in states.values() if not state.finished and not state.running and state.message]
    message = found.message + (f"; waits: {waits[0]}" if waits and not ended else "")
    phases = {Verdict.SUCCEEDED: PortingPhase.SUCCEEDED, Verdict.FAILED: PortingPhase.FAILED}
    return PortingJobStatus(
        phase=phases.get(found.verdict, _PHASES[found.kind]),
        message=message[:LONGEST_MESSAGE],
        trials=TrialCounts(planned=count.planned, made=count.made, failed=count.failed),
        versions=len(along),
        frontier=tuple(
            PortedVersion(version=each.number, accuracy=each.accuracy, flops=each.flops, method=each.method)
            for each in along[:64]
        ),
        profiles=tuple(_progress(name, states) for name in plan.classes),
        completion_time=now if ended else None,
        observed_generation=job.metadata.generation,
    )


def _progress(name: str, states: Mapping[str, StepState]) -> ClassProgress:
    state = states.get(Step(StepKind.PROFILE, hardware_class=name).key)
    if state is None:
        return ClassProgress(hardware_class=name, phase=StepPhase.WAITING)
    if state.finished:
        phase = StepPhase.DONE if state.succeeded else StepPhase.FAILED
    else:
        phase = StepPhase.RUNNING if state.running else StepPhase.WAITING
    return ClassProgress(hardware_class=name, phase=phase, message=state.message[:LONGEST_MESSAGE])


def _conditions(
    job: PortingJob, before: PortingJobStatus, status: PortingJobStatus, now: datetime
) -> tuple[Condition, ...]:
    wanted = [
        condition_at(now, kind, status.phase is phase, status.phase.value, status.message, job.metadata.generation)
        for kind, phase in (("Complete", PortingPhase.SUCCEEDED), ("Failed", PortingPhase.FAILED))
    ]
    return with_conditions(before.conditions, wanted)
