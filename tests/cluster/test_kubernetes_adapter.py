"""The Kubernetes adapter against a real API server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rung.adapters.kubernetes import (
    Cluster,
    Conflict,
    KubernetesError,
    NotFound,
    Refused,
    Registration,
    Unavailable,
    connect,
)
from rung.api import InvalidObject, parse_version
from servers.apiserver import ApiServer
from servers.manifests import manifest

pytestmark = pytest.mark.cluster

Answer = TypeVar("Answer")


@pytest.fixture
async def cluster(api_server: ApiServer) -> AsyncIterator[Cluster]:
    async with connect(api_server.kubeconfig, deadline_seconds=10) as connected:
        yield connected


def created(api_server: ApiServer, *manifests: dict[str, Any]) -> None:
    api_server.kubectl("apply", "-f", "-", manifest=list(manifests))


def raw(api_server: ApiServer, kind: str, namespace: str, name: str = "one") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(api_server.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
    return found


# ---------------------------------------------------------------- reading


async def test_reads_and_lists_each_kind(cluster: Cluster, api_server: ApiServer, namespace: str) -> None:
    created(api_server, *(manifest(kind, namespace) for kind in ("InferenceTask", "ModelVersion", "ServingPool")))
    assert (await cluster.read_task(namespace, "one")).spec.slo.latency.seconds == 0.4
    assert (await cluster.read_version(namespace, "one")).spec.version == 1_098_820
    assert (await cluster.read_pool(namespace, "one")).spec.policy.name == "Frontier"
    assert [task.name for task in (await cluster.list_tasks(namespace)).objects] == ["one"]
    assert [version.name for version in (await cluster.list_versions(namespace)).objects] == ["one"]
    assert [pool.name for pool in (await cluster.list_pools(namespace)).objects] == ["one"]
    assert namespace in {task.namespace for task in (await cluster.list_tasks()).objects}


async def test_an_absent_object_is_not_found(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(NotFound, match=f"reading InferenceTask {namespace}/nobody"):
        await cluster.read_task(namespace, "nobody")
    assert (await cluster.list_tasks(namespace)).objects == ()


async def test_objects_of_an_older_schema_do_not_hide_the_others(
    cluster: Cluster, api_server: ApiServer, namespace: str
) -> None:
    """Objects are stored under a CRD that checked nothing, as an older release's might have; then the CRD is mended."""
    crd = "servingpools.rung.dev"
    present = json.loads(api_server.kubectl("get", "crd", crd, "-o", "json"))
    lax = json.loads(json.dumps(present))
    lax["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    spec = {"op": "replace", "path": "/spec/versions"}

    def switch(to: dict[str, Any]) -> None:
        patch = json.dumps([{**spec, "value": to["spec"]["versions"]}])
        api_server.kubectl("patch", "crd", crd, "--type=json", "-p", patch)

    bad = manifest("ServingPool", namespace, "bad", interval="soon", serverSelector={})
    handmade = {**manifest("ServingPool", namespace, "handmade"), "status": {"servers": "none"}}
    created(api_server, manifest("ServingPool", namespace, "good"))
    switch(lax)
    try:
        await _until_accepted(api_server, [bad, handmade])
        patch = json.dumps({"status": handmade["status"]})
        api_server.kubectl(
            "patch", "spool", "handmade", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch
        )
    finally:
        switch(present)
        api_server.wait_until_served()
    listing = await _once_available(lambda: cluster.list_pools(namespace))
    assert [pool.name for pool in listing.objects] == ["good", "handmade"]
    [error] = listing.invalid
    assert (error.kind, error.namespace, error.name) == ("ServingPool", namespace, "bad")
    assert error.field == "spec.serverSelector"
    assert "(and 1 more)" in error.sentence
    assert "status is dropped" in listing.objects[1].notes[0]
    with pytest.raises(InvalidObject, match=rf"ServingPool {namespace}/bad: spec\.serverSelector"):
        await cluster.read_pool(namespace, "bad")


async def _once_available(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Call until the API server can: after a change of a CRD it may say for a moment that it can't."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(0.1)


async def _until_accepted(api_server: ApiServer, manifests: list[dict[str, Any]]) -> None:
    """A changed CRD is served a moment after the change was accepted."""
    async with asyncio.timeout(20):
        while True:
            path = f"/apis/rung.dev/v1alpha1/namespaces/{manifests[0]['metadata']['namespace']}/servingpools"
            status, answer = api_server.send("POST", path, manifests[0])
            if status == 201:
                break
            assert status in (422, 429), answer
            await asyncio.sleep(0.1)
    for rest in manifests[1:]:
        api_server.kubectl("create", "--validate=false", "-f", "-", manifest=rest)


# ---------------------------------------------------------------- status


async def test_a_status_is_replaced_whole_and_touches_nothing_else(
    cluster: Cluster, api_server: ApiServer, namespace: str
) -> None:
    created(api_server, manifest("ServingPool", namespace))
    before = raw(api_server, "spool", namespace)
    memory = {"points": [1, 2], "none": None, "deep": {"a": 0.5}}
    await cluster.patch_status("ServingPool", namespace, "one", {"readyServers": 2, "policyMemory": memory})
    after = raw(api_server, "spool", namespace)
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["status"]["policyMemory"] == memory
    await cluster.patch_status("ServingPool", namespace, "one", {"tasks": 1, "policyMemory": {"b": 1}})
    status = raw(api_server, "spool", namespace)["status"]
    assert status["policyMemory"] == {"b": 1}
    assert (status["tasks"], status["readyServers"]) == (1, 0)


async def test_the_same_status_again_is_no_change(cluster: Cluster, api_server: ApiServer, namespace: str) -> None:
    created(api_server, manifest("InferenceTask", namespace))
    await cluster.patch_status("InferenceTask", namespace, "one", {"activeVersion": 7})
    before = raw(api_server, "itask", namespace)["metadata"]["resourceVersion"]
    await cluster.patch_status("InferenceTask", namespace, "one", {"activeVersion": 7})
    assert raw(api_server, "itask", namespace)["metadata"]["resourceVersion"] == before


async def test_a_field_that_an_older_crd_lacks_does_not_stop_the_rest(
    cluster: Cluster, api_server: ApiServer, namespace: str
) -> None:
    created(api_server, manifest("InferenceTask", namespace))
    await cluster.patch_status("InferenceTask", namespace, "one", {"activeVersion": 7, "inventedLater": True})
    assert raw(api_server, "itask", namespace)["status"]["activeVersion"] == 7


async def test_a_status_goes_only_to_the_very_object(cluster: Cluster, api_server: ApiServer, namespace: str) -> None:
    created(api_server, manifest("InferenceTask", namespace))
    uid = raw(api_server, "itask", namespace)["metadata"]["uid"]
    await cluster.patch_status("InferenceTask", namespace, "one", {"activeVersion": 7}, uid=uid)
    api_server.kubectl("delete", "itask", "one", "-n", namespace)
    with pytest.raises(NotFound):
        await cluster.patch_status("InferenceTask", namespace, "one", {"activeVersion": 8}, uid=uid)
    created(api_server, manifest("InferenceTask", namespace))
    with pytest.raises(Conflict, match="another object has that name now"):
        await cluster.patch_status("InferenceTask", namespace, "one", {"activeVersion": 8}, uid=uid)
    assert "status" not in raw(api_server, "itask", namespace)


async def test_an_invalid_status_is_refused_with_the_field(
    cluster: Cluster, api_server: ApiServer, namespace: str
) -> None:
    created(api_server, manifest("InferenceTask", namespace))
    uid = raw(api_server, "itask", namespace)["metadata"]["uid"]
    for known_uid in (None, uid):
        with pytest.raises(Refused, match=r"status\.accuracy"):
            await cluster.patch_status("InferenceTask", namespace, "one", {"accuracy": 7}, uid=known_uid)


# ---------------------------------------------------------------- events


async def test_events_are_posted_once_and_counted(cluster: Cluster, api_server: ApiServer, namespace: str) -> None:
    created(api_server, manifest("InferenceTask", namespace))
    uid = raw(api_server, "itask", namespace)["metadata"]["uid"]
    about: dict[str, Any] = {"kind": "InferenceTask", "namespace": namespace, "name": "one", "uid": uid}
    for _ in range(20):
        await cluster.create_event(**about, reason="StepDown", note="CPU 82 % over 70 %: 98.8 -> 96.1")
    await cluster.create_event(**about, reason="StaleMetrics", note="no signal for 61 s", warning=True)
    first, second = await cluster.list_events("InferenceTask", namespace, "one")
    assert (first.reason, first.warning, first.count) == ("StepDown", False, 1)
    assert (second.reason, second.warning) == ("StaleMetrics", True)
    assert first.note == "CPU 82 % over 70 %: 98.8 -> 96.1"
    # A restarted operator finds the event that is there.
    async with connect(api_server.kubeconfig) as another:
        await another.create_event(**about, reason="StepDown", note="CPU 82 % over 70 %: 98.8 -> 96.1")
    events = {event.reason: event for event in await cluster.list_events("InferenceTask", namespace, "one")}
    assert events["StepDown"].count == 2
    assert events["StepDown"].last_seen > first.last_seen
    described = api_server.kubectl("describe", "itask", "one", "-n", namespace)
    assert "CPU 82 % over 70 %" in described
    assert await cluster.list_events("InferenceTask", namespace, "two") == ()


async def test_events_do_not_flood(cluster: Cluster, api_server: ApiServer, namespace: str) -> None:
    created(api_server, manifest("ServingPool", namespace))
    for number in range(60):
        await cluster.create_event(
            kind="ServingPool", namespace=namespace, name="one", uid=None, reason="Noisy", note=f"number {number}"
        )
    assert 10 <= len(await cluster.list_events("ServingPool", namespace, "one")) <= 15


async def test_a_long_note_is_cut_at_a_character(cluster: Cluster, api_server: ApiServer, namespace: str) -> None:
    created(api_server, manifest("ServingPool", namespace))
    await cluster.create_event(
        kind="ServingPool", namespace=namespace, name="one", uid=None, reason="Long", note="ü" * 5000
    )
    [event] = await cluster.list_events("ServingPool", namespace, "one")
    assert event.note.startswith("üüü")
    assert event.note.endswith("ü…")
    assert 1020 <= len(event.note.encode()) <= 1024


# ---------------------------------------------------------------- registering versions


async def test_registering_is_idempotent(cluster: Cluster, api_server: ApiServer, namespace: str) -> None:
    version = parse_version(manifest("ModelVersion", namespace))
    assert await cluster.register_version(version) is Registration.CREATED
    api_server.kubectl("label", "mver", "one", "-n", namespace, "team=vision")
    before = raw(api_server, "mver", namespace)["metadata"]["resourceVersion"]
    assert await cluster.register_version(version) is Registration.UNCHANGED
    assert raw(api_server, "mver", namespace)["metadata"]["resourceVersion"] == before
    profile = {"hardwareClass": "rpi5", "sloLatency": "400ms", "maxThroughput": 31.5, "latency": None}
    more = parse_version(manifest("ModelVersion", namespace, profiles=[profile]))
    assert await cluster.register_version(more) is Registration.UPDATED
    assert await cluster.register_version(more) is Registration.UNCHANGED
    stored = raw(api_server, "mver", namespace)
    assert stored["spec"]["profiles"][0]["maxThroughput"] == 31.5
    assert stored["metadata"]["labels"] == {"team": "vision"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"artifact__sha256": "f" * 64}, "artifact.sha256"),
        ({"version": 1_098_821}, "version"),
        ({"taskRef__name": "other"}, "taskRef.name"),
    ],
)
async def test_registering_something_else_under_the_name_is_refused(
    cluster: Cluster, namespace: str, change: dict[str, Any], field: str
) -> None:
    await cluster.register_version(parse_version(manifest("ModelVersion", namespace)))
    with pytest.raises(Refused, match=rf"it exists with {field} .* publish another version"):
        await cluster.register_version(parse_version(manifest("ModelVersion", namespace, **change)))


async def test_two_register_at_once(cluster: Cluster, namespace: str) -> None:
    version = parse_version(manifest("ModelVersion", namespace))
    done = await asyncio.gather(*(cluster.register_version(version) for _ in range(4)))
    assert sorted(done) == ["created", "unchanged", "unchanged", "unchanged"]


async def test_registering_in_a_namespace_that_is_not_there(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match='namespaces "nowhere" not found'):
        await cluster.register_version(parse_version(manifest("ModelVersion", "nowhere")))


# ---------------------------------------------------------------- faults


async def test_who_may_not_is_told_so(api_server: ApiServer, namespace: str) -> None:
    async with connect(api_server.kubeconfig_for("stranger")) as stranger:
        with pytest.raises(Refused, match='User "stranger" cannot list'):
            await stranger.list_tasks(namespace)


async def test_an_api_server_that_hangs_costs_the_deadline_and_no_more(api_server: ApiServer, namespace: str) -> None:
    async with connect(api_server.kubeconfig, deadline_seconds=0.5) as impatient:
        api_server.pause()
        try:
            with pytest.raises(Unavailable, match=r"no answer within 0\.5 s"):
                await impatient.list_tasks(namespace)
        finally:
            api_server.resume()
        await _once_available(lambda: impatient.list_tasks(namespace))


async def test_the_connection_comes_back_with_the_api_server(api_server: ApiServer, namespace: str) -> None:
    async with connect(api_server.kubeconfig, deadline_seconds=5) as patient:
        await patient.list_tasks(namespace)
        api_server.kill()
        try:
            with pytest.raises(Unavailable):
                await patient.list_tasks(namespace)
        finally:
            api_server.start()
        assert (await patient.list_tasks(namespace)).objects == ()


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server on loopback that gives every request the same raw answer: what proxies before API servers do."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(request.param)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(timeout=10)


def _answer(status: str, body: str, kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("answering", "error", "sentence"),
    [
        (_answer("429 Too Many Requests", '{"message": "slow down"}'), Unavailable, r"\(429\): slow down"),
        (_answer("503 Service Unavailable", "<html>", "text/html"), Unavailable, r"\(503\)"),
        (_answer("504 Gateway Timeout", "[]"), Unavailable, r"\(504\)"),
        (_answer("410 Gone", '{"message": "too old"}'), Conflict, "too old"),
        (_answer("401 Unauthorized", '{"message": "Unauthorized"}'), Refused, "Unauthorized"),
        (_answer("413 Too Large", '{"message": "limit is 3145728"}'), Refused, "limit is 3145728"),
        (_answer("200 OK", "{"), Unavailable, "listing inferencetasks"),
        (_answer("200 OK", "[]"), Unavailable, "no JSON object"),
        (_answer("200 OK", "<html>hotel login", "text/html"), Unavailable, "listing inferencetasks"),
        (b"\x00\x01\x02", Unavailable, "listing inferencetasks"),
        (b"", Unavailable, "listing inferencetasks"),
    ],
    indirect=["answering"],
)
async def test_each_kind_of_refusal(
    answering: str, error: type[KubernetesError], sentence: str, tmp_path: Path
) -> None:
    async with connect(_kubeconfig(tmp_path, answering)) as cluster:
        with pytest.raises(error, match=sentence):
            await cluster.list_tasks("default")


def _kubeconfig(folder: Path, url: str, **context: str) -> Path:
    path = folder / "kubeconfig"
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", **context}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path


async def test_the_namespace_of_the_context_is_kept(tmp_path: Path) -> None:
    async with connect(_kubeconfig(tmp_path, "http://127.0.0.1:1", namespace="vision")) as cluster:
        assert cluster.namespace == "vision"
        with pytest.raises(Unavailable, match="reading InferenceTask vision/one"):
            await cluster.read_task("vision", "one")


async def test_kubeconfig_from_the_environment(
    api_server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
    async with connect() as cluster:
        assert cluster.namespace == "default"
        assert (await cluster.list_pools(namespace)).objects == ()


@pytest.mark.parametrize("content", [None, "", "{", "just words", '{"contexts": 3}', '{"contexts": []}', "\x00"])
async def test_a_kubeconfig_that_can_not_be_used(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    fault = "there is no file .*kubeconfig" if content is None else "the kubeconfig .* can't be used"
    with pytest.raises(Unavailable, match=f"no cluster: {fault}"):
        async with connect(path):
            pass


async def test_no_cluster_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Unavailable, match="set KUBECONFIG"):
        async with connect():
            pass
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(Unavailable, match="the pod's service account can't be used"):
        async with connect():
            pass
