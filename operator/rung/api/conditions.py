"""Conditions, as Kubernetes has them, and the decision record that all three statuses share."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from rung.api.base import Count, Model, Number, Text, VersionNumber, keyed_list


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


ConditionType = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
ReasonCode = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]


class Condition(Model):
    """One observation of the object's state."""

    type: ConditionType
    """Which aspect this is about, in CamelCase."""
    status: ConditionStatus
    """Whether it holds: True, False or Unknown."""
    reason: ReasonCode
    """Why, as one CamelCase word for programs."""
    message: Text = ""
    """Why, as a sentence for people, with the numbers."""
    last_transition_time: AwareDatetime
    """When the status last changed."""
    observed_generation: Count | None = None
    """The generation of the spec that this was judged for."""


Conditions = Annotated[tuple[Condition, ...], keyed_list("type", 16)]
"""Conditions by type, at most one of each."""


def with_conditions(present: Iterable[Condition], wanted: Iterable[Condition]) -> tuple[Condition, ...]:
    """Merge conditions by type; one whose status did not change keeps its transition time. Sorted by type."""
    merged = {condition.type: condition for condition in present}
    for condition in wanted:
        before = merged.get(condition.type)
        same = before is not None and before.status == condition.status
        merged[condition.type] = (
            condition.model_copy(update={"last_transition_time": before.last_transition_time})
            if before is not None and same
            else condition
        )
    return tuple(merged[kind] for kind in sorted(merged))


def find_condition(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """Return the condition of that type, or None."""
    return next((condition for condition in conditions if condition.type == kind), None)


class Decision(Model):
    """What Rung last decided, and why."""

    time: AwareDatetime
    """When it was decided."""
    code: ReasonCode
    """Why, as one CamelCase word for programs (StepDown, Steady, StaleMetrics, ...)."""
    sentence: Text
    """Why, as a sentence for people."""
    task: str | None = None
    """The task it is about, where the object is not the task itself."""
    server: str | None = None
    """The server it is about; absent when it holds for all."""
    from_version: Annotated[VersionNumber | None, Field(alias="from")] = None
    """The version that answered before; absent when none did."""
    to_version: Annotated[VersionNumber | None, Field(alias="to")] = None
    """The version that shall answer; absent when there is none."""
    numbers: Annotated[dict[str, Number], Field(max_length=32)] = Field(default={})
    """The numbers that decided, by name."""
