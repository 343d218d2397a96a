"""What Rung writes for a Gateway of the cluster's own, taken by the real API and followed by a real Traefik."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from rung.adapters.gateway import POOL_LABEL, Parent, Server, route_name
from rung.adapters.gateway import Site as GatewaySite
from rung.adapters.kubernetes import Cluster, connect
from rung.control.gateway import GatewayFollower
from servers.apiserver import ApiServer
from servers.models import INPUT, WIDTH, write_task
from servers.site import POOL, Site
from servers.traefik import GATEWAY, gateway_crds, running_traefik
from servers.triton import TritonServer

pytestmark = [pytest.mark.cluster, pytest.mark.paced]

ADDRESS = "198.18.7.1"
"""Of this machine alone (RFC 2544): an EndpointSlice takes no loopback address."""
ALPHA, BETA = "alpha", "beta"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """An address of this machine that is no loopback."""
    if os.geteuid() != 0:
        pytest.skip("an address of one's own needs root")
    subprocess.run(["ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo"], check=True, timeout=10)
    yield ADDRESS
    subprocess.run(["ip", "address", "delete", f"{ADDRESS}/32", "dev", "lo"], check=False, timeout=10)


@pytest.fixture(scope="module")
def gateway_api(api_server: ApiServer) -> ApiServer:
    """The API server with the kinds of the Gateway API."""
    api_server.kubectl("apply", "--server-side", "-f", str(gateway_crds()))
    api_server.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(gateway_crds()))
    return api_server


async def relay(stack: AsyncExitStack, host: str, port: int) -> int:
    """Let connections to a port of `host` reach one on loopback; returns the port."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    server = await asyncio.start_server(connected, host, 0)
    stack.callback(server.close)
    return int(server.sockets[0].getsockname()[1])


async def followed(follower: GatewayFollower, site: GatewaySite | None) -> None:
    """Tell it again and again, as each pass does, until the controller has taken it."""
    async with asyncio.timeout(40):
        while not follower.is_followed(follower.tell(site)):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)


@dataclass
class Edge:
    """Two servers behind a Gateway. Every model answers with its server's place + 1."""

    api: ApiServer
    namespace: str
    site: GatewaySite
    follower: GatewayFollower
    url: str
    stub: Any

    async def follow(self, weights: dict[str, dict[str, int]]) -> None:
        """Tell the weights, and wait until the controller has taken them and leads as they say."""
        await followed(self.follower, replace(self.site, weights=weights))

    async def ask(self, model: str, *, names_it: bool = True) -> int:
        """Ask over gRPC; returns which server answered."""
        request = service_pb2.ModelInferRequest(model_name=model)
        request.inputs.add(name=INPUT, datatype="FP32", shape=[1, WIDTH])
        request.raw_input_contents.append(np.ones((1, WIDTH), np.float32).tobytes())
        metadata = (("x-rung-model", model),) if names_it else ()
        answer = await self.stub.ModelInfer(request, timeout=10, metadata=metadata)
        return int(np.frombuffer(answer.raw_output_contents[0], np.int64)[0])

    def post(self, model: str) -> int:
        """Ask over HTTP."""
        body = {"inputs": [{"name": INPUT, "shape": [1, WIDTH], "datatype": "FP32", "data": [0.0] * WIDTH}]}
        made = urllib.request.Request(f"{self.url}/v2/models/{model}/infer", json.dumps(body).encode())
        with urllib.request.urlopen(made, timeout=10) as answer:
            return int(json.load(answer)["outputs"][0]["data"][0])

    def health(self) -> int:
        """Return how a server says that it is ready."""
        with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=10) as answer:
            return int(answer.status)

    async def until(self, expected: set[int], ask: Any) -> Counter[int]:
        """Ask forty times, again and again until these servers answer, and no other: the data plane follows its
        controller a moment later."""
        async with asyncio.timeout(30):
            while True:
                with suppress(grpc.RpcError, urllib.error.HTTPError):
                    found = Counter([await ask() for _ in range(40)])
                    if set(found) == expected:
                        return found
                await asyncio.sleep(0.05)


@pytest.fixture
async def cluster(gateway_api: ApiServer) -> AsyncIterator[Cluster]:
    async with connect(gateway_api.kubeconfig) as made:
        yield made


@pytest.fixture
async def edge(
    tmp_path: Path, gateway_api: ApiServer, namespace: str, cluster: Cluster, address: str
) -> AsyncIterator[Edge]:
    async with AsyncExitStack() as stack:
        servers = []
        for place in range(2):
            triton = TritonServer(tmp_path / f"triton-{place}", extra_flags=("--model-control-mode=none",))
            triton.folder.mkdir()
            for model in (ALPHA, BETA):
                write_task(triton.repository, model, {place + 1: 1})
            stack.callback(triton.kill)
            await asyncio.to_thread(triton.start)
            pod = {
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"triton-{place}"},
                "spec": {"containers": [{"name": "triton", "image": "none"}]},
            }  # fmt: skip
            created, answer = gateway_api.send("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
            assert created == 201, answer
            ports = [await relay(stack, address, port) for port in (triton.grpc_port, triton.http_port)]
            servers.append(Server(f"triton-{place}", answer["metadata"]["uid"], address, *ports))
        pool = {
            "apiVersion": "rung.dev/v1alpha1", "kind": "ServingPool", "metadata": {"name": "pool"},
            "spec": {"serverSelector": {"a": "b"}, "metrics": {"prometheusUrl": "http://none"}},
        }  # fmt: skip
        created, answer = gateway_api.send("POST", f"/apis/rung.dev/v1alpha1/namespaces/{namespace}/servingpools", pool)
        assert created == 201, answer
        site = GatewaySite(namespace, "pool", answer["metadata"]["uid"], Parent(GATEWAY), tuple(servers), {})
        follower = GatewayFollower(cluster.gateways, namespace, "pool")
        stack.push_async_callback(follower.close)
        traefik = running_traefik(tmp_path / "traefik", gateway_api, namespace)
        port = await asyncio.to_thread(traefik.__enter__)
        stack.callback(traefik.__exit__, None, None, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        yield Edge(gateway_api, namespace, site, follower, f"http://127.0.0.1:{port}", stub)


async def test_a_gateway_leads_by_model_and_weight_and_away_from_who_is_drained(edge: Edge) -> None:
    one, two = (server.name for server in edge.site.servers)
    await edge.follow({ALPHA: {one: 1000, two: 1000}, BETA: {two: 1000}})

    async def post_beta() -> int:
        return await asyncio.to_thread(edge.post, BETA)

    assert await edge.until({2}, post_beta) == {2: 40}
    assert await edge.until({2}, lambda: edge.ask(BETA)) == {2: 40}
    assert await asyncio.to_thread(edge.health) == 200, "what concerns no model, any server answers"
    both = await edge.until({1, 2}, lambda: edge.ask(ALPHA))
    assert min(both.values()) > 10, "evenly, more or less"
    assert set(await edge.until({2}, lambda: edge.ask(BETA, names_it=False))) == {2}, "only one has every model"

    failed: list[str] = []

    async def keep_asking(stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await edge.ask(ALPHA)
            except grpc.RpcError as error:
                failed.append(str(error))

    stop = asyncio.Event()
    asking = asyncio.create_task(keep_asking(stop))
    await edge.follow({ALPHA: {one: 0, two: 1000}, BETA: {two: 1000}})
    assert set(await edge.until({2}, lambda: edge.ask(ALPHA))) == {2}, "one is drained"
    await edge.follow({ALPHA: {one: 1000, two: 0}, BETA: {two: 1000}})
    await edge.until({1}, lambda: edge.ask(ALPHA))
    stop.set()
    await asking
    assert failed == []


async def test_what_someone_removed_is_written_again(
    edge: Edge, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rung.control.gateway.LOOK_SECONDS", 0.2)
    one, _ = (server.name for server in edge.site.servers)
    await edge.follow({ALPHA: {one: 1}})
    routes = ("-n", edge.namespace, "get", "httproutes", "-o", "name")
    before = set(edge.api.kubectl(*routes).split())
    edge.api.kubectl("-n", edge.namespace, "delete", "httproutes,services", "--all")
    async with asyncio.timeout(30):
        while set(edge.api.kubectl(*routes).split()) != before or edge.follower.problem:
            edge.follower.tell(edge.follower._site)
            await asyncio.sleep(0.1)
    assert await edge.until({1}, lambda: edge.ask(ALPHA)) == {1: 40}


async def test_what_an_earlier_operator_wrote_and_what_is_gone_is_removed(
    gateway_api: ApiServer, edge: Edge, cluster: Cluster
) -> None:
    one, two = (server.name for server in edge.site.servers)
    await edge.follow({ALPHA: {one: 1}, BETA: {two: 1}})
    await edge.follow({ALPHA: {one: 1}})
    names = await cluster.gateways.list(edge.namespace, "pool")
    assert ("HTTPRoute", route_name("pool", ALPHA)) in names
    assert ("HTTPRoute", route_name("pool", BETA)) not in names
    later = GatewayFollower(cluster.gateways, edge.namespace, "pool")
    await followed(later, replace(edge.site, weights={BETA: {two: 1}}))
    assert ("HTTPRoute", route_name("pool", ALPHA)) not in await cluster.gateways.list(edge.namespace, "pool")
    await later.close()
    # Another one starts, when the pool has no Gateway any more.
    last = GatewayFollower(cluster.gateways, edge.namespace, "pool")
    await followed(last, None)
    await last.close()
    assert await cluster.gateways.list(edge.namespace, "pool") == {}


def test_the_pool_says_why_its_gateway_does_not_follow_and_serves_on(site: Site, gateway_api: ApiServer) -> None:
    """An EndpointSlice takes no loopback address, which is where this site's server is."""
    site.serve("alpha", gateway={"name": "edge"})
    site.wait(lambda: "loopback" in site.condition("spool", POOL, "Balanced").get("message", ""), "it says why")
    condition = site.condition("spool", POOL, "Balanced")
    assert (condition["status"], condition["reason"]) == ("False", "GatewayNotFollowing")
    listed = ("-n", site.namespace, "get", "services", "-l", f"{POOL_LABEL}={POOL}", "-o", "name")
    assert gateway_api.kubectl(*listed).split() == ["service/rung-triton-0"]
    site.patch("spool", POOL, {"spec": {"gateway": None}})
    site.wait(lambda: not gateway_api.kubectl(*listed).strip(), "what was written is removed")
    site.wait(lambda: not site.condition("spool", POOL, "Balanced"), "nothing is meant to spread the requests")
    assert site.status("itask", "alpha")["activeVersion"] == 3


async def test_a_gateway_that_nobody_keeps_does_not_follow(
    gateway_api: ApiServer, namespace: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rung.control.gateway.FOLLOW_SECONDS", 0.5)
    follower = GatewayFollower(cluster.gateways, namespace, "pool")
    number = follower.tell(GatewaySite(namespace, "pool", "0", Parent("nobody"), (), {}))
    async with asyncio.timeout(10):
        while "no controller took" not in follower.problem:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    assert not follower.is_followed(number)
    await follower.close()
