"""What a run is summed up to, against numpy on the same requests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from rung_loadgen.kserve import ServerError, TensorSpec, answered_version, serialise_request
from rung_loadgen.lines import LoadLine, LoadSummary, from_mapping, summarise, to_json
from rung_loadgen.openloop import Limits, LoadError, OpenLoop, Stream
from rung_loadgen.payloads import random_requests, requests_from_file
from rung_loadgen.result import ClientCost, Result, StreamResult


def stream(count: int = 1000, seed: int = 1) -> StreamResult:
    rng = np.random.default_rng(seed)
    intended = np.sort(rng.random(count) * 10)
    outcome = rng.choice([0, 0, 0, 0, 0, 0, 0, 0, 1, 2], count).astype(np.int16)
    finished = intended + rng.exponential(0.1, count)
    finished[outcome == 2] = np.nan
    return StreamResult(
        name="digit",
        slo_seconds=0.2,
        intended_seconds=intended,
        finished_seconds=finished,
        lateness_seconds=rng.exponential(0.001, count),
        outcome=outcome,
        version=np.where(outcome == 0, rng.choice([1098820, 1097000], count), 0),
        failure_names=("UNAVAILABLE", "client_overload"),
    )


def cost(cpu: float = 1.0, lateness: float = 0.001) -> ClientCost:
    return ClientCost(cpu, 10.0, 1000, lateness, 2 * lateness)


def test_the_summary_is_what_numpy_says_of_the_requests() -> None:
    one = stream()
    ok = one.outcome == 0
    latencies = one.finished_seconds[ok] - one.intended_seconds[ok]

    summary = summarise(Result((one,), cost(), 0.0), 99.0, complete=True, max_lateness_seconds=0.02)
    task = summary.tasks[0]

    assert (task.offered, task.answered) == (1000, int(ok.sum()))
    assert task.late == int((latencies > 0.2).sum()) > 0
    assert task.failed == {
        "UNAVAILABLE": int((one.outcome == 1).sum()),
        "client_overload": int((one.outcome == 2).sum()),
    }
    assert task.late_share == pytest.approx(task.late / 1000)
    assert task.violation_share == pytest.approx((task.late + 1000 - task.answered) / 1000)
    assert sum(task.versions.values()) == task.answered
    for percent in (50, 95, 99):
        wanted = np.percentile(latencies, percent) * 1e3
        assert getattr(task, f"latency_p{percent}_milliseconds") == pytest.approx(wanted, abs=0.001)
    assert task.latency_max_milliseconds == pytest.approx(latencies.max() * 1e3, abs=0.001)
    assert summary.client_cpu_microseconds_per_request == pytest.approx(1000)
    assert summary.client_bound is None


def test_lines_survive_json() -> None:
    summary = summarise(Result((stream(),), cost(), 0.0), 99.0, complete=False, max_lateness_seconds=0.02)
    line = LoadLine(1.0, 1, "digit", 400.0, 10, 9, 1, 0, {"UNAVAILABLE": 1}, {"1": 9}, 1.0, 2.0, 3.0, 4.0)

    for written in (summary, line):
        assert from_mapping(json.loads(to_json(written))) == written
    assert isinstance(from_mapping(json.loads(to_json(summary))), LoadSummary)


@pytest.mark.parametrize("fields", [{}, {"kind": "load"}, {"kind": "load_summary"}, {"kind": "load", "surprise": 1}])
def test_lines_of_another_shape_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="line"):
        from_mapping(fields)


def test_a_client_that_is_the_limit_says_so() -> None:
    assert cost().bound(max_lateness_seconds=0.02) is None
    late = cost(lateness=0.05).bound(max_lateness_seconds=0.02)
    busy = cost(cpu=9.0).bound(max_lateness_seconds=0.02)

    assert late is not None
    assert "50.0 ms" in late
    assert busy is not None
    assert "0.90 cores" in busy


def test_nothing_answered_is_no_division_by_zero() -> None:
    empty = np.zeros(0)
    none = StreamResult("t", 0.1, empty, empty, empty, empty.astype(np.int16), empty.astype(np.int64), ())
    summary = summarise(
        Result((none,), ClientCost(0.0, 0.0, 0, 0.0, 0.0), 0.0), 1.0, complete=True, max_lateness_seconds=1
    )

    assert summary.tasks[0].offered == 0
    assert summary.tasks[0].latency_p99_milliseconds is None
    assert none.latency_percentile_seconds(99) is None
    assert json.loads(to_json(summary))["tasks"][0]["violation_share"] == 0


@pytest.mark.parametrize(
    ("streams", "message"),
    [
        ([Stream("a", np.array([0.5, 0.1]), (b"x",), 1.0)], "sorted"),
        ([Stream("a", np.array([-0.5]), (b"x",), 1.0)], "0 or more"),
        ([Stream("a", np.array([np.nan]), (b"x",), 1.0)], "finite"),
        ([Stream("a", np.array([0.5]), (), 1.0)], "nothing to send"),
        ([Stream("a", np.zeros(11), (b"x",), 1.0)], "11 requests are more than the bound of 10"),
        ([Stream("a", np.array([61.0]), (b"x",), 1.0)], "lasts 61 s"),
        ([Stream("a", np.zeros(1), (b"x",), 1.0)] * 2, "two streams of one name"),
    ],
)
def test_a_run_past_its_bounds_is_refused_before_anything_is_sent(streams: list[Stream], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        OpenLoop([], streams, Limits(max_requests=10, max_seconds=60))


IMAGE = TensorSpec("x", "FP32", (-1, 1, 2, 2))


def test_requests_are_checked_against_what_the_model_takes() -> None:
    with pytest.raises(ServerError, match="'x', which the data doesn't have"):
        serialise_request("m", [IMAGE], {})
    with pytest.raises(ServerError, match=r"takes shape \(-1, 1, 2, 2\), the data has \(1, 3\)"):
        serialise_request("m", [IMAGE], {"x": np.zeros((1, 3))})
    with pytest.raises(ServerError, match="FP8, which is not supported"):
        random_requests("m", [TensorSpec("t", "FP8", (-1,))], np.random.default_rng(1))


def test_shapes_can_be_given_with_or_without_the_batch() -> None:
    free = [TensorSpec("x", "FP32", (-1, 3, -1, -1))]
    for shape in ((3, 8, 8), (1, 3, 8, 8)):
        [request] = random_requests("m", free, np.random.default_rng(1), count=1, shapes={"x": shape})
        sent = service_pb2.ModelInferRequest.FromString(request)
        assert list(sent.inputs[0].shape) == [1, 3, 8, 8]
    with pytest.raises(ServerError, match=r"takes shape \(-1, 3, -1, -1\), the data has \(8, 8\)"):
        random_requests("m", free, np.random.default_rng(1), shapes={"x": (8, 8)})
    with pytest.raises(ServerError, match=r"no input \['y'\]; it takes \['x'\]"):
        random_requests("m", free, np.random.default_rng(1), shapes={"y": (8, 8)})
    with pytest.raises(ServerError, match="more than"):
        random_requests("m", free, np.random.default_rng(1), shapes={"x": (3, 10**6, 10**6)})


def test_texts_carry_their_lengths() -> None:
    [request] = random_requests("m", [TensorSpec("t", "BYTES", (-1, 2))], np.random.default_rng(1), count=1)
    [raw] = service_pb2.ModelInferRequest.FromString(request).raw_input_contents

    assert (raw[:4], raw[12:16], len(raw)) == (b"\x08\0\0\0", b"\x08\0\0\0", 24)


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "FP64", "INT64", "UINT8", "BOOL", "BF16", "BYTES"])
def test_random_requests_are_as_long_as_their_type_says(datatype: str) -> None:
    size = {"BYTES": 12, "BF16": 2, "FP16": 2, "FP64": 8, "INT64": 8, "UINT8": 1, "BOOL": 1}.get(datatype, 4)
    requests = random_requests("m", [TensorSpec("x", datatype, (-1, 10))], np.random.default_rng(1), count=3)

    assert len(set(requests)) == 3
    for request in requests:
        parsed = service_pb2.ModelInferRequest.FromString(request)
        assert [len(content) for content in parsed.raw_input_contents] == [10 * size]
        assert list(parsed.inputs[0].shape) == [1, 10]


def test_data_from_a_file_is_sent_one_example_a_request(tmp_path: Path) -> None:
    folder = tmp_path
    examples = np.arange(12, dtype=np.float64).reshape(3, 1, 2, 2)
    np.savez(folder / "good.npz", x=examples)
    np.savez(folder / "other.npz", y=examples)
    np.savez(folder / "pickled.npz", x=np.array([{"a": 1}], dtype=object))
    (folder / "no.npz").write_bytes(b"nothing")

    requests = requests_from_file("m", [IMAGE], folder / "good.npz")
    assert requests == tuple(
        serialise_request("m", [IMAGE], {"x": example[np.newaxis].astype(np.float32)}) for example in examples
    )
    for name, message in (("other.npz", "has \\['y'\\]"), ("pickled.npz", "plain arrays"), ("no.npz", "no .npz file")):
        with pytest.raises(ServerError, match=message):
            requests_from_file("m", [IMAGE], folder / name)


def test_an_answer_that_is_none_is_not_taken_for_a_version() -> None:
    for answer in (b"\xff\xff\xff", b""):
        with pytest.raises(ValueError, match=r"answer|ModelInferResponse"):
            answered_version(answer)
