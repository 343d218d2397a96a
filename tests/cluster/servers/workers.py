"""Workers on real servers, each a Triton with its agent, that share one S3: a pool without its loop."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rung.adapters.triton import TritonClient
from rung.control.observation import Finished, Want
from rung.control.servers import ServerWorker
from rung.control.turns import LoadTurns
from rung.control.view import ServerPod
from rung.core.plan import Target
from servers.agents import agent_settings, running_agent, until
from servers.models import config_text, version_model
from servers.s3 import S3Server
from servers.triton import TritonServer, running_triton


@dataclass
class Server:
    """One server with its worker, and everything that the worker said ended. Close `agent` to end it."""

    triton: TritonServer
    agent: AsyncExitStack
    client: TritonClient
    worker: ServerWorker
    clock: Clock
    ended: list[Finished] = field(default_factory=list)

    async def start_with(self, model: str, *versions: int) -> None:
        """Have these versions of a model loaded, and seen."""
        await self.client.load(model, frozenset(versions), config_text(model), 30)
        await self.until(lambda: self.has(model) == {*versions}, f"{model} is loaded")

    def has(self, model: str) -> frozenset[int]:
        return self.worker.observation.loaded.get(model, frozenset())

    def is_loading(self, model: str) -> frozenset[int]:
        return self.worker.observation.loading.get(model, frozenset())

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
        """Wait until a condition holds of what the worker saw or said."""

        async def holds() -> bool:
            self.ended += self.worker.finished()
            return condition()

        await until(holds, what, seconds)

    async def until_next_look(self) -> None:
        """Wait until the worker has looked at its server once more."""
        before = self.worker.observation.time_seconds
        await self.until(lambda: self.worker.observation.time_seconds > before, "it looks again")

    async def stub_pid(self, model: str, number: int) -> int:
        """Return the process of a version, as soon as there is one."""
        deadline = time.monotonic() + 20
        while True:
            for pid, command in self.triton.stub_pids().items():
                if f"/{model}/{number}/model.onnx" in command:
                    return pid
            assert time.monotonic() < deadline, f"version {number} of {model} has no process"
            await asyncio.sleep(0.002)

    async def signal_stub(self, model: str, number: int, what: signal.Signals) -> int:
        """Send a signal to the process of a version, as soon as there is one."""
        pid = await self.stub_pid(model, number)
        os.kill(pid, what)
        return pid


def sha256_of(versions: Mapping[int, int]) -> dict[int, str]:
    """Return what is registered of versions (number to layers), as `running_workers` publishes them."""
    return {n: hashlib.sha256(version_model(n, layers=layers)).hexdigest() for n, layers in versions.items()}


def order(versions: Mapping[int, int], active: int, *standby: int, memory_bytes: int | None = None) -> Want:
    """Return what is wanted of a model with these versions; each takes `memory_bytes`."""
    memory = {} if memory_bytes is None else dict.fromkeys(versions, memory_bytes)
    return Want(Target(active, standby), sha256_of(versions), memory)


@dataclass
class Clock:
    """The time of day, which a test may put on."""

    ahead_seconds: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_seconds


@asynccontextmanager
async def running_workers(
    s3: S3Server,
    models: dict[str, dict[int, int]],
    *,
    servers: int = 1,
    load_deadline_seconds: float = 60.0,
    memory_limit_bytes: int | None = None,
) -> AsyncIterator[list[Server]]:
    """Run servers that have mirrored these versions (number to layers, by model)."""
    async with AsyncExitStack() as stack:
        for model, versions in models.items():
            for number, layers in versions.items():
                await s3.publish(model, number, version_model(number, layers=layers), config=config_text(model))
        turns = LoadTurns()
        made = [
            await stack.enter_async_context(
                _server(s3.folder / f"server-{n}", s3, turns, load_deadline_seconds, memory_limit_bytes)
            )
            for n in range(servers)
        ]
        for server in made:
            await server.until(
                lambda server=server: all(  # type: ignore[misc]
                    server.worker.observation.files(model, sha256_of(versions)) == versions.keys()
                    for model, versions in models.items()
                ),
                "every version is mirrored and seen",
            )
        yield made


@asynccontextmanager
async def _server(
    folder: Path, s3: S3Server, turns: LoadTurns, load_deadline_seconds: float, memory_limit_bytes: int | None
) -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        triton = stack.enter_context(running_triton(folder))
        address = ("127.0.0.1", triton.grpc_port)
        settings = agent_settings(s3, triton.repository, triton=address, triton_memory_limit_bytes=memory_limit_bytes)
        agent = await stack.enter_async_context(AsyncExitStack())
        await agent.enter_async_context(running_agent(settings))
        client = await stack.enter_async_context(TritonClient(triton.address))
        pod = ServerPod(
            "edge", folder.name, "uid", None, "127.0.0.1", {}, ready=True, terminating=False,
            grpc_port=triton.grpc_port, agent_port=settings.listen[1],
        )  # fmt: skip
        clock = Clock()
        worker = ServerWorker(
            pod, turns=turns, load_deadline_seconds=load_deadline_seconds, interval_seconds=0.1, wall_clock=clock
        )
        worker.start()
        stack.push_async_callback(worker.stop)
        yield Server(triton, agent, client, worker, clock)
