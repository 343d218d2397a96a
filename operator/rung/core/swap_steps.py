"""The order of a swap: which sets of versions to ask a server for, one after the other.

A server answers with the highest version that is loaded. So a version below becomes the one that answers when what is
above it goes, and a version above it as soon as it is ready. Each step either only adds or only drops: at every moment
something that was loaded before still is, and what answers is the old version or the new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rung.core.plan import Target


class Purpose(StrEnum):
    """Why a step is taken."""

    FREE = "Free"  # drop standbys, to make room for the version that shall answer
    READY = "Ready"  # load the version that shall answer, beside what answers
    SWITCH = "Switch"  # drop what is above it, and what is not wanted
    STANDBY = "Standby"  # load one standby


@dataclass(frozen=True, slots=True)
class Step:
    """One request to the server: have exactly these versions loaded."""

    purpose: Purpose
    versions: frozenset[int]


def wanted_versions(target: Target) -> frozenset[int]:
    """Return what stays loaded: the active version and the standbys below it.

    A standby above the active version would answer instead of it, so it isn't kept.
    """
    return frozenset({target.active, *(number for number in target.standby if number < target.active)})


def plan_steps(loaded: frozenset[int], target: Target, *, free_first: bool = False) -> tuple[Step, ...]:
    """Return the steps from what is loaded to the target, () when there is nothing to do.

    `free_first` drops the standbys before the new version is loaded, for a server that is short of memory.
    """
    steps: list[Step] = []
    wanted = wanted_versions(target)
    current = loaded

    def take(purpose: Purpose, versions: frozenset[int]) -> None:
        nonlocal current
        if versions != current:
            steps.append(Step(purpose, versions))
            current = versions

    if target.active not in current:
        if free_first and current:
            take(Purpose.FREE, frozenset({max(current)}))
        take(Purpose.READY, current | {target.active})
    take(Purpose.SWITCH, current & wanted)
    for number in target.standby:
        if number in wanted:
            take(Purpose.STANDBY, current | {number})
    return tuple(steps)
