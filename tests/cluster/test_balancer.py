"""What Rung tells a balancer, followed by the chart's own, a real Envoy, in front of real servers."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from rung.adapters.xds import XdsServer
from rung.adapters.xds_resources import Backend, ModelRoute, Table, Weighted
from servers.balancer import running_balancer
from servers.models import INPUT, WIDTH, write_task
from servers.triton import TritonServer
from servers.wheels import NotHere

pytestmark = pytest.mark.cluster

POOL = "edge/pool"
SERVERS = 3
ALPHA, BETA, GAMMA = "alpha", "beta", "gamma"


@dataclass
class Site:
    """Three servers behind an Envoy that follows `xds`. Every model answers with its server's place + 1; the first
    server has no gamma."""

    xds: XdsServer
    servers: list[TritonServer]
    stub: Any
    url: str
    balancer: Any

    def backend(self, place: int) -> Backend:
        server = self.servers[place]
        return Backend("127.0.0.1", server.grpc_port, server.http_port)

    async def publish(self, weights: dict[str, dict[int, int]], slo_seconds: float = 0.4) -> int:
        routes = tuple(
            ModelRoute(model, slo_seconds, tuple(Weighted(self.backend(place), w) for place, w in servers.items()))
            for model, servers in weights.items()
        )
        return await self.xds.publish(POOL, Table(tuple(map(self.backend, range(SERVERS))), routes))

    async def follow(self, weights: dict[str, dict[int, int]], slo_seconds: float = 0.4) -> None:
        """Publish where models are served, and wait until the balancer says that it follows."""
        version = await self.publish(weights, slo_seconds)
        async with asyncio.timeout(20):
            while not self.xds.is_followed(POOL, version):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)

    async def ask(self, model: str, deadline_seconds: float = 10.0) -> int:
        """Return which server answered: 1, 2 or 3."""
        request = service_pb2.ModelInferRequest(model_name=model)
        request.inputs.add(name=INPUT, datatype="FP32", shape=[1, WIDTH])
        request.raw_input_contents.append(np.ones((1, WIDTH), np.float32).tobytes())
        answer = await self.stub.ModelInfer(request, timeout=deadline_seconds)
        return int(np.frombuffer(answer.raw_output_contents[0], np.int64)[0])

    async def ask_all(self, model: str, count: int = 60) -> Counter[int]:
        """Ask so often, ten at a time."""
        found: Counter[int] = Counter()
        for _ in range(count // 10):
            found.update(await asyncio.gather(*(self.ask(model) for _ in range(10))))
        return found

    def post(self, model: str) -> int:
        """Ask over HTTP."""
        body = {"inputs": [{"name": INPUT, "shape": [1, WIDTH], "datatype": "FP32", "data": [0.0] * WIDTH}]}
        made = urllib.request.Request(f"{self.url}/v2/models/{model}/infer", json.dumps(body).encode())
        with urllib.request.urlopen(made, timeout=10) as answer:
            return int(json.load(answer)["outputs"][0]["data"][0])


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        servers = []
        for place in range(SERVERS):
            server = TritonServer(tmp_path / f"triton-{place}", extra_flags=("--model-control-mode=none",))
            server.folder.mkdir()
            for model in (ALPHA, BETA, *([GAMMA] if place else [])):
                write_task(server.repository, model, {place + 1: 1})
            stack.callback(server.kill)
            await asyncio.to_thread(server.start)
            servers.append(server)
        xds = XdsServer()
        stack.push_async_callback(xds.stop)
        port = await xds.start("127.0.0.1:0")
        await xds.publish(POOL, Table())
        balancer = running_balancer(tmp_path / "envoy", POOL, port)
        try:
            # In a thread: it is ready once it was answered from here.
            ports = await asyncio.to_thread(balancer.__enter__)
        except NotHere as reason:
            pytest.skip(f"no Envoy: {reason}")
        stack.callback(balancer.__exit__, None, None, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}"))
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        yield Site(xds, servers, stub, f"http://127.0.0.1:{ports[1]}", ports[2])


async def test_requests_go_where_their_model_is_by_weight_over_one_connection(site: Site) -> None:
    await site.follow({ALPHA: {0: 1, 1: 1}, BETA: {2: 1}})
    assert set(await site.ask_all(BETA)) == {3}
    both = await site.ask_all(ALPHA)
    assert set(both) == {1, 2}
    assert min(both.values()) > 15, "evenly, more or less"
    await site.follow({ALPHA: {0: 9, 1: 1}, BETA: {2: 1}})
    assert (await site.ask_all(ALPHA, 200))[1] > 140, "nine of ten"
    assert await asyncio.to_thread(site.post, BETA) == 3, "over HTTP, too"
    assert (await site.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=5)).ready, "of any server"
    metadata = await site.stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=BETA), timeout=5)
    assert metadata.versions == ["3"]


async def test_a_drained_server_gets_nothing_and_loses_nothing(site: Site) -> None:
    await site.follow({ALPHA: {0: 1, 1: 1}})
    stop = asyncio.Event()
    answered: list[int] = []

    async def client() -> None:
        while not stop.is_set():
            answered.append(await site.ask(ALPHA))

    clients = [asyncio.create_task(client()) for _ in range(4)]
    for weights in ({0: 0, 1: 1}, {0: 1, 1: 0}, {0: 1, 1: 1}):
        await site.follow({ALPHA: weights})
        served = {place + 1 for place, weight in weights.items() if weight}
        assert set(await site.ask_all(ALPHA)) == served
    stop.set()
    await asyncio.gather(*clients)
    assert set(answered) == {1, 2}


@pytest.mark.parametrize("fault", ["killed", "hung"])
async def test_what_a_server_that_fails_does_not_answer_another_one_does(site: Site, fault: str) -> None:
    await site.follow({ALPHA: {0: 1, 1: 1}}, slo_seconds=0.1)
    await site.ask_all(ALPHA)
    if fault == "killed":
        site.servers[0].kill()
    else:
        site.servers[0].signal_all(signal.SIGSTOP)
    try:
        assert set(await site.ask_all(ALPHA, 100)) == {2}
    finally:
        if fault == "hung":
            site.servers[0].signal_all(signal.SIGCONT)


async def test_what_a_server_has_not_loaded_yet_another_one_answers(site: Site) -> None:
    await site.follow({GAMMA: {0: 1, 1: 1}})
    assert set(await site.ask_all(GAMMA, 100)) == {2}
    assert {await asyncio.to_thread(site.post, GAMMA) for _ in range(20)} == {2}
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await site.stub.ModelInfer(service_pb2.ModelInferRequest(model_name=GAMMA, model_version="9"), timeout=5)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND, "what nobody has is said as it is"


async def test_without_the_operator_it_goes_on_with_what_it_has(site: Site) -> None:
    await site.follow({ALPHA: {1: 1}})
    await site.xds.stop()
    assert set(await site.ask_all(ALPHA)) == {2}
    assert site.balancer.poll() is None


async def test_a_model_without_a_server_is_refused_at_once_and_others_go_on(site: Site) -> None:
    await site.follow({ALPHA: {}, BETA: {0: 1}})
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await site.ask(ALPHA)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await site.ask(BETA) == 1
