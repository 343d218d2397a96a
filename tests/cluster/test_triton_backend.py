"""The python-based onnxruntime backend in a real Triton: batches, shapes, configurations, bad requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from rung.adapters.triton import Refused, TritonClient
from servers.models import write_task
from servers.triton import TritonServer, running_triton

pytestmark = pytest.mark.cluster

FULL = """
name: "pair"
{engine}
max_batch_size: 16
input [ {{ name: "a" data_type: TYPE_FP32 dims: [ -1 ] }}, {{ name: "b" data_type: TYPE_FP32 dims: [ -1 ] }} ]
output [ {{ name: "sum" data_type: TYPE_FP32 dims: [ -1 ] }} ]
output [ {{ name: "difference" data_type: TYPE_FP32 dims: [ -1 ] }} ]
dynamic_batching {{ max_queue_delay_microseconds: 20000 }}
"""
BACKEND = 'backend: "onnxruntime"'


def _pair() -> bytes:
    """Two inputs of any length, two outputs of that length: their sum and their difference."""
    shape = ["batch", "length"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        "pair",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "b")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("sum", "difference")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _write(repository: Path, name: str, config: str, content: bytes) -> None:
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder.parent / "config.pbtxt").write_text(config)


def _request(a: np.ndarray, b: np.ndarray, *outputs: str) -> Any:
    request = service_pb2.ModelInferRequest(model_name="pair")
    for name, array in (("a", a), ("b", b)):
        request.inputs.add(name=name, datatype="FP32", shape=array.shape)
        request.raw_input_contents.append(array.astype(np.float32).tobytes())
    for output in outputs:
        request.outputs.add(name=output)
    return request


def _arrays(answer: Any) -> dict[str, np.ndarray]:
    return {
        output.name: np.frombuffer(content, np.float32).reshape(output.shape)
        for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


@pytest.fixture
async def infer(triton: TritonServer) -> AsyncIterator[Any]:
    """Ask the server with the `pair` model loaded."""
    _write(triton.repository, "pair", FULL.format(engine=BACKEND), _pair())
    async with TritonClient(triton.address) as client, grpc.aio.insecure_channel(triton.address) as channel:
        await client.load("pair", frozenset({1}), FULL.format(engine=BACKEND), 30)
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        yield lambda request: stub.ModelInfer(request, timeout=20)


async def test_requests_of_different_batches_and_lengths_each_get_their_own_answer(infer: Any) -> None:
    random = np.random.default_rng(7)
    pairs = []
    for number in range(120):
        shape = (1 + number % 4, 5 if number % 3 else 3 + number % 5)
        pairs.append((random.standard_normal(shape), random.standard_normal(shape)))
    answers = await asyncio.gather(*(infer(_request(a, b)) for a, b in pairs))
    for (a, b), answer in zip(pairs, answers, strict=True):
        got = _arrays(answer)
        np.testing.assert_allclose(got["sum"], a + b, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got["difference"], a - b, rtol=1e-4, atol=1e-5)


async def test_requests_wait_together_and_run_as_one(infer: Any, triton: TritonServer) -> None:
    a = np.ones((1, 6))
    await asyncio.gather(*(infer(_request(a, a)) for _ in range(64)))
    async with grpc.aio.insecure_channel(triton.address) as channel, asyncio.timeout(20):
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        count = executions = 0
        while count < 64:  # a batch is counted after its answers are sent
            statistics = await stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="pair"), timeout=10)
            (model,) = statistics.model_stats
            count, executions = model.inference_count, model.execution_count
    assert count == 64
    assert executions < 64


async def test_only_the_outputs_that_were_asked_for_come_back(infer: Any) -> None:
    a, b = np.full((2, 4), 3.0), np.full((2, 4), 1.0)
    answers = await asyncio.gather(
        *(infer(_request(a, b, name)) for name in ("sum", "difference") for _ in range(8)),
        *(infer(_request(a, b)) for _ in range(8)),
    )
    for number, answer in enumerate(answers):
        got = _arrays(answer)
        expected = {"sum"} if number < 8 else {"difference"} if number < 16 else {"sum", "difference"}
        assert set(got) == expected
        assert all((array == (4.0 if name == "sum" else 2.0)).all() for name, array in got.items())


async def test_a_bad_request_fails_alone_and_says_why(infer: Any) -> None:
    good = _request(np.ones((1, 6)), np.ones((1, 6)))
    bad = _request(np.ones((1, 6)), np.ones((1, 5)))  # shapes that can't be added
    results = await asyncio.gather(
        *(infer(bad if number % 8 == 3 else good) for number in range(32)), return_exceptions=True
    )
    for number, result in enumerate(results):
        if number % 8 == 3:
            assert isinstance(result, grpc.aio.AioRpcError)
            assert "ONNXRuntimeError" in (result.details() or "")
        else:
            assert not isinstance(result, BaseException), result
            assert (_arrays(result)["sum"] == 2.0).all()


async def test_the_platform_name_of_the_official_backend_works_too(triton: TritonServer) -> None:
    text = FULL.format(engine='platform: "onnxruntime_onnx"')
    _write(triton.repository, "pair", text, _pair())
    async with TritonClient(triton.address) as client:
        await client.load("pair", frozenset({1}), text, 30)
        assert await client.answering_version("pair", 10, config_text=text) == 1


async def test_a_configuration_is_completed_from_the_file(tmp_path: Path) -> None:
    short = 'name: "pair"\nbackend: "onnxruntime"\n'
    with running_triton(tmp_path / "triton", completes_configurations=True) as triton:
        _write(triton.repository, "pair", short, _pair())
        async with TritonClient(triton.address) as client:
            await client.load("pair", frozenset({1}), short, 30)
            config = await client.config("pair")
            assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("a", [-1]), ("b", [-1])]
            assert [tensor.name for tensor in config.output] == ["sum", "difference"]
            assert config.max_batch_size == 4
            assert config.HasField("dynamic_batching")
            assert await client.answering_version("pair", 10) == 1


async def test_a_bad_file_fails_its_load_when_configurations_are_completed(tmp_path: Path) -> None:
    short = 'name: "pair"\nbackend: "onnxruntime"\n'
    with running_triton(tmp_path / "triton", completes_configurations=True) as triton:
        _write(triton.repository, "pair", short, b"garbage" * 1000)
        good = write_task(triton.repository, "digits", {1: 1})
        async with TritonClient(triton.address) as client:
            with pytest.raises(Refused, match=r"model 'pair' version 1: ONNX Runtime can't load it"):
                await client.load("pair", frozenset({1}), short, 30)
            await client.load("digits", frozenset({1}), good, 30)
            assert await client.answering_version("digits", 10, config_text=good) == 1


async def test_an_incomplete_configuration_without_completion_is_refused_in_words(triton: TritonServer) -> None:
    short = 'name: "pair"\nbackend: "onnxruntime"\n'
    _write(triton.repository, "pair", short, _pair())
    async with TritonClient(triton.address) as client:
        with pytest.raises(Refused, match=r"model 'pair' version 1: the configuration has the inputs \[\]"):
            await client.load("pair", frozenset({1}), short, 30)


async def test_output_names_that_the_file_does_not_have_are_named(triton: TritonServer) -> None:
    text = FULL.format(engine=BACKEND).replace('"difference"', '"quotient"')
    _write(triton.repository, "pair", text, _pair())
    async with TritonClient(triton.address) as client:
        with pytest.raises(Refused, match="quotient"):
            await client.load("pair", frozenset({1}), text, 30)
