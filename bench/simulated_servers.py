"""Many servers in one process, for the operator to look after: each speaks Triton's gRPC protocol and the agent's HTTP.

    python bench/simulated_servers.py SPEC.json

SPEC: {"tasks": [[NAME, ...] by server], "versions": {NUMBER: [sha256, CPU-seconds]}, "config": text of a config.pbtxt
with MODEL in it, "load_seconds": s, "wave_seconds": s}. Server n listens at 127.1.(n // 250).(n % 250 + 1), at the
usual ports. Nothing is inferred: loads take their time, and counters grow as if clients asked, in waves, each task at
its own time, and the version that is loaded answered. Prints "ready" when all listen; ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

GRPC_PORT, AGENT_PORT = 8001, 8090
MEAN_SHARE = 0.5
"""Of a server's core, if the middle versions answer."""


def address(number: int) -> str:
    """Return the address of a server on loopback."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


@dataclass
class Server:
    """One server: what is loaded, and its counters."""

    number: int
    tasks: list[str]
    costs: dict[int, float]
    load_seconds: float
    wave_seconds: float
    loaded: dict[str, frozenset[int]] = field(default_factory=dict)
    answered: dict[tuple[str, int], float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    counted_seconds: float = field(default_factory=time.time)
    loads: int = 0

    def rate_rps(self, task: str, at_seconds: float) -> float:
        middle = sorted(self.costs.values())[len(self.costs) // 2]
        mean = MEAN_SHARE / len(self.tasks) / middle
        phase = (hash((self.number, self.tasks.index(task))) % 1000) / 1000
        return mean * (1.0 + 0.6 * math.sin(2 * math.pi * (at_seconds / self.wave_seconds + phase)))

    def count(self) -> None:
        """Bring the counters to this moment."""
        now = time.time()
        past, self.counted_seconds = now - self.counted_seconds, now
        for task, versions in self.loaded.items():
            active = max(versions)
            answers = past * self.rate_rps(task, now - past / 2)
            self.answered[task, active] = self.answered.get((task, active), 0.0) + answers
            self.cpu_seconds += answers * self.costs[active]
        self.cpu_seconds += 0.01 * past

    def metrics(self) -> str:
        self.count()
        lines = [f"rung_agent_triton_cpu_seconds_total {self.cpu_seconds:.4f}"]
        for task, versions in self.loaded.items():
            for version in versions:
                labels = f'{{model="{task}",version="{version}"}}'
                done = int(self.answered.get((task, version), 0.0))
                lines.append(f"nv_inference_request_success{labels} {done}")
                lines.append(f"nv_inference_request_failure{labels} 0")
                lines.append(f"nv_inference_pending_request_count{labels} 0")
        return "\n".join(lines) + "\n"


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The calls that the operator makes."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def RepositoryIndex(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: N802
        answer = service_pb2.RepositoryIndexResponse()
        for task, versions in self.server.loaded.items():
            for version in versions:
                answer.models.add(name=task, version=str(version), state="READY")
        return answer

    async def RepositoryModelLoad(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: N802
        config = json_format.Parse(request.parameters["config"].string_param, model_config_pb2.ModelConfig())
        wanted = frozenset(config.version_policy.specific.versions)
        new = wanted - self.server.loaded.get(request.model_name, frozenset())
        if new:
            self.server.cpu_seconds += 0.3 * len(new)
            self.server.loads += len(new)
            await asyncio.sleep(self.server.load_seconds * len(new))
        self.server.count()
        self.server.loaded[request.model_name] = wanted
        return service_pb2.RepositoryModelLoadResponse()

    async def ModelInfer(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: N802
        version = request.model_version or str(max(self.server.loaded.get(request.model_name, frozenset({0}))))
        return service_pb2.ModelInferResponse(model_name=request.model_name, model_version=version)

    async def ModelReady(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: N802
        loaded = self.server.loaded.get(request.name, frozenset())
        asked = int(request.version) if request.version else max(loaded, default=0)
        return service_pb2.ModelReadyResponse(ready=asked in loaded)


def inventory(server: Server, versions: dict[int, tuple[str, float]], config: str) -> str:
    """Return what the agent of a server has, which never changes."""
    files = {str(n): {"state": "Available", "bytes": 1000, "sha256": sha256} for n, (sha256, _) in versions.items()}
    return json.dumps(
        {
            "tasks": {task: {"config": config.replace("MODEL", task), "versions": files} for task in server.tasks},
            "repository": {"reachable": True, "lastContact": time.time(), "message": ""},
            "memory": {"limitBytes": 2 << 30, "usedBytes": 1 << 29, "ageSeconds": 0.5},
            "disk": {"budgetBytes": 1 << 30, "usedBytes": 1 << 20},
        }
    )


async def serve(spec: dict[str, Any]) -> None:
    """Serve all of them until told to end."""
    versions = {int(number): (sha256, seconds) for number, (sha256, seconds) in spec["versions"].items()}
    costs = {number: seconds for number, (_, seconds) in versions.items()}
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    running = []
    for number, tasks in enumerate(spec["tasks"]):
        server = Server(number, tasks, costs, spec["load_seconds"], spec["wave_seconds"])
        body = inventory(server, versions, spec["config"])

        async def get_inventory(request: web.Request, body: str = body) -> web.Response:
            return web.Response(text=body, content_type="application/json")

        async def get_metrics(request: web.Request, server: Server = server) -> web.Response:
            return web.Response(text=server.metrics())

        async def put(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(status=204)

        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/inventory", get_inventory),
                web.get("/metrics", get_metrics),
                web.put("/v1/wanted", put),
                web.put("/v1/reflex", put),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, address(number), AGENT_PORT).start()
        triton = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Triton(server), triton)
        triton.add_insecure_port(f"{address(number)}:{GRPC_PORT}")
        await triton.start()
        running.append((runner, triton, server))
    print("ready", flush=True)
    await stop.wait()
    print(json.dumps({"loads": sum(server.loads for _, _, server in running)}), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(json.loads(Path(sys.argv[1]).read_text())))
