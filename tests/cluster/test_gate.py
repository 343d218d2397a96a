"""The gate in front of a real Triton: who answers, in calm and in a burst, and what happens when something breaks."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from rung.adapters.triton import TritonClient
from servers.gate import Gate, running_gate
from servers.models import INPUT, WIDTH, write_task
from servers.triton import TritonServer

pytestmark = pytest.mark.cluster

TASK = "digits"
LAYERS = {1: 1, 2: 700, 3: 7000}
SLO_SECONDS = 0.4
BURST = 64
SERVICE_SECONDS = {"1": 0.001, "2": 0.01, "3": 0.1}


@pytest.fixture
def gate(triton: TritonServer, tmp_path: Path) -> Iterator[Gate]:
    with running_gate(triton, tmp_path / "gate") as running:
        yield running


@pytest.fixture
async def server(triton: TritonServer) -> AsyncIterator[TritonClient]:
    """The server with all three versions loaded, the most accurate one allocated."""
    config = write_task(triton.repository, TASK, LAYERS, one_matrix=True)
    async with TritonClient(triton.address) as client:
        await client.load(TASK, frozenset(LAYERS), config, 30)
        yield client


def request(rows: int = 1, version: str = "") -> Any:
    made = service_pb2.ModelInferRequest(model_name=TASK, model_version=version)
    made.inputs.add(name=INPUT, datatype="FP32", shape=(rows, WIDTH))
    made.raw_input_contents.append(np.zeros((rows, WIDTH), np.float32).tobytes())
    return made


@pytest.fixture
async def ask(gate: Gate, server: TritonClient) -> AsyncIterator[Callable[..., Any]]:
    async with grpc.aio.insecure_channel(gate.address) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        yield lambda made=None, timeout=20: stub.ModelInfer(made or request(), timeout=timeout)


def answered_by(answer: Any) -> int:
    """Return the version that answered, by its own word; the response has to say the same."""
    (content,) = answer.raw_output_contents
    number = int(np.frombuffer(content, np.int64)[0])
    assert answer.model_version == str(number)
    return number


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def take_over(gate: Gate, ask: Callable[..., Any], **more: Any) -> None:
    """Have the gate choose for the task, and wait until it knows what is loaded."""
    gate.configure({TASK: {"sloSeconds": SLO_SECONDS, "serviceSeconds": SERVICE_SECONDS, **more}})
    known = f'rung_gate_service_seconds{{model="{TASK}",version="3"}}'
    await eventually(lambda: known in gate.page("metrics"), "it knows what is loaded")


async def test_without_tasks_it_hands_everything_on(gate: Gate, ask: Callable[..., Any]) -> None:
    assert answered_by(await ask()) == 3
    assert answered_by(await ask(request(version="1"))) == 1
    with pytest.raises(grpc.aio.AioRpcError, match="9"):
        await ask(request(version="9"))
    page = await asyncio.to_thread(read, f"{gate.url}/v2/models/{TASK}/versions/1")
    assert json.loads(page)["name"] == TASK


async def test_in_calm_the_allocated_version_answers_and_one_that_is_named_always_does(
    gate: Gate, ask: Callable[..., Any]
) -> None:
    await take_over(gate, ask)
    assert [answered_by(await ask()) for _ in range(3)] == [3, 3, 3]
    assert answered_by(await ask(request(version="2"))) == 2
    with pytest.raises(grpc.aio.AioRpcError, match="9"):
        await ask(request(version="9"))


async def test_a_burst_is_answered_in_time_by_loaded_versions_below(gate: Gate, ask: Callable[..., Any]) -> None:
    await take_over(gate, ask)
    took = []

    async def one() -> int:
        began = time.monotonic()
        version = answered_by(await ask())
        took.append(time.monotonic() - began)
        return version

    for _ in range(3):  # the first answers of a version take longer
        await one()
    began, alone = time.monotonic(), max(took[-2:])
    versions = Counter(await asyncio.gather(*(one() for _ in range(BURST))))
    lasted = time.monotonic() - began
    assert versions[3] < BURST, f"it was no burst: {alone:.3f} s each, {lasted:.2f} s together"
    assert versions[2] > 0, f"the most accurate one that is in time: {versions}"
    text = gate.page("metrics")
    answered = [line for line in text.splitlines() if line.startswith("rung_gate_requests_total")]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in answered) == 3 + BURST
    assert f'rung_gate_arrivals_total{{model="{TASK}"}} {3 + BURST}' in text
    assert f'rung_gate_late_total{{model="{TASK}"}} ' in text


async def test_http_clients_get_the_same(gate: Gate, ask: Callable[..., Any]) -> None:
    await take_over(gate, ask)
    body = {"inputs": [{"name": INPUT, "shape": [1, WIDTH], "datatype": "FP32", "data": [0.0] * WIDTH}]}

    def post() -> dict[str, Any]:
        made = urllib.request.Request(f"{gate.url}/v2/models/{TASK}/infer", json.dumps(body).encode())
        with urllib.request.urlopen(made, timeout=20) as answer:
            return dict(json.load(answer))

    first = await asyncio.to_thread(post)
    assert first["model_version"] == "3"
    assert first["outputs"][0]["data"] == [3]
    with ThreadPoolExecutor(BURST) as clients:
        answers = list(clients.map(lambda _: post(), range(BURST)))
    assert {answer["model_version"] for answer in answers} & {"1", "2"}
    assert all(str(answer["outputs"][0]["data"][0]) == answer["model_version"] for answer in answers)


def settled(versions: list[int], count: int, best: int) -> bool:
    """Tell whether so many have answered, and the last of them are none above the best one."""
    return len(versions) >= count and max(versions[-5:]) <= best


async def test_versions_that_are_unloaded_on_the_way_fail_nothing(
    gate: Gate, ask: Callable[..., Any], server: TritonClient, triton: TritonServer
) -> None:
    await take_over(gate, ask)
    config = (triton.repository / TASK / "config.pbtxt").read_text()
    stop = asyncio.Event()
    versions: list[int] = []

    async def client() -> None:
        while not stop.is_set():
            versions.append(answered_by(await ask()))

    asked = [asyncio.create_task(client()) for _ in range(3)]
    for wanted in ({1, 2}, {1, 2, 3}, {1}, {1, 2}):
        await server.load(TASK, frozenset(wanted), config, 30)
        await eventually(partial(settled, versions, len(versions) + 20, max(wanted)), f"{wanted} answer")
    stop.set()
    await asyncio.gather(*asked)


async def test_best_effort_is_refused_before_others_are_late(gate: Gate, ask: Callable[..., Any]) -> None:
    await take_over(gate, ask, bestEffort=True, serviceSeconds={"1": 0.05, "2": 0.1, "3": 0.3})
    results = await asyncio.gather(*(ask() for _ in range(40)), return_exceptions=True)
    refused = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
    assert refused
    assert len(refused) < 40
    for each in refused:
        assert each.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(each.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "400"
    assert f'model="{TASK}",outcome="refused",version="0"}} {len(refused)}' in gate.page("metrics")


async def test_a_malformed_file_changes_nothing(gate: Gate, ask: Callable[..., Any]) -> None:
    await take_over(gate, ask)
    gate.tasks_file.write_text('{"tasks": {"digits": ')
    await eventually(lambda: "what was known goes on" in gate.log.read_text(), "it says that it can't read the file")
    assert answered_by(await ask()) == 3
    assert "rung_gate_service_seconds" in gate.page("metrics")


async def test_requests_that_are_malformed_fail_alone_and_say_why(gate: Gate, ask: Callable[..., Any]) -> None:
    await take_over(gate, ask)
    bad = service_pb2.ModelInferRequest(model_name=TASK)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await ask(bad)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert answered_by(await ask()) == 3


async def test_a_client_that_goes_away_holds_nobody_up(gate: Gate, ask: Callable[..., Any]) -> None:
    await take_over(gate, ask)
    impatient = [ask(timeout=0.05) for _ in range(30)]
    results = await asyncio.gather(*impatient, return_exceptions=True)
    assert any(isinstance(each, grpc.aio.AioRpcError) for each in results)
    async with asyncio.timeout(5):
        assert answered_by(await ask()) == 3


async def test_a_server_that_ends_is_told_and_its_successor_found(
    gate: Gate, ask: Callable[..., Any], server: TritonClient, triton: TritonServer
) -> None:
    await take_over(gate, ask)
    triton.kill()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await ask()
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    triton.start()
    await server.load(TASK, frozenset({1, 2}), (triton.repository / TASK / "config.pbtxt").read_text(), 30)
    codes = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND}
    deadline = time.monotonic() + 20
    while not isinstance(
        answer := (await asyncio.gather(ask(), return_exceptions=True))[0], service_pb2.ModelInferResponse
    ):
        assert isinstance(answer, grpc.aio.AioRpcError)
        assert answer.code() in codes
        assert time.monotonic() < deadline, answer
    assert answered_by(answer) == 2
