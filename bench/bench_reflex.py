"""What the ways to choose a version for each request add to it: time at the median, and CPU.

Run it with `make bench-reflex`, or `.venv/bin/python bench/bench_reflex.py --rounds 10 --json`. In front of one real
Triton on loopback, in turn: nothing; Rung's gate, handing on and choosing; Envoy, handing on and with a Lua filter that
adds the version. One client asks one thing at a time, with small inputs and with 150 KB, so what differs is what stands
between. Every round asks each of them: what is compared saw the same minute of this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import service_pb2

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cluster"))

from servers.envoy import running_envoy
from servers.gate import START_SECONDS, Gate, running_gate
from servers.ports import free_port
from servers.triton import TritonServer, running_triton
from servers.wheels import NotHere

SIZES = {"small": 64, "150 KB": 37_500}
"""Numbers of four bytes in an input."""
DIRECT, PASSES, CHOOSES, ENVOY, LUA = "direct", "gate, handing on", "gate, choosing", "Envoy", "Envoy with Lua"
WARM_UP = 50
METHOD = "/inference.GRPCInferenceService/ModelInfer"
ADD_VERSION = """
function envoy_on_request(handle)
  local body = handle:body()
  local length = body:length()
  local message = body:getBytes(5, length - 5) .. "\\18\\1\\49"
  local size = #message
  local frame = string.char(0, math.floor(size / 16777216) % 256, math.floor(size / 65536) % 256,
    math.floor(size / 256) % 256, size % 256)
  body:setBytes(frame .. message)
end
"""
"""Of a field that occurs twice, protobuf takes the last: so field 2, the version, is added at the end, and the gRPC
frame's length is mended."""


@dataclass(frozen=True)
class Way:
    """One way to the server: where it is asked, and the process in between (None: nothing)."""

    name: str
    address: str
    pid: int | None


@dataclass(frozen=True)
class Line:
    """What was measured of a way: milliseconds; `added` to the direct way, medians over the rounds."""

    way: str
    size: str
    p50_ms: float
    p99_ms: float
    added_p50_ms: float
    cpu_ms: float
    """CPU of the process in between, by request."""


def write_model(repository: Path, name: str, width: int) -> None:
    """Write a model that costs next to nothing: the largest of its inputs."""
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    graph = helper.make_graph(
        [helper.make_node("ReduceMax", ["IN", "axis"], ["OUT"], keepdims=1)],
        name,
        [helper.make_tensor_value_info("IN", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("OUT", TensorProto.FLOAT, ["batch", 1])],
        [axis],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (repository / name / "1").mkdir(parents=True)
    onnx.save(model, str(repository / name / "1" / "model.onnx"))
    (repository / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: 8\n'
        f'input [ {{ name: "IN" data_type: TYPE_FP32 dims: [ {width} ] }} ]\n'
        'output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] } ]\ninstance_group [ { count: 1 kind: KIND_CPU } ]\n'
    )


def payload(name: str, width: int) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=name)
    request.inputs.add(name="IN", datatype="FP32", shape=[1, width])
    request.raw_input_contents.append(np.ones((1, width), np.float32).tobytes())
    return bytes(request.SerializeToString())


def envoy_bootstrap(triton: TritonServer, ports: dict[str, int], admin_port: int) -> dict[str, Any]:
    """Return a configuration with a listener for each way through Envoy."""

    def listener(name: str, filters: list[dict[str, Any]]) -> dict[str, Any]:
        router = {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
            ".HttpConnectionManager",
            "stat_prefix": name.replace(" ", "_"),
            "codec_type": "HTTP2",
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "triton", "timeout": "0s"}}],
                    }
                ]
            },
            "http_filters": [*filters, router],
        }
        return {
            "name": name,
            "address": address(ports[name]),
            "filter_chains": [
                {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
            ],
        }

    def address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    lua = {
        "name": "envoy.filters.http.lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": ADD_VERSION},
        },
    }
    options = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "triton",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {
            "cluster_name": "triton",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(triton.grpc_port)}}]}],
        },
    }
    return {
        "admin": {"address": address(admin_port)},
        "static_resources": {"listeners": [listener(ENVOY, []), listener(LUA, [lua])], "clusters": [cluster]},
    }


@contextlib.contextmanager
def ways(folder: Path) -> Iterator[list[Way]]:
    """Start the server and everything that stands before it."""
    with contextlib.ExitStack() as stack:
        for name, width in SIZES.items():
            write_model(folder / "models", model_name(name), width)
        triton = stack.enter_context(running_triton(folder, "--model-control-mode=none"))
        found = [Way(DIRECT, triton.address, None)]
        for name in (PASSES, CHOOSES):
            gate: Gate = stack.enter_context(running_gate(triton, folder / name))
            if name == CHOOSES:
                task = {"sloSeconds": 0.4, "serviceSeconds": {"1": 0.001}}
                gate.configure({model_name(size): task for size in SIZES})
                deadline = time.monotonic() + START_SECONDS
                while "rung_gate_service_seconds{" not in gate.page("metrics"):
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"the gate does not see the models:\n{gate.log.read_text()}")
                    time.sleep(0.02)
            assert gate.process is not None
            found.append(Way(name, gate.address, gate.process.pid))
        ports = {ENVOY: free_port(), LUA: free_port()}
        admin_port = free_port()
        try:
            envoy = stack.enter_context(
                running_envoy(folder / "envoy", envoy_bootstrap(triton, ports, admin_port), admin_port)
            )
            found += [Way(name, f"127.0.0.1:{port}", envoy.pid) for name, port in ports.items()]
        except NotHere as reason:
            print(f"without Envoy: {reason}", file=sys.stderr)
        yield found


def model_name(size: str) -> str:
    return f"model-{SIZES[size]}"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(call: Callable[..., bytes], message: bytes, count: int) -> list[float]:
    """Ask so often, one after the other; returns the seconds of each."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        call(message, timeout=10)
        took.append(time.perf_counter() - began)
    return took


def measure(all_ways: Sequence[Way], rounds: int, requests: int) -> list[Line]:
    """Ask every way in every round."""
    seconds: dict[tuple[str, str], list[list[float]]] = {}
    cpu: dict[tuple[str, str], float] = {}
    options = [("grpc.max_receive_message_length", -1)]
    with contextlib.ExitStack() as stack:
        calls: dict[str, Callable[..., bytes]] = {
            way.name: stack.enter_context(grpc.insecure_channel(way.address, options=options)).unary_unary(METHOD)
            for way in all_ways
        }
        for size, width in SIZES.items():
            message = payload(model_name(size), width)
            for way in all_ways:
                ask(calls[way.name], message, WARM_UP)
            for _ in range(rounds):
                for way in all_ways:
                    before = cpu_seconds(way.pid) if way.pid else 0.0
                    seconds.setdefault((way.name, size), []).append(ask(calls[way.name], message, requests))
                    after = cpu_seconds(way.pid) if way.pid else 0.0
                    cpu[way.name, size] = cpu.get((way.name, size), 0.0) + after - before
    lines = []
    for (name, size), each in seconds.items():
        whole = sorted(one for took in each for one in took)
        pairs = zip(each, seconds[DIRECT, size], strict=True)
        lines.append(
            Line(
                name,
                size,
                p50_ms=1e3 * median(whole),
                p99_ms=1e3 * whole[int(0.99 * len(whole))],
                added_p50_ms=1e3 * median(median(took) - median(direct) for took, direct in pairs),
                cpu_ms=1e3 * cpu[name, size] / len(whole),
            )
        )
    return lines


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=500, help="of each way in a round")
    parser.add_argument("--json", action="store_true", help="print the numbers alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as folder, ways(Path(folder)) as all_ways:
        lines = measure(all_ways, arguments.rounds, arguments.requests)
    if arguments.json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
        return
    table = Table(title=f"{arguments.rounds} rounds of {arguments.requests} requests, one at a time")
    for heading in ("input", "way", "p50, ms", "p99, ms", "added at p50, ms", "CPU between, ms"):
        table.add_column(heading, justify="left" if heading in ("input", "way") else "right")
    for line in lines:
        numbers = (line.p50_ms, line.p99_ms, line.added_p50_ms, line.cpu_ms)
        table.add_row(line.size, line.way, *(f"{number:.3f}" for number in numbers))
    Console().print(table)


if __name__ == "__main__":
    main()
