"""The running agent: three loops and a web server, started and stopped together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from rung.adapters.s3 import ModelRepository
from rung.adapters.triton import State, TritonClient, TritonError
from rung.agent.catalogue import Catalogue, CatalogueReader
from rung.agent.folder import ModelFolder
from rung.agent.gate import GateFile
from rung.agent.metrics import Metrics
from rung.agent.mirror import Mirror, RetryDelays
from rung.agent.passed_on import OF_GATE, OF_TRITON, PassedOn
from rung.agent.placement import VersionKey
from rung.agent.processes import TritonProcesses
from rung.agent.server import make_app

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at Triton's processes, so that one that ends is counted even when nobody scrapes."""
MEMORY_SECONDS = 2.0
INDEX_DEADLINE_SECONDS = 2.0
STUCK_SECONDS = 90.0
"""A loop that did nothing for this long is stuck: longer than any deadline within a single step of it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line gives. Sizes in bytes."""

    repository: str
    endpoint: str | None = None
    models_dir: Path = Path("/models")
    disk_budget_bytes: int = 2 << 30
    listen: tuple[str, int] = ("0.0.0.0", 8090)  # noqa: S104 - the operator and Prometheus come from other pods
    triton: tuple[str, int] = ("localhost", 8001)
    triton_metrics: tuple[str, int] = ("127.0.0.1", 8002)
    triton_process: str = "tritonserver"
    triton_memory_limit_bytes: int | None = None
    gate_file: Path | None = None
    """None: there is no gate."""
    gate_metrics: tuple[str, int] = ("127.0.0.1", 8102)
    poll_seconds: float = 10.0
    retry: RetryDelays = field(default_factory=RetryDelays)
    deadline_seconds: float = 10.0


class Agent:
    """One agent.

    Raises:
        ValueError: the repository's URI or endpoint is malformed.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._catalogue = Catalogue(settings.disk_budget_bytes, settings.triton_memory_limit_bytes)
        self._folder = ModelFolder(settings.models_dir)
        repository = ModelRepository(
            settings.repository, endpoint=settings.endpoint, deadline_seconds=settings.deadline_seconds
        )
        self._reader = CatalogueReader(self._catalogue, repository, self._folder)
        self._mirror = Mirror(self._catalogue, repository, self._folder, self._loaded_versions, settings.retry)
        self._processes = TritonProcesses(settings.triton_process)
        self._metrics = Metrics(self._catalogue, self._processes.look)
        self._neighbours = [PassedOn("Triton", settings.triton_metrics, OF_TRITON)]
        if settings.gate_file is not None:
            self._neighbours.append(PassedOn("the gate", settings.gate_metrics, OF_GATE))
        self._beats: dict[str, float] = {}
        self._triton: TritonClient | None = None
        self._memory_seconds = 0.0
        self._blind = False
        self._triton_silent = False

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set.

        Raises:
            OSError: the models' folder can't be written, or the address can't be listened on.
        """
        # Files are read and written by one thread, /proc by the other; more would only cost memory.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2, thread_name_prefix="agent"))
        await asyncio.to_thread(self._folder.prepare)
        self._catalogue.add_installed(
            await asyncio.to_thread(self._folder.installed), await asyncio.to_thread(self._folder.configs)
        )
        gate_file = self._settings.gate_file
        app = make_app(
            self._catalogue, self._metrics, self._passed_on, self._stuck, self._mirror.changed.set,
            GateFile(gate_file).write if gate_file is not None else None,
        )  # fmt: skip
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        loops: list[asyncio.Task[None]] = []
        try:
            await web.TCPSite(runner, *self._settings.listen).start()
            log.info("listening on %s:%d", *self._settings.listen)
            self._triton = TritonClient("{}:{}".format(*self._settings.triton))
            loops = [
                asyncio.create_task(self._forever("processes", self._look_once)),
                asyncio.create_task(self._forever("poll", self._poll_once)),
                asyncio.create_task(self._mirror_forever()),
            ]
            await stop.wait()
        finally:
            log.info("stopping")
            self._mirror.stop()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            if self._triton is not None:
                await self._triton.close()
            await runner.cleanup()
            for neighbour in self._neighbours:
                await neighbour.close()

    async def _passed_on(self) -> bytes:
        return b"".join(await asyncio.gather(*(neighbour.page() for neighbour in self._neighbours)))

    async def _mirror_forever(self) -> None:
        self._beat("mirror")
        await self._mirror.take_stock(lambda: self._beat("mirror"))
        await self._forever("mirror", self._mirror_once)

    async def _forever(self, name: str, once: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step. One that fails in a way nobody thought of is logged and tried again, without its beat."""
        while True:
            try:
                await once()
                self._beat(name)
            except Exception:
                log.exception("the %s loop failed", name)
                self._catalogue.failures["internal"] += 1
                await asyncio.sleep(LOOK_SECONDS)

    async def _look_once(self) -> None:
        # Before it looks: what had begun or ended by then is in the numbers.
        now_monotonic = time.monotonic()
        usage = self._processes.look()
        if self._blind != (usage.processes == 0):
            self._blind = usage.processes == 0
            if self._blind:
                log.warning(
                    "no process named %s is in sight: is shareProcessNamespace set, and Triton running?",
                    self._settings.triton_process,
                )
        if time.monotonic() - self._memory_seconds >= MEMORY_SECONDS:
            self._memory_seconds = time.monotonic()
            self._catalogue.memory_used_bytes = await asyncio.to_thread(self._processes.memory_bytes)
            self._catalogue.memory_measured_monotonic = now_monotonic
        await asyncio.sleep(LOOK_SECONDS)

    async def _poll_once(self) -> None:
        self._mirror.doubtful.clear()
        await self._reader.refresh(lambda: self._beat("poll"))
        self._mirror.changed.set()
        await _wait(self._mirror.doubtful, self._settings.poll_seconds)

    async def _mirror_once(self) -> None:
        self._mirror.changed.clear()
        if not await self._mirror.step(lambda: self._beat("mirror")):
            await _wait(self._mirror.changed, self._mirror.seconds_to_next_retry(self._settings.poll_seconds))

    async def _loaded_versions(self) -> frozenset[VersionKey] | None:
        assert self._triton is not None
        try:
            entries = await self._triton.index(INDEX_DEADLINE_SECONDS)
        except TritonError as error:
            if not self._triton_silent:
                log.warning("nothing is evicted until Triton says what it has loaded: %s", error)
            self._triton_silent = True
            return None
        self._triton_silent = False
        in_use = (State.READY, State.LOADING, State.UNLOADING)
        return frozenset((entry.model, entry.number) for entry in entries if entry.state in in_use)

    def _beat(self, name: str) -> None:
        self._beats[name] = time.monotonic()

    def _stuck(self) -> list[str]:
        now = time.monotonic()
        limit_seconds = STUCK_SECONDS + self._settings.poll_seconds
        return [name for name, beat in self._beats.items() if now - beat > limit_seconds]


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
