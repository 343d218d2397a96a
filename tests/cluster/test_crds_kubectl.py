"""What a person sees of the CRDs: columns, explain texts, short names. Through a real API server and kubectl."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Any

import pytest

from rung.api import (
    BrokenServer,
    ClassProgress,
    Condition,
    ConditionStatus,
    Cpu,
    Decision,
    FrontierStatus,
    InferenceTaskStatus,
    ModelVersionStatus,
    PoolServerPhase,
    PoolServerStatus,
    PortedVersion,
    PortingJobStatus,
    PortingPhase,
    ServerPhase,
    ServingPoolStatus,
    StepPhase,
    TaskServerStatus,
    TrialCounts,
)
from rung.api.base import Model
from rung.api.parse import KINDS
from servers.apiserver import ApiServer
from servers.manifests import manifest

pytestmark = pytest.mark.cluster

NOW = datetime.datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=datetime.UTC)


def condition(kind: str, status: ConditionStatus = ConditionStatus.TRUE) -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason="AsExpected",
        message="it does",
        last_transition_time=NOW,
        observed_generation=1,
    )


DECISION = Decision(
    time=NOW,
    code="StepDown",
    sentence="CPU was 82 % for 10 s, above 70 %: digits steps from 98.8 % to 96.1 %",
    task="digits",
    server="triton-0",
    from_version=1_098_820,
    to_version=1_096_100,
    numbers={"cpu": 0.82, "limit": 0.7},
)
STATUSES: dict[str, Model] = {
    "InferenceTask": InferenceTaskStatus(
        conditions=(condition("Ready"), condition("Degraded", ConditionStatus.FALSE)),
        active_version=1_096_100,
        target_version=1_096_100,
        recommended_version=1_094_000,
        accuracy=0.961,
        normalized_accuracy=0.9725,
        demand=12.5,
        frontier=FrontierStatus(
            count=5,
            best_version=1_098_820,
            best_accuracy=0.9882,
            cheapest_version=1_081_000,
            cheapest_accuracy=0.81,
            throughput_ratio=9.1,
        ),
        servers=(
            TaskServerStatus(
                name="triton-0", active=1_096_100, standby=(1_094_000,), phase=ServerPhase.SERVING, message="serves"
            ),
        ),
        last_decision=DECISION,
        observed_generation=1,
    ),
    "ModelVersion": ModelVersionStatus(
        conditions=(condition("OnFrontier"), condition("Available", ConditionStatus.UNKNOWN)),
        on_frontier_for=("rpi5", "n100"),
        dominated_by="digits-2",
        broken_on=(BrokenServer(server="triton-0", message="garbage", failures=3, retry_after=NOW),),
        observed_generation=1,
    ),
    "PortingJob": PortingJobStatus(
        conditions=(condition("Complete", ConditionStatus.FALSE), condition("Failed", ConditionStatus.FALSE)),
        phase=PortingPhase.PROFILING,
        message="versions are measured on rpi5",
        trials=TrialCounts(planned=4, made=4, failed=1),
        versions=1,
        frontier=(PortedVersion(version=1_096_100, accuracy=0.961, flops=1000, method="base"),),
        profiles=(ClassProgress(hardware_class="rpi5", phase=StepPhase.RUNNING, message="2 measured"),),
        start_time=NOW,
        completion_time=NOW,
        observed_generation=1,
    ),
    "ServingPool": ServingPoolStatus(
        conditions=(condition("Ready"),),
        servers=(
            PoolServerStatus(
                name="triton-0",
                node="edge-1",
                hardware_class="rpi5",
                capacity=Cpu("500m"),
                utilization=0.82,
                expected_utilization=0.6,
                phase=PoolServerPhase.SERVING,
                message="serves",
            ),
        ),
        ready_servers=1,
        tasks=2,
        utilization=0.82,
        expected_utilization=0.6,
        policy_memory={"changed": 1.5, "nothing": None, "points": [1]},
        last_decision=DECISION,
        observed_generation=1,
    ),
}
PROFILE = {"hardwareClass": "rpi5", "sloLatency": "400ms", "maxThroughput": 31.5}
CHANGES: dict[str, dict[str, Any]] = {"ModelVersion": {"profiles": [PROFILE]}}


@pytest.fixture(params=STATUSES)
def reported(request: pytest.FixtureRequest, api_server: ApiServer, namespace: str) -> tuple[str, str]:
    """An object with everything in its status; returns its kind and namespace."""
    kind = str(request.param)
    plural = next(model.NAMES.plural for model in KINDS if model.NAMES.kind == kind)
    path = f"/apis/rung.dev/v1alpha1/namespaces/{namespace}/{plural}"
    status, body = api_server.send("POST", path, manifest(kind, namespace, **CHANGES.get(kind, {})))
    assert status == 201, body
    wanted = STATUSES[kind].to_json()
    status, body = api_server.send("PUT", f"{path}/one/status?fieldValidation=Strict", {**body, "status": wanted})
    assert status == 200, body
    assert body["status"] == wanted  # nothing pruned, nothing added
    return kind, namespace


def table(text: str) -> dict[str, str]:
    """Read the table that kubectl prints for one object."""
    header, row = text.splitlines()
    starts = [(match.start(), match.group()) for match in re.finditer(r"\S+", header)]
    ends = [start for start, _ in starts[1:]] + [len(row)]
    return {name: row[start:end].strip() for (start, name), end in zip(starts, ends, strict=True)}


COLUMNS = {
    "InferenceTask": {
        "NAME": "one",
        "POOL": "edge",
        "ACTIVE": "1096100",
        "ACCURACY": "0.961",
        "NORM": "0.9725",
        "DEMAND": "12.5",
        "READY": "True",
        "REASON": "StepDown",
    },
    "ModelVersion": {
        "NAME": "one",
        "TASK": "digits",
        "VERSION": "1098820",
        "ACCURACY": "0.9882",
        "THROUGHPUT": "31.5",
        "METHOD": "base",
        "FRONTIER": "True",
    },
    "PortingJob": {"NAME": "one", "TASK": "digits", "PHASE": "Profiling", "TRIALS": "4", "VERSIONS": "1"},
    "ServingPool": {
        "NAME": "one",
        "POLICY": "Frontier",
        "MODE": "Auto",
        "SERVERS": "1",
        "TASKS": "2",
        "CPU": "0.82",
        "READY": "True",
        "REASON": "StepDown",
    },
}
WIDE = {
    "InferenceTask": {"TARGET": "1096100", "MODE": "Auto", "WHY": DECISION.sentence},
    "ModelVersion": {"AVAILABLE": "Unknown", "DOMINATED-BY": "digits-2"},
    "PortingJob": {"MESSAGE": "versions are measured on rpi5"},
    "ServingPool": {"EXPECTED": "0.6", "WHY": DECISION.sentence},
}


def test_columns(reported: tuple[str, str], api_server: ApiServer) -> None:
    kind, namespace = reported
    short_name = next(model.NAMES.short for model in KINDS if model.NAMES.kind == kind)
    narrow = table(api_server.kubectl("get", short_name, "-n", namespace))
    assert re.fullmatch(r"\d+s", narrow.pop("AGE"))
    assert narrow == COLUMNS[kind]
    wide = table(api_server.kubectl("get", short_name, "-n", namespace, "-o", "wide"))
    wide.pop("AGE")
    assert wide == {**COLUMNS[kind], **WIDE[kind]}


def test_the_category_lists_all_kinds(api_server: ApiServer, namespace: str) -> None:
    for kind in STATUSES:
        api_server.kubectl("create", "-f", "-", manifest=manifest(kind, namespace))
    names = api_server.kubectl("get", "rung", "-n", namespace, "-o", "name").split()
    assert sorted(names) == [f"{model.NAMES.singular}.rung.dev/one" for model in KINDS]


def _properties(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from _properties(field, f"{path}.{name}")
        yield from _properties(field.get("items", {}), f"{path}.{name}")


@pytest.mark.parametrize("model", KINDS, ids=lambda model: model.NAMES.kind)
def test_every_field_is_explained(model: Any, api_server: ApiServer) -> None:
    # kubectl explain prints what stands in this document; asking it for each of 150 fields would take a minute.
    status, document = api_server.send("GET", "/openapi/v3/apis/rung.dev/v1alpha1")
    assert status == 200
    schema = document["components"]["schemas"][f"dev.rung.v1alpha1.{model.NAMES.kind}"]
    fields = {path: field for path, field in _properties(schema, model.NAMES.singular) if ".metadata" not in path}
    assert len(fields) > 40
    assert {path for path, field in fields.items() if not field.get("description", "").strip()} == set()
    assert schema["description"].strip()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("itask", "One question that clients ask of a model."),
        ("itask.spec.slo.latency", "An answer must arrive within this time, for example 400ms."),
        ("itask.status.lastDecision.from", "The version that answered before; absent when none did."),
        ("mver.spec.profiles.latency.p95", "95 of 100 answers came within this time."),
        ("mver.status.brokenOn.retryAfter", "When it is tried again."),
        ("spool.spec.policy.stepwise.upAfter", "Time since the last change before a step up"),
        ("spool.status.policyMemory", "What the policy must remember between two decisions."),
    ],
)
def test_explain(path: str, text: str, api_server: ApiServer) -> None:
    assert text in " ".join(api_server.kubectl("explain", path).split())
