"""Objects as they may come: good, old, hand-edited, hostile."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from rung.api import (
    Duration,
    InfaasParameters,
    InfadapterParameters,
    InferenceTask,
    InvalidObject,
    Metadata,
    PolicyName,
    ProteusParameters,
    StepwiseMetric,
    StepwiseParameters,
    TaskMode,
    parse_pool,
    parse_task,
    parse_version,
)

BUSY = settings(deadline=None, max_examples=60)  # the machine has other work
TASK: dict[str, Any] = {
    "metadata": {"name": "digits", "namespace": "edge", "uid": "u1", "generation": 3, "labels": {"a": "b"}},
    "spec": {"poolRef": {"name": "p"}, "slo": {"latency": "400ms"}},
}
VERSION: dict[str, Any] = {
    "metadata": {"name": "digits-1", "namespace": "edge"},
    "spec": {
        "taskRef": {"name": "digits"},
        "version": 1,
        "artifact": {"uri": "s3://models/k", "sha256": "0" * 64, "bytes": 1},
        "accuracy": {"value": 0.5},
    },
}
POOL: dict[str, Any] = {
    "metadata": {"name": "p", "namespace": "edge"},
    "spec": {"serverSelector": {"rung.dev/pool": "p"}, "metrics": {"prometheusUrl": "http://prometheus"}},
}


def with_spec(raw: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**raw, "spec": {**raw["spec"], **fields}}


def test_a_task() -> None:
    task = parse_task({**TASK, "status": {"activeVersion": 7, "lastDecision": None}})
    assert (task.name, task.namespace, task.metadata.uid, task.metadata.generation) == ("digits", "edge", "u1", 3)
    assert task.model == "digits"
    assert task.spec.mode is TaskMode.AUTO
    assert task.spec.slo.latency.seconds == 0.4
    assert task.status.active_version == 7
    assert task.notes == ()
    assert parse_task(with_spec(TASK, model="other")).model == "other"


def test_the_defaults_of_the_papers() -> None:
    pool = parse_pool(POOL)
    assert pool.spec.policy.name is PolicyName.FRONTIER
    parameters = StepwiseParameters()
    assert [duration.seconds for duration in (parameters.settle, parameters.judge, parameters.up_after)] == [15, 10, 30]
    assert (parameters.down_above, parameters.up_below, parameters.goal) == (0.7, 0.5, 0.65)
    assert (parameters.min_reduction, parameters.trust) == (0.4, 1.2)
    assert parameters.metric is StepwiseMetric.INVERSE_THROUGHPUT
    assert pool.spec.interval.seconds == 1
    assert (pool.spec.standby.below, pool.spec.rollout.max_concurrent) == (None, 1)
    infadapter = InfadapterParameters()
    assert (infadapter.alpha, infadapter.beta, infadapter.reserve, infadapter.margin) == (0.05, 0.001, 0.8, 0.1)
    assert (infadapter.every.seconds, infadapter.first_after.seconds, infadapter.agreeing) == (30, 120, 4)
    assert ProteusParameters().every.seconds == 10
    assert InfaasParameters().quiet_votes == 10


@pytest.mark.parametrize(
    ("status", "where"),
    [
        ({"servers": "none"}, "status.servers: must be a list"),
        ({"servers": [{"name": "t", "phase": "Dancing"}]}, r"status.servers\[0\].phase: Input should be 'Pending'"),
        ({"activeVersion": "7"}, "status.activeVersion: "),
        ({"accuracy": 98.8}, "status.accuracy: "),
        ({"lastDecision": {"time": "yesterday"}}, r"status.lastDecision.time: .*\(and 2 more\)"),
        ("gone", "status: must be an object"),
        ([], "status: must be an object"),
    ],
)
def test_a_status_that_can_not_be_read_does_not_hide_the_object(status: Any, where: str) -> None:
    task = parse_task({**TASK, "status": status})
    assert task.status.active_version is None
    [note] = task.notes
    assert note.startswith("the status is dropped, it can't be read: ")
    assert re.search(where, note)


@pytest.mark.parametrize(
    ("raw", "field", "sentence"),
    [
        (with_spec(TASK, slo={}), "spec.slo.latency", "is missing"),
        (
            with_spec(TASK, slo={"latency": "400"}),
            "spec.slo.latency",
            "'400' is not understood; write for example 400ms",
        ),
        (with_spec(TASK, mode="Pinned"), "spec", "pinnedVersion is needed when mode is Pinned"),
        (with_spec(TASK, mode="Manual"), "spec.mode", "Input should be 'Auto', 'Recommend' or 'Pinned'"),
        (with_spec(TASK, weight=True), "spec.weight", "valid number"),
        (with_spec(TASK, weight="1"), "spec.weight", "valid number"),
        (with_spec(TASK, weight=float("nan")), "spec.weight", "finite number"),
        (with_spec(TASK, serverSelector=["a"]), "spec.serverSelector", "must be an object"),
        ({"metadata": TASK["metadata"]}, "spec", "is missing"),
        ({"metadata": TASK["metadata"], "spec": None}, "spec", "is missing"),
        ({"metadata": TASK["metadata"], "spec": "x"}, "spec", "must be an object"),
        ({"metadata": {"namespace": "edge"}, "spec": {}}, "metadata.name", "is missing"),
        ({"spec": {}}, "metadata", "must be an object"),
        ({"metadata": [], "spec": {}}, "metadata", "must be an object"),
        ({}, "metadata", "must be an object"),
    ],
)
def test_a_bad_task_gives_one_clear_error(raw: dict[str, Any], field: str, sentence: str) -> None:
    with pytest.raises(InvalidObject) as caught:
        parse_task(raw)
    error = caught.value
    assert error.kind == "InferenceTask"
    assert error.field == field
    assert sentence in error.sentence
    assert str(error) == f"InferenceTask {error.namespace}/{error.name}: {field}: {error.sentence}"
    assert error.namespace == (raw.get("metadata") or {"namespace": "?"})["namespace"]


@pytest.mark.parametrize("raw", [None, 3, "task", [], [("metadata", 1)]])
def test_what_is_no_object_at_all(raw: Any) -> None:
    with pytest.raises(InvalidObject, match=r"ServingPool \?/\?: metadata: must be an object"):
        parse_pool(raw)


def test_profiles_of_one_class_twice() -> None:
    profile = {"hardwareClass": "n100", "sloLatency": "1s", "maxThroughput": 1}
    with pytest.raises(InvalidObject, match="one element for each hardwareClass"):
        parse_version(with_spec(VERSION, profiles=[profile, profile]))


def test_fields_of_a_later_release_are_dropped() -> None:
    raw = copy.deepcopy(TASK)
    raw["spec"]["slo"]["percentile"] = 99
    raw["spec"]["budget"] = {"cpu": 1}
    raw["metadata"]["managedFields"] = []
    assert parse_task(raw).spec == parse_task(TASK).spec


def test_a_manifest_is_what_the_owner_would_write() -> None:
    version = parse_version(VERSION)
    manifest = version.to_manifest()
    assert manifest["metadata"] == {"name": "digits-1", "namespace": "edge"}
    assert manifest["kind"] == "ModelVersion"
    assert "status" not in manifest
    assert version.to_manifest(with_status=True)["status"] == {"conditions": [], "onFrontierFor": [], "brokenOn": []}
    assert parse_version(manifest) == version


def test_python_names_and_json_names_both_work() -> None:
    task = InferenceTask(
        metadata=Metadata(name="digits", namespace="edge"),
        spec={"pool_ref": {"name": "p"}, "slo": {"latency": Duration("400ms")}, "min_accuracy": 0.5},
    )
    assert task.to_manifest()["spec"]["minAccuracy"] == 0.5
    assert parse_task(task.to_manifest()) == task


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    [
        *("poolRef", "slo", "mode", "pinnedVersion", "demand", "weight", "serverSelector", "policy", "interval"),
        *("metrics", "standby", "rollout", "taskRef", "version", "artifact", "accuracy", "profiles", "lineage"),
    ]
)


@BUSY
@given(st.sampled_from(["task", "version", "pool"]), st.dictionaries(_FIELDS, _JSON, max_size=3), _JSON)
def test_whatever_comes_is_an_object_or_an_invalid_object(kind: str, spec: dict[str, Any], status: Any) -> None:
    read, base = {"task": (parse_task, TASK), "version": (parse_version, VERSION), "pool": (parse_pool, POOL)}[kind]
    try:
        found = read({**with_spec(base, **spec), "status": status})
    except InvalidObject as error:
        said = str(error)
        event("refused")
    else:
        said = ""
        event("read")
        assert read(found.to_manifest(with_status=True)).spec == found.spec
    assert said == "" or f" edge/{base['metadata']['name']}: spec" in said
