from __future__ import annotations

import datetime

from rung.api import Condition, ConditionStatus, find_condition, with_conditions

EARLIER = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
LATER = EARLIER + datetime.timedelta(minutes=5)


def condition(kind: str, status: str, time: datetime.datetime, message: str = "") -> Condition:
    return Condition(
        type=kind, status=ConditionStatus(status), reason="Because", message=message, last_transition_time=time
    )


def test_the_transition_time_moves_only_with_the_status() -> None:
    present = (condition("Ready", "True", EARLIER, "old"), condition("Degraded", "False", EARLIER))
    merged = with_conditions(present, [condition("Ready", "True", LATER, "new"), condition("Degraded", "True", LATER)])
    assert find_condition(merged, "Ready") == condition("Ready", "True", EARLIER, "new")
    assert find_condition(merged, "Degraded") == condition("Degraded", "True", LATER)


def test_conditions_of_others_stay_and_the_order_is_fixed() -> None:
    merged = with_conditions([condition("Theirs", "True", EARLIER)], [condition("Ready", "True", LATER)])
    assert [each.type for each in merged] == ["Ready", "Theirs"]
    assert find_condition(merged, "Nobody") is None


def test_the_same_again_is_the_same() -> None:
    first = with_conditions([], [condition("Ready", "True", EARLIER)])
    assert with_conditions(first, [condition("Ready", "True", LATER)]) == first
