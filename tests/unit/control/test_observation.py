"""When the memory was measured that an agent told of."""

from __future__ import annotations

from typing import Any

import pytest

from rung.adapters.agent import Inventory
from rung.control.observation import Observation

NOW = 1_800_000_000.0


@pytest.mark.parametrize(("memory", "measured_at"), [
    ({"ageSeconds": 1.5}, NOW - 1.5),
    ({"ageSeconds": 60}, NOW - 60),
    ({"ageSeconds": -60}, NOW),
    ({}, NOW - 3),
    ({"ageSeconds": None}, NOW - 3),
])  # fmt: skip
def test_memory_was_measured_before_it_was_told(memory: dict[str, Any], measured_at: float) -> None:
    told = Inventory.model_validate({"repository": {"reachable": True}, "disk": {"budgetBytes": 1}, "memory": memory})
    assert Observation(inventory=told, inventory_time_seconds=NOW).memory_time_seconds == measured_at
