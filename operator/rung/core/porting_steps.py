"""What a porting job does next: rounds of the search, publishing, profiling on each class, registering. Pure.

The state is in the cluster alone: which Jobs there are, how they ended, and what their pods reported. So an operator
that starts again goes on where the last one was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class StepKind(StrEnum):
    """What one step does."""

    SEARCH = "search"
    PUBLISH = "publish"
    PROFILE = "profile"
    REGISTER = "register"


@dataclass(frozen=True, slots=True)
class Step:
    """One step, which becomes one Kubernetes Job."""

    kind: StepKind
    round: int = 0
    """Of the search."""
    pods: int = 1
    """How many indexes the Job has."""
    hardware_class: str = ""

    @property
    def key(self) -> str:
        """Tell it from the other steps of the job."""
        if self.kind is StepKind.SEARCH:
            return f"{self.kind}-{self.round}"
        return f"{self.kind}-{self.hardware_class}" if self.hardware_class else self.kind.value


@dataclass(frozen=True, slots=True)
class MadeVersion:
    """One version as the pod that made it reported it."""

    accuracy: float
    flops: int
    method: str
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What one pod said when it ended."""

    made: bool = False
    """Whether it made a trial, with whatever came of it."""
    versions: tuple[MadeVersion, ...] = ()
    failure: str = ""
    """Why no version came of it."""
    over: str = ""
    """Why the search is over, where it is."""


@dataclass(frozen=True, slots=True)
class StepState:
    """A Job as it is now."""

    finished: bool = False
    succeeded: bool = False
    running: bool = False
    message: str = ""
    """What Kubernetes or its pods say."""
    failed_indexes: int = 0
    reports: tuple[Report, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What the steps of a job depend on."""

    trials: int
    parallel: int
    family: int
    """Members of the network's family, trained as they are."""
    classes: tuple[str, ...]

    def rounds(self) -> tuple[Step, ...]:
        """Return the rounds of the search, as many as there can be; it may be over sooner."""
        pods = [1, *([self.family] if self.family else [])]
        full, rest = divmod(self.trials, self.parallel)
        pods += [self.parallel] * full + ([rest] if rest else [])
        return tuple(Step(StepKind.SEARCH, place, count) for place, count in enumerate(pods))


class Verdict(StrEnum):
    """Whether a job goes on."""

    GOES_ON = "GoesOn"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Next:
    """What to do now, and how far the job is."""

    verdict: Verdict
    kind: StepKind
    """The kind of step that it is at."""
    start: tuple[Step, ...] = ()
    message: str = ""


def next_steps(plan: Plan, states: Mapping[str, StepState]) -> Next:
    """Decide what to start, from the Jobs that there are.

    A trial whose pods failed is lost, and no other one; only the unpruned network must not fail. Every class is
    profiled whatever becomes of the others, and what was published is registered.
    """
    return (
        _search(plan, states)
        or _one(Step(StepKind.PUBLISH), states, "the versions on the frontier are checked and uploaded", "publishing")
        or _profile(plan, states)
        or _one(Step(StepKind.REGISTER), states, "ModelVersions are created", "registering")
        or _end(plan, states)
    )


def _search(plan: Plan, states: Mapping[str, StepState]) -> Next | None:
    """Return what the search needs; None once it is over."""
    rounds = plan.rounds()
    lost = 0
    for step in rounds:
        state = states.get(step.key)
        if state is None or not state.finished:
            return _at(step, state, f"round {step.round + 1} of at most {len(rounds)}, {_trials(step)}")
        if step.round == 0 and (not state.succeeded or _failure(state)):
            return Next(Verdict.FAILED, step.kind, message=f"the unpruned network: {_failure(state) or state.message}")
        if any(report.over for report in state.reports):
            break
        lost = 0 if state.succeeded or state.reports else lost + step.pods
        if lost > 1:
            # Not the fault of one trial: S3 is away, or an image can't be pulled. Going on would only lose the others.
            sentence = f"no pod of the last {lost} trials came to an end: {state.message}"
            return Next(Verdict.FAILED, step.kind, message=sentence)
    return None


def _one(step: Step, states: Mapping[str, StepState], message: str, doing: str) -> Next | None:
    """Return what a step that must not fail needs; None once it succeeded."""
    state = states.get(step.key)
    if state is None or not state.finished:
        return _at(step, state, message)
    return None if state.succeeded else Next(Verdict.FAILED, step.kind, message=f"{doing}: {state.message}")


def _profile(plan: Plan, states: Mapping[str, StepState]) -> Next | None:
    """Return what profiling needs, on all classes at the same time; None once each has ended, well or not."""
    steps = [Step(StepKind.PROFILE, hardware_class=name) for name in plan.classes]
    running = [step for step in steps if step.key not in states or not states[step.key].finished]
    if not running:
        return None
    start = tuple(step for step in running if step.key not in states)
    names = ", ".join(step.hardware_class for step in running)
    return Next(Verdict.GOES_ON, StepKind.PROFILE, start, f"versions are measured on {names}")


def _end(plan: Plan, states: Mapping[str, StepState]) -> Next:
    failed = [
        f"{name}: {state.message}"
        for name in plan.classes
        if not (state := states[Step(StepKind.PROFILE, hardware_class=name).key]).succeeded
    ]
    if failed:
        sentence = f"the versions are registered, but profiling failed on {'; '.join(failed)}"
        return Next(Verdict.FAILED, StepKind.PROFILE, message=sentence)
    return Next(Verdict.SUCCEEDED, StepKind.REGISTER, message="the versions are published and registered")


def _at(step: Step, state: StepState | None, message: str) -> Next:
    return Next(Verdict.GOES_ON, step.kind, () if state is not None else (step,), message)


def _trials(step: Step) -> str:
    if step.round == 0:
        return "the unpruned network"
    return "1 trial" if step.pods == 1 else f"{step.pods} trials"


def _failure(state: StepState) -> str:
    return next((report.failure for report in state.reports if report.failure), "")


@dataclass(frozen=True, slots=True)
class Trials:
    """How many trials there were, the unpruned network not counted."""

    planned: int
    made: int
    failed: int


def trials(plan: Plan, states: Mapping[str, StepState]) -> Trials:
    """Count the trials that were made so far."""
    searched = [states[step.key] for step in plan.rounds()[1:] if step.key in states]
    reports = [report for state in searched for report in state.reports if report.made]
    lost = sum(state.failed_indexes for state in searched)
    return Trials(
        planned=plan.trials + plan.family,
        made=len(reports) + lost,
        failed=lost + sum(1 for report in reports if report.failure),
    )


def frontier(plan: Plan, states: Mapping[str, StepState]) -> tuple[MadeVersion, ...]:
    """Return the versions that no other one beats in both accuracy and operations, the most accurate first.

    Once they are published, those that were, with their numbers.
    """
    published = states.get(Step(StepKind.PUBLISH).key)
    if published is not None and published.finished:
        made: Sequence[MadeVersion] = [each for report in published.reports for each in report.versions]
        return tuple(sorted(made, key=lambda each: -each.accuracy))
    steps = [states[step.key] for step in plan.rounds() if step.key in states]
    made = [each for state in steps for report in state.reports for each in report.versions]
    found: list[MadeVersion] = []
    least = math.inf
    for each in sorted(made, key=lambda each: (-each.accuracy, each.flops)):
        if each.flops < least:
            found.append(each)
            least = each.flops
    return tuple(found)
