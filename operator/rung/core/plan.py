"""What a policy wants: the output of every policy. Plain data; nothing here acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Memory = Mapping[str, object]
"""What a policy must remember between two decisions: small and JSON-serialisable, kept in the pool's status."""


class Code(StrEnum):
    """Why a task is where it is; the machine-readable half of every reason (CamelCase, as Kubernetes has it)."""

    INITIAL = "Initial"  # nothing answered before: first allocation
    STEADY = "Steady"  # nothing to change; the numbers say why
    SETTLING = "Settling"  # too soon after the last change to judge
    STEP_DOWN = "StepDown"
    STEP_UP = "StepUp"
    REBALANCE = "Rebalance"  # same load, better accuracy for today's demand
    PINNED = "Pinned"
    STATIC = "Static"
    AT_BOTTOM = "AtBottom"  # should step down, but there is nothing cheaper
    AT_TOP = "AtTop"
    NO_ROOM = "NoRoom"  # would like to step up, but the next point would pass the goal
    STALE_METRICS = "StaleMetrics"  # signals missing or too old: the last allocation is held
    FALLBACK = "Fallback"  # signals gone for longer than spec.fallback.after
    NO_VERSIONS = "NoVersions"  # no version may be served: none registered, above the floor, on the server and unbroken
    RESTORED = "Restored"  # the server lost its allocation (restart) and gets it back
    REPLACED = (
        "Replaced"  # what answers may not be served any more (floor, maxMetric, withdrawn, beaten): its neighbour
    )
    VERSION_UNAVAILABLE = "VersionUnavailable"  # the wanted version is broken or not on the server: next best taken


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one task on one server is where it is: a code, the numbers that decided, one plain sentence for a person."""

    task: str
    server: str
    code: Code
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """The version that shall answer, and the versions to keep loaded beside it (nearest first)."""

    active: int
    standby: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """The wanted allocation of one server. A task without a target is left as it is."""

    server: str
    targets: Mapping[str, Target]
    expected_utilization: float | None = None
    """What the profiles predict for this allocation at today's demand, 0 to 1 and above; None without profiles."""
    profile_trusted: bool = True
    """False when the observed CPU is so far above the prediction that the profile can't be trusted."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """By task: this server's weight where requests are spread over servers; 1 where it is not named."""
    apply: frozenset[str] = frozenset()
    """The tasks whose targets are to be acted on; the other targets are recommendations."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The wanted allocation of a pool, with exactly one reason for every (server, task) that was considered."""

    servers: tuple[ServerPlan, ...]
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...] = ()
    """What the administrator should know beside the reasons (memory that could not be read), a sentence each."""
