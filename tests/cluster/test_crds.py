"""The CRDs against a real API server: each rule with an object that passes and one that is refused."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from rung.api import InvalidObject
from rung.api.crd import custom_resource_definition
from rung.api.parse import KINDS, parse
from servers.apiserver import ApiServer
from servers.manifests import ABSENT, SHA256, manifest

pytestmark = pytest.mark.cluster

MODELS = {model.NAMES.kind: model for model in KINDS}
TASK, VERSION, PORTING, POOL = "InferenceTask", "ModelVersion", "PortingJob", "ServingPool"
PROFILE = {"hardwareClass": "rpi5", "sloLatency": "400ms", "maxThroughput": 31.5}
TARGET = {"hardwareClass": "rpi5", "sloLatency": "400ms"}
LATENCY = {"p50": "2ms", "p95": "2ms", "p99": "9.5ms"}

Changes = dict[str, Any]

# Each row: the kind, changes that pass, changes that are refused, and what the API server says.
RULES: list[tuple[str, Changes, Changes, str]] = [
    (TASK, {"mode": "Pinned", "pinnedVersion": 1}, {"mode": "Pinned"}, "pinnedVersion is needed when mode is Pinned"),
    (
        TASK,
        {"mode": "Auto", "pinnedVersion": None},
        {"mode": "Recommend", "pinnedVersion": 1},
        "pinnedVersion is only allowed when mode is Pinned",
    ),
    (
        TASK,
        {"demand": {"source": "Declared", "rate": 12.5}},
        {"demand": {"source": "Declared", "rate": None}},
        "rate is needed when source is Declared",
    ),
    (TASK, {"demand": {}}, {"demand": {"rate": 0}}, "rate is only allowed when source is Declared"),
    (TASK, {"slo__latency": "1us"}, {"slo__latency": "0ms"}, "must be longer than 0s"),
    (
        VERSION,
        {"artifact__uri": "s3://models/a.b/..c/model.onnx"},
        {"artifact__uri": "s3://models/a/../model.onnx"},
        "must name one object, without '..'",
    ),
    (
        VERSION,
        {"artifact__uri": "s3://models/m"},
        {"artifact__uri": "s3://models/digits/"},
        "must name one object, without '..'",
    ),
    (
        VERSION,
        {"profiles": [{**PROFILE, "latency": LATENCY}]},
        {"profiles": [{**PROFILE, "latency": {**LATENCY, "p95": "1ms"}}]},
        "p50, p95 and p99 must not fall",
    ),
    (
        VERSION,
        {"profiles": [{**PROFILE, "loadTime": "1.5s"}]},
        {"profiles": [{**PROFILE, "loadTime": "0s"}]},
        "must be longer than 0s",
    ),
    (POOL, {"interval": "500ms"}, {"interval": "0h0.0s"}, "must be longer than 0s"),
    (
        POOL,
        {"policy": {"name": "Static", "static": {"choice": "Cheapest"}}},
        {"policy": {"name": "Stepwise", "static": {"choice": "Cheapest"}}},
        "static is only allowed when name is Static",
    ),
    (
        POOL,
        {"policy": {"name": "Stepwise", "stepwise": {"metric": "Flops"}, "static": None}},
        {"policy": {"name": "Static", "stepwise": {}}},
        "stepwise is only allowed when name is Stepwise",
    ),
    (
        POOL,
        {"policy": {"name": "Static", "static": {"choice": "Version", "versions": {"digits": 3}}}},
        {"policy": {"name": "Static", "static": {"choice": "Version"}}},
        "versions is needed when choice is Version",
    ),
    (
        POOL,
        {"policy": {"name": "Static", "static": {"versions": {}}}},
        {"policy": {"name": "Static", "static": {"versions": {"digits": 3}}}},
        "versions is only allowed when choice is Version",
    ),
    (
        POOL,
        {"policy": {"name": "Stepwise", "stepwise": {"upBelow": 0.69}}},
        {"policy": {"name": "Stepwise", "stepwise": {"upBelow": 0.7}}},
        "upBelow must be below downAbove",
    ),
    (
        POOL,
        {"policy": {"name": "Stepwise", "stepwise": {"downAbove": 0.9, "goal": 0.85}}},
        {"policy": {"name": "Stepwise", "stepwise": {"goal": 0.85}}},
        "goal must be below downAbove",
    ),
    (
        POOL,
        {"policy": {"name": "Stepwise", "stepwise": {"judge": "2m"}}},
        {"policy": {"name": "Stepwise", "stepwise": {"judge": "121s"}}},
        "judge must not be longer than 2m",
    ),
    (
        POOL,
        {"policy": {"name": "Stepwise", "stepwise": {"judge": "1s"}}},
        {"policy": {"name": "Stepwise", "stepwise": {"judge": "999ms"}}},
        "judge must be 1s or longer",
    ),
    (
        TASK,
        {"name": "digits.v1", "model": "digits"},
        {"name": "digits.v1"},
        "this object's name can't name a model (at most 63 of a-z, 0-9 and -): give spec.model",
    ),
    (
        TASK,
        {"name": "a" * 63},
        {"name": "a" * 64},
        "this object's name can't name a model (at most 63 of a-z, 0-9 and -): give spec.model",
    ),
    (
        POOL,
        {"policy": {"name": "Stepwise", "stepwise": {"settle": "30s"}}},
        {"policy": {"name": "Stepwise", "stepwise": {"settle": "1m"}}},
        "settle must not be longer than upAfter",
    ),
    (
        POOL,
        {"policy": {"name": "Frontier", "frontier": {"lateShare": 0.01}}},
        {"policy": {"name": "ModelSwitching", "frontier": {}}},
        "frontier is only allowed when name is Frontier",
    ),
    (
        POOL,
        {"policy": {"name": "InFaaS", "infaas": {"quietVotes": 3}}},
        {"policy": {"name": "ModelSwitching", "infaas": {}}},
        "infaas is only allowed when name is InFaaS",
    ),
    (
        POOL,
        {"policy": {"name": "InfAdapter", "infadapter": {"alpha": 0.1}}},
        {"policy": {"name": "ModelSwitching", "infadapter": {}}},
        "infadapter is only allowed when name is InfAdapter",
    ),
    (
        POOL,
        {"policy": {"name": "Proteus", "proteus": {"every": "5s"}}},
        {"policy": {"name": "ModelSwitching", "proteus": {}}},
        "proteus is only allowed when name is Proteus",
    ),
    (
        POOL,
        {"policy": {"frontier": {"remember": "5s"}}},
        {"policy": {"frontier": {"remember": "4s"}}},
        "remember must be 5s or longer",
    ),
    (
        POOL,
        {"policy": {"frontier": {"remember": "2m"}}},
        {"policy": {"frontier": {"remember": "121s"}}},
        "remember must not be longer than 2m",
    ),
    (
        POOL,
        {"policy": {"name": "InfAdapter", "infadapter": {"forecaster": "Lstm", "lstm": "/models/demand.onnx"}}},
        {"policy": {"name": "InfAdapter", "infadapter": {"forecaster": "Lstm"}}},
        "lstm is needed when forecaster is Lstm",
    ),
]

RULES += [
    (
        PORTING,
        {"model": {"import": "mine:Net", "arguments": {"width": 8, "deep": {"er": [1, "x"]}}}},
        {"model": {"import": "mine:Net", "builtin": "resnet18"}},
        "give either builtin or import, not both and not none",
    ),
    (PORTING, {"data": {"builtin": "cifar10"}}, {"data": {}}, "give either builtin or import, not both and not none"),
    (
        PORTING,
        {"methods": {"prune": {"learningRateScale": {"min": 0.5, "max": 0.5}}}},
        {"methods": {"prune": {"learningRateScale": {"min": 2, "max": 1}}}},
        "min must not be above max",
    ),
    (PORTING, {"budget__time": "20m"}, {"budget__time": "0s"}, "must be longer than 0s"),
    (
        PORTING,
        {"methods": {"prune": {"criteria": ["L1", "Slim"]}}},
        {"methods": {"prune": {"criteria": ["L1", "Slim"], "backend": "TorchPruning"}}},
        "Slim works with NNI only",
    ),
]

# What the schema itself says: types, ranges, patterns, choices.
SHAPES: list[tuple[str, Changes, Changes, str]] = [
    (TASK, {"minAccuracy": 0}, {"minAccuracy": 1.01}, "spec.minAccuracy"),
    (TASK, {"minAccuracy": 1}, {"minAccuracy": -0.1}, "spec.minAccuracy"),
    (TASK, {"minAccuracy": None}, {"minAccuracy": "0.9"}, "spec.minAccuracy"),
    (TASK, {"maxMetric": 0.001}, {"maxMetric": 0}, "spec.maxMetric"),
    (TASK, {"weight": 1000}, {"weight": 0}, "spec.weight"),
    (TASK, {"weight": 0.5}, {"weight": 1001}, "spec.weight"),
    (TASK, {"slo__latency": "1m30s"}, {"slo__latency": "400"}, "spec.slo.latency"),
    (TASK, {"slo__latency": "2562047h"}, {"slo__latency": "2562048h"}, "spec.slo.latency"),
    (TASK, {"slo__latency": "1h"}, {"slo__latency": ABSENT}, "spec.slo.latency"),
    (TASK, {"mode": "Recommend"}, {"mode": "auto"}, "spec.mode"),
    (TASK, {"poolRef__name": "a.b-c"}, {"poolRef__name": "Edge"}, "spec.poolRef.name"),
    (TASK, {"model": "digits-1"}, {"model": "../digits"}, "spec.model"),
    (TASK, {"model": "d"}, {"model": "Digits_1"}, "spec.model"),
    (TASK, {"model": "d" * 63}, {"model": "d" * 64}, "spec.model"),
    (TASK, {"serverSelector": {"a": ""}}, {"serverSelector": {"a": "not a label"}}, "spec.serverSelector.a"),
    (
        TASK,
        {"mode": "Pinned", "pinnedVersion": 2**63 - 1},
        {"mode": "Pinned", "pinnedVersion": 2**63},
        "spec.pinnedVersion",
    ),
    (VERSION, {"version": 1}, {"version": 0}, "spec.version"),
    (VERSION, {"version": 3}, {"version": 1.5}, "spec.version"),
    (VERSION, {"artifact__sha256": SHA256}, {"artifact__sha256": SHA256.upper()}, "spec.artifact.sha256"),
    (VERSION, {"artifact__sha256": "f" * 64}, {"artifact__sha256": "f" * 63}, "spec.artifact.sha256"),
    (VERSION, {"artifact__uri": "s3://b-1/k"}, {"artifact__uri": "https://models/k"}, "spec.artifact.uri"),
    (VERSION, {"artifact__bytes": 1}, {"artifact__bytes": 0}, "spec.artifact.bytes"),
    (VERSION, {"accuracy__value": 1}, {"accuracy__value": 98.8}, "spec.accuracy.value"),
    (
        VERSION,
        {"profiles": [PROFILE, {**PROFILE, "hardwareClass": "n100"}]},
        {"profiles": [PROFILE, PROFILE]},
        "Duplicate value",
    ),
    (VERSION, {"profiles": [{**PROFILE, "cpu": "500m"}]}, {"profiles": [{**PROFILE, "cpu": "2 cores"}]}, ".cpu"),
    (VERSION, {"profiles": [PROFILE]}, {"profiles": [{**PROFILE, "maxThroughput": 0}]}, ".maxThroughput"),
    (
        VERSION,
        {"profiles": [{**PROFILE, "profiledAt": "2026-01-31T12:00:00.5+01:00"}]},
        {"profiles": [{**PROFILE, "profiledAt": "yesterday"}]},
        ".profiledAt",
    ),
    (VERSION, {"lineage__method": "l1+int8"}, {"lineage__method": "by hand"}, "spec.lineage.method"),
    (PORTING, {"input": [30]}, {"input": []}, "spec.input"),
    (PORTING, {"model": {"import": "a.b:C"}}, {"model": {"import": "a.b.C"}}, "spec.model.import"),
    (PORTING, {"methods": {"prune": {"criteria": ["FPGM"]}}}, {"methods": {"prune": {"criteria": ["L3"]}}}, "criteria"),
    (PORTING, {"cluster__retries": 0}, {"cluster__retries": -1}, "spec.cluster.retries"),
    (
        PORTING,
        {"cluster__profiles": [TARGET, {**TARGET, "hardwareClass": "n100"}]},
        {"cluster__profiles": [TARGET, TARGET]},
        "Duplicate value",
    ),
    (
        PORTING,
        {"methods": {"knob": {"argument": "frames", "values": [1]}}},
        {"methods": {"knob": {"argument": "two words", "values": [1]}}},
        "spec.methods.knob.argument",
    ),
    (POOL, {"serverSelector": {"a": "b"}}, {"serverSelector": {}}, "spec.serverSelector"),
    (POOL, {"policy__name": "Static"}, {"policy__name": "Oracle"}, "spec.policy.name"),
    (POOL, {"standby__memoryBudget": "1.5Gi"}, {"standby__memoryBudget": "1.5 GB"}, "spec.standby.memoryBudget"),
    (POOL, {"standby__below": 0}, {"standby__below": -1}, "spec.standby.below"),
    (POOL, {"rollout__maxConcurrent": 2}, {"rollout__maxConcurrent": 0}, "spec.rollout.maxConcurrent"),
    (
        POOL,
        {"metrics__prometheusUrl": "https://p/prefix"},
        {"metrics__prometheusUrl": "p:9090"},
        "spec.metrics.prometheusUrl",
    ),
    (POOL, {"hardwareClassLabel": "class"}, {"hardwareClassLabel": "a/b/c"}, "spec.hardwareClassLabel"),
    (
        POOL,
        {"policy": {"name": "Stepwise", "stepwise": {"minReduction": 0.99}}},
        {"policy": {"name": "Stepwise", "stepwise": {"minReduction": 1}}},
        "Reduction",
    ),
    (
        POOL,
        {"policy": {"name": "Stepwise", "stepwise": {"trust": 1}}},
        {"policy": {"name": "Stepwise", "stepwise": {"trust": 0.9}}},
        "trust",
    ),
]

# Rules about changes: the object as it is, a change that passes, one that is refused, and what the API server says.
TRANSITIONS: list[tuple[str, Changes, Changes, Changes, str]] = [
    (TASK, {}, {"model": "one", "weight": 2}, {"model": "two"}, "spec.model can't be changed"),
    (TASK, {"model": "two"}, {"model": "two", "mode": "Recommend"}, {"model": ABSENT}, "spec.model can't be changed"),
    (TASK, {"model": None}, {"poolRef__name": "other"}, {"model": "two"}, "spec.model can't be changed"),
    (VERSION, {}, {"accuracy__samples": 10}, {"version": 7}, "version can't be changed: publish another version"),
    (VERSION, {}, {"profiles": [PROFILE]}, {"taskRef__name": "letters"}, "taskRef can't be changed"),
    (
        VERSION,
        {},
        {"artifact__uri": "s3://elsewhere/model.onnx"},
        {"artifact__sha256": "f" * 64},
        "artifact.sha256 can't be changed",
    ),
    (
        PORTING,
        {"model": {"import": "mine:Net", "arguments": {"width": 8}}},
        {},
        {"budget__trials": 3},
        "the spec of a PortingJob can't be changed: delete it and make another one",
    ),
    (
        PORTING,
        {"model": {"import": "mine:Net", "arguments": {"width": 8}}},
        {},
        {"model": {"import": "mine:Net", "arguments": {"width": 9}}},
        "the spec of a PortingJob can't be changed: delete it and make another one",
    ),
]


def send(
    api_server: ApiServer, body: dict[str, Any], *, replace: bool = False, dry_run: bool = True
) -> tuple[int, dict[str, Any]]:
    """Create or replace an object; returns the HTTP status and the answer."""
    plural = MODELS[body["kind"]].NAMES.plural
    path = f"/apis/rung.dev/v1alpha1/namespaces/{body['metadata']['namespace']}/{plural}"
    path += f"/{body['metadata']['name']}" if replace else ""
    path += "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
    if replace:
        _, present = api_server.send("GET", path)
        version = {"resourceVersion": present["metadata"]["resourceVersion"]}
        body = {**body, "metadata": {**body["metadata"], **version}}
    return api_server.send("PUT" if replace else "POST", path, body)


def _identifier(row: tuple[Any, ...]) -> str:
    return f"{row[0]}: {row[-1]} {json.dumps(row[-2], default=lambda _: 'absent')}"[:90]


@pytest.mark.parametrize("row", [*RULES, *SHAPES], ids=_identifier)
def test_each_rule_lets_one_pass_and_refuses_another(
    row: tuple[str, Changes, Changes, str], api_server: ApiServer, namespace: str
) -> None:
    kind, passing, refused, message = row
    good, bad = manifest(kind, namespace, **passing), manifest(kind, namespace, **refused)
    status, answer = send(api_server, good)
    assert status == 201, answer
    status, answer = send(api_server, bad)
    assert (status, answer["reason"]) == (422, "Invalid"), answer
    assert message in answer["message"]
    # pydantic is of the same opinion.
    parse(good, MODELS[kind])
    with pytest.raises(InvalidObject, match=f"{kind} {namespace}/{bad['metadata']['name']}: spec"):
        parse(bad, MODELS[kind])


@pytest.mark.parametrize("row", TRANSITIONS, ids=_identifier)
def test_what_can_not_be_changed(
    row: tuple[str, Changes, Changes, Changes, str], api_server: ApiServer, namespace: str
) -> None:
    kind, present, passing, refused, message = row
    assert send(api_server, manifest(kind, namespace, **present), dry_run=False)[0] == 201
    status, answer = send(api_server, manifest(kind, namespace, **{**present, **refused}), replace=True)
    assert (status, answer["reason"]) == (422, "Invalid"), answer
    assert message in answer["message"]
    status, answer = send(api_server, manifest(kind, namespace, **{**present, **passing}), replace=True)
    assert status == 200, answer


def test_every_rule_of_the_crds_is_in_the_tables() -> None:
    tested = {row[-1] for row in RULES} | {row[-1] for row in TRANSITIONS}

    def messages(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {rule["message"] for rule in node.get("x-kubernetes-validations", [])}
            return own.union(*(messages(value) for value in node.values()))
        return set().union(*map(messages, node)) if isinstance(node, list) else set()

    present = {message for model in KINDS for message in messages(custom_resource_definition(model))}
    assert len(present) > 15
    assert {message for message in present if not any(message.startswith(text) for text in tested)} == set()


@pytest.mark.parametrize("kind", MODELS)
def test_unknown_fields_are_named_by_kubectl(kind: str, api_server: ApiServer, namespace: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        api_server.kubectl("create", "-f", "-", manifest=manifest(kind, namespace, sloo="400ms"))
    assert 'unknown field "spec.sloo"' in str(caught.value.stderr)


@pytest.mark.parametrize("kind", MODELS)
def test_a_spec_is_needed(kind: str, api_server: ApiServer, namespace: str) -> None:
    body = manifest(kind, namespace)
    del body["spec"]
    status, answer = send(api_server, body)
    assert status == 422
    assert "spec: Required value" in answer["message"]


# ---------------------------------------------------------------- defaults


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (TASK, {}),
        (TASK, {"demand": {"source": "Declared", "rate": 3}, "minAccuracy": None, "serverSelector": {"a": "b"}}),
        (VERSION, {}),
        (VERSION, {"profiles": [{**PROFILE, "latency": LATENCY}], "lineage": {"method": "l1", "sparsity": 0.5}}),
        (PORTING, {}),
        (PORTING, {"methods": {"prune": {}, "distill": {}, "quantize": {}}, "cluster": {"profiles": [TARGET]}}),
        (POOL, {}),
        (POOL, {"policy": {"name": "Static", "static": {}}, "standby": {"memoryBudget": "1Gi"}}),
        (
            POOL,
            {
                "policy": {"name": "Stepwise", "stepwise": {}},
                "standby": {},
                "rollout": {},
                "fallback": {},
                "metrics__maxAge": "7s",
            },
        ),
    ],
)
def test_the_api_servers_defaults_are_pydantics(
    kind: str, changes: Changes, api_server: ApiServer, namespace: str
) -> None:
    sent = manifest(kind, namespace, **changes)
    status, stored = send(api_server, sent, dry_run=False)
    assert status == 201, stored
    ours = parse(sent, MODELS[kind])
    assert _without_null(stored["spec"]) == ours.to_manifest()["spec"]
    assert "status" not in stored
    again = parse(stored, MODELS[kind])
    assert again.spec == ours.spec
    assert again.metadata.uid == stored["metadata"]["uid"]
    # What we write is accepted as it is, and changes nothing.
    status, after = send(api_server, again.to_manifest(), replace=True)
    assert status == 200, after
    assert _without_null(after["spec"]) == _without_null(stored["spec"])


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(part) for key, part in value.items() if part is not None}
    return [_without_null(part) for part in value] if isinstance(value, list) else value
