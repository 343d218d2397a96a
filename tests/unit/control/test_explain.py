"""What people read: a table of tasks, and one task with its reasons."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rung.adapters.kubernetes import EventRecord
from rung.api import InferenceTask, InvalidObject, ModelVersion, parse_task, parse_version
from rung.control.explain import no_such_task, render_task, render_tasks

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def _condition(kind: str, status: str, message: str, reason: str = "StepDown") -> dict[str, Any]:
    moment = (NOW - timedelta(minutes=5)).isoformat()
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": moment}


STATUS: dict[str, Any] = {
    "activeVersion": 1095000,
    "targetVersion": 1095000,
    "accuracy": 0.95,
    "normalizedAccuracy": 0.9693877,
    "demand": 41.5,
    "conditions": [
        _condition("Ready", "True", "CPU averaged 82 %: digits steps down."),
        _condition("Degraded", "False", ""),
    ],
    "servers": [{"name": "triton-0", "active": 1095000, "standby": [1090000], "phase": "Serving"}],
    "observedGeneration": 3,
}  # fmt: skip


def _task(spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None) -> InferenceTask:
    return parse_task(
        {
            "metadata": {"namespace": "n", "name": "digits", "generation": 3},
            "spec": {"poolRef": {"name": "edge"}, "slo": {"latency": "400ms"}, **(spec or {})},
            "status": STATUS if status is None else status,
        }
    )


def _version(number: int, accuracy: float, **status: Any) -> ModelVersion:
    return parse_version(
        {
            "metadata": {"namespace": "n", "name": f"digits-{number}"},
            "spec": {
                "taskRef": {"name": "digits"},
                "version": number,
                "artifact": {"uri": "s3://models/m", "sha256": "0" * 64, "bytes": 1},
                "accuracy": {"value": accuracy},
                "profiles": [{"hardwareClass": "pi", "sloLatency": "400ms", "maxThroughput": 12.5}],
                "lineage": {"method": "l1"},
            },
            "status": status,
        }
    )


VERSIONS = [
    _version(1090000, 0.90),
    _version(1095000, 0.95),
    _version(1098000, 0.98, brokenOn=[{"server": "triton-0", "message": "no network"}], dominatedBy="digits-1099000"),
]


def test_a_task_as_a_whole() -> None:
    events = [
        EventRecord("StepDown", "digits steps down.", False, NOW, NOW - timedelta(seconds=30), 1),
        EventRecord("Swapped", "triton-0: done", False, NOW, NOW - timedelta(hours=3), 4),
    ]
    assert render_task(_task(), VERSIONS, events, NOW).splitlines() == [
        "n/digits: version 1095000 answers, accuracy 95.00% (96.94% of the best), "
        "41.5 inferences/s asked for",
        "  Pool edge, mode Auto",
        "  Why: CPU averaged 82 %: digits steps down.",
        "",
        "Servers:",
        "  triton-0  Serving  version 1095000, standing by: 1090000",
        "",
        "Versions, the most accurate first (3; > answers, + stands by):",
        "    1098000  98.00%  12.5/s  l1  broken on triton-0: no network; "
        "never chosen: digits-1099000 is at least as accurate and as fast",
        "  > 1095000  95.00%  12.5/s  l1",
        "  + 1090000  90.00%  12.5/s  l1",
        "",
        "Last decisions and swaps, the newest at the end:",
        "    30 s ago  StepDown: digits steps down.",
        "     3 h ago  Swapped: triton-0: done (4 times)",
    ]  # fmt: skip


def test_a_task_that_nobody_looked_at() -> None:
    text = render_task(_task(status={}), [], [], NOW)
    assert "no version answers" in text
    assert "No operator has looked at it yet" in text
    assert "taskRef.name: digits" in text
    assert text.endswith("none yet")


def test_what_is_wrong_is_told_with_its_time() -> None:
    degraded = [_condition("Degraded", "True", "version 4: no network", "VersionBroken")]
    text = render_task(_task(status={**STATUS, "conditions": degraded}), VERSIONS, [], NOW)
    assert "Degraded is True for 5 m (VersionBroken): version 4: no network" in text


def test_modes_and_a_swap_under_way() -> None:
    pinned = _task({"mode": "Pinned", "pinnedVersion": 1090000}, {**STATUS, "targetVersion": 1090000})
    text = render_task(pinned, VERSIONS, [], NOW)
    assert "version 1095000 answers and 1090000 shall" in text
    assert "mode Pinned: version 1090000 shall answer" in text
    recommended = _task({"mode": "Recommend"}, {**STATUS, "targetVersion": None, "recommendedVersion": 1098000})
    assert "it would be version 1098000" in render_task(recommended, VERSIONS, [], NOW)


def test_a_spec_that_the_operator_has_not_seen() -> None:
    text = render_task(_task(status={**STATUS, "observedGeneration": 2}), VERSIONS, [], NOW)
    assert "has not seen the newest spec" in text


def test_the_table_has_the_reason_last() -> None:
    title, row = render_tasks([_task()], [], "n").splitlines()
    assert title.split() == ["TASK", "POOL", "MODE", "ACTIVE", "ACCURACY", "OF", "BEST", "DEMAND/S", "WHY"]
    assert row.split(maxsplit=7) == [
        "digits", "edge", "Auto", "1095000", "95.00%", "96.94%", "41.5", "CPU averaged 82 %: digits steps down.",
    ]  # fmt: skip
    assert title.index("WHY") == row.index("CPU")


def test_no_tasks_and_unreadable_ones() -> None:
    invalid = InvalidObject("InferenceTask", "n", "old", "spec.slo", "is missing")
    assert render_tasks([], [invalid], "n").splitlines() == [
        "namespace n has no InferenceTask",
        "not followed: InferenceTask n/old: spec.slo: is missing",
    ]


def test_a_wrong_name_gets_the_nearest_ones() -> None:
    assert no_such_task("digit", "n", ["parity", "digits"]) == "namespace n has no InferenceTask digit; there is digits"
    assert "there is a, b" in no_such_task("zebra", "n", ["b", "a"])
    assert "-n NAMESPACE" in no_such_task("digits", "n", [])
