"""What the operator reads from pods and nodes, and what it makes of fields that are missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rung.api import parse_pool, parse_task, parse_version
from rung.control.view import ClusterView, ServerPod, matches, may_serve, read_node, read_pod

POD: dict[str, Any] = {
    "metadata": {"namespace": "n", "name": "triton-0", "uid": "u", "labels": {"rung.dev/pool": "edge"}},
    "spec": {
        "nodeName": "pi",
        "containers": [
            {"name": "agent", "ports": [{"name": "agent", "containerPort": 9090}]},
            {
                "name": "triton",
                "ports": [{"name": "grpc", "containerPort": 9001}],
                "resources": {"limits": {"cpu": "1500m", "memory": "2Gi"}},
            },
        ],
    },
    "status": {
        "podIP": "10.0.0.7",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "triton", "ready": True, "restartCount": 2}, {"name": "agent", "ready": True}],
    },
}


def test_a_pod_shrinks_to_what_concerns_a_server() -> None:
    assert read_pod(POD) == ServerPod(
        namespace="n", name="triton-0", uid="u", node="pi", ip="10.0.0.7", labels={"rung.dev/pool": "edge"},
        ready=True, terminating=False, restarts=2, cpu_limit_cores=1.5, memory_limit_bytes=2 * 2**30,
        grpc_port=9001, agent_port=9090, client_grpc_port=9001, pod_ready=True,
    )  # fmt: skip
    assert read_pod(POD).triton_address == "10.0.0.7:9001"
    assert read_pod(POD).agent_address == "10.0.0.7:9090"


def test_a_readiness_gate_and_what_was_last_said_of_it() -> None:
    gated = {**POD, "spec": {**POD["spec"], "readinessGates": [{"conditionType": "rung.dev/serving"}]}}
    assert read_pod(gated).gated
    assert read_pod(gated).serving is None
    conditions = [{"type": "Ready", "status": "False"}, {"type": "rung.dev/serving", "status": "False"}]
    pod = read_pod({**gated, "status": {**POD["status"], "conditions": conditions}})
    assert (pod.serving, pod.pod_ready) == (False, False)
    assert pod.ready, "its container answers: only Services lead elsewhere"


def test_missing_fields_give_a_server_that_is_not_ready() -> None:
    empty: list[dict[str, Any]] = [{}, {"metadata": None, "spec": None, "status": None}, {"spec": {"containers": []}}]
    for raw in empty:
        pod = read_pod(raw)
        assert not pod.ready
        assert pod.triton_address is None
        assert (pod.cpu_limit_cores, pod.grpc_port, pod.agent_port) == (None, 8001, 8090)


def test_a_server_whose_agent_restarts_goes_on_serving() -> None:
    status = {**POD["status"], "conditions": [{"type": "Ready", "status": "False"}]}
    assert read_pod({**POD, "status": status}).ready
    triton_is_not = [{"name": "triton", "ready": False}, {"name": "agent", "ready": True}]
    assert not read_pod({**POD, "status": {**status, "containerStatuses": triton_is_not}}).ready


def test_limits_that_make_no_sense_are_none() -> None:
    containers = [{"name": "triton", "resources": {"limits": {"cpu": "lots", "memory": "-"}}}]
    pod = read_pod({**POD, "spec": {"containers": containers}})
    assert (pod.cpu_limit_cores, pod.memory_limit_bytes) == (None, None)


def test_an_address_of_version_6_is_bracketed() -> None:
    assert read_pod({**POD, "status": {"podIP": "fd00::7"}}).triton_address == "[fd00::7]:9001"


def test_a_pod_that_goes_says_so() -> None:
    metadata = {**POD["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert read_pod({**POD, "metadata": metadata}).terminating


def test_a_pod_may_serve_by_its_label_or_by_its_container() -> None:
    spec = POD["spec"]
    assert may_serve({"metadata": {"labels": {"app": "mine"}}, "spec": spec})
    assert may_serve({"metadata": {"labels": {"rung.dev/pool": "edge"}}, "spec": {"containers": [{"name": "other"}]}})
    assert not may_serve({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web"}]}})
    assert not may_serve({"metadata": {"labels": None}, "spec": None})
    assert not may_serve({})


def test_selectors() -> None:
    assert matches({}, {"a": "b"})
    assert matches({"a": "b"}, {"a": "b", "c": "d"})
    assert not matches({"a": "b"}, {"a": "c"})
    assert not matches({"a": ""}, {})


def _view() -> ClusterView:
    def made(name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {"metadata": {"namespace": "n", "name": name, "uid": f"uid-{name}"}, "spec": spec}

    pool = parse_pool(
        made("edge", {"serverSelector": {"rung.dev/pool": "edge"}, "metrics": {"prometheusUrl": "http://p"}})
    )
    task = parse_task(made("digits", {"poolRef": {"name": "edge"}, "slo": {"latency": "1s"}}))
    artifact = {"uri": "s3://models/m", "sha256": "0" * 64, "bytes": 1}
    versions = [
        parse_version(
            made(
                f"digits-{number}",
                {
                    "taskRef": {"name": "digits"},
                    "version": number,
                    "artifact": artifact,
                    "accuracy": {"value": 0.9},
                },
            )
        )
        for number in (3, 1, 2)
    ]
    other = {**POD, "metadata": {**POD["metadata"], "name": "other", "labels": {}}}
    node = {
        "metadata": {"name": "pi", "uid": "uid-pi", "labels": {"rung.dev/hardware-class": "rpi5"}},
        "status": {"allocatable": {"cpu": "4"}},
    }
    return ClusterView(
        pools={("n", "edge"): [pool]},
        tasks={("n", "edge"): [task]},
        versions={("n", "digits"): versions},
        pods={"n": [read_pod(POD), read_pod(other)]},
        nodes={"pi": [read_node(node)]},
    )


def test_a_pool_finds_its_tasks_versions_and_servers() -> None:
    view = _view()
    pool = view.pool(("n", "edge"))
    assert pool is not None
    (task,) = view.tasks_of(pool)
    assert [version.spec.version for version in view.versions_of(task)] == [1, 2, 3]
    assert [pod.name for pod in view.servers_of(pool)] == ["triton-0"]
    assert view.pool(("n", "other")) is None


def test_what_is_gone_is_seen_no_more_and_shadows_nothing() -> None:
    view = _view()
    old, new = ({**POD, "metadata": {**POD["metadata"], "uid": uid}} for uid in ("old", "new"))
    view = replace(view, pods={"n": [read_pod(old), read_pod(new)]})
    pool = view.pool(("n", "edge"))
    assert pool is not None
    (task,) = view.tasks_of(pool)
    assert view.uids() == {
        ("servingpools", "n"): {"uid-edge"},
        ("inferencetasks", "n"): {"uid-digits"},
        ("modelversions", "n"): {"uid-digits-1", "uid-digits-2", "uid-digits-3"},
        ("pods", "n"): {"old", "new"},
        ("nodes", ""): {"uid-pi"},
    }
    view.gone.update({"old", "uid-digits-2", "uid-pi"})
    assert [version.spec.version for version in view.versions_of(task)] == [1, 3]
    assert [pod.uid for pod in view.servers_of(pool)] == ["new"]
    assert view.hardware_class(read_pod(POD), "rung.dev/hardware-class") == "default"
    view.gone.update({"uid-digits", "uid-edge"})
    assert view.tasks_of(pool) == ()
    assert view.pool(("n", "edge")) is None


def test_capacity_and_class_come_from_the_pod_then_from_its_node() -> None:
    view = _view()
    pod = read_pod(POD)
    assert view.capacity_cores(pod) == 1.5
    assert view.hardware_class(pod, "rung.dev/hardware-class") == "rpi5"
    assert view.hardware_class(pod, "absent") == "default"
    unlimited = read_pod({**POD, "spec": {**POD["spec"], "containers": [{"name": "triton"}]}})
    assert view.capacity_cores(unlimited) == 4
    labelled = {**POD["metadata"], "labels": {"rung.dev/hardware-class": "n100"}}
    assert view.hardware_class(read_pod({**POD, "metadata": labelled}), "rung.dev/hardware-class") == "n100"
    stray = read_pod({**POD, "spec": {"nodeName": "unknown", "containers": [{"name": "triton"}]}})
    assert view.capacity_cores(stray) is None
