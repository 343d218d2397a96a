"""One Triton server, looked after: a watcher that knows what it has loaded, and a worker that brings it to the plan.

Each server has its own tasks, so one that is slow, hung or gone never delays the others or the loop. The worker is
level-triggered: it compares what is wanted with what is there, and tries again until they agree.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace

from rung.adapters.agent import AgentClient, AgentError, Inventory
from rung.adapters.triton import State, TritonClient, TritonError
from rung.control.backoff import BrokenVersions
from rung.control.swap import Deadlines, Kind, MemoryBudget, Outcome, SwapOutcome, apply, load_standbys
from rung.control.view import ServerPod
from rung.core.plan import Target
from rung.core.swap_steps import wanted_versions

logger = logging.getLogger(__name__)

INDEX_DEADLINE_SECONDS = 2.0
OUTCOMES_KEPT = 256


@dataclass(frozen=True, slots=True)
class Want:
    """What one model shall be on this server; `memory_bytes` is the peak of each version, where it was measured."""

    target: Target
    memory_bytes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a server was last seen to have. Before the first answer `reachable` is False and `loaded` empty."""

    reachable: bool = False
    message: str = "not asked yet"
    time_seconds: float = 0.0
    """When Triton last answered."""
    loaded: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """By model: versions that are ready."""
    inventory: Inventory | None = None
    """What the agent last said; it stays when the agent does not answer, because the files stay too."""
    inventory_message: str = ""
    """Why the agent did not answer the last time; empty when it did."""

    def files(self, model: str) -> frozenset[int]:
        """Return the versions whose files are on the server, whole and verified."""
        found = self.inventory.tasks.get(model) if self.inventory else None
        return found.available() if found else frozenset()


@dataclass(frozen=True, slots=True)
class Finished:
    """A swap that ended."""

    server: str
    model: str
    time_seconds: float
    outcome: SwapOutcome
    standby: bool = False
    """True when a standby was loaded: what answers did not change."""


class ServerWorker:
    """Watches one server and carries out what is wanted of it.

    `cold_gate(model)` is a semaphore shared by the servers of a pool: at most so many of them load a version of one
    model at the same time.
    """

    def __init__(
        self,
        pod: ServerPod,
        *,
        cold_gate: Callable[[str], asyncio.Semaphore],
        load_deadline_seconds: float,
        interval_seconds: float = 1.0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if pod.triton_address is None or pod.agent_address is None:
            raise ValueError(f"pod {pod.name} has no address yet")
        self.pod = pod
        self.observation = Observation()
        self.broken = BrokenVersions()
        self.load_deadline_seconds = load_deadline_seconds
        self.interval_seconds = interval_seconds
        self._triton = TritonClient(pod.triton_address)
        self._agent = AgentClient(pod.agent_address)
        self._cold_gate = cold_gate
        self._one_load_at_a_time = asyncio.Semaphore(1)
        self._wall_clock = wall_clock
        self._wanted: dict[str, Want] = {}
        self._wanted_files: Mapping[str, tuple[int, ...]] = {}
        self._swaps: dict[str, asyncio.Task[None]] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._finished: deque[Finished] = deque(maxlen=OUTCOMES_KEPT)
        self.swapped = asyncio.Event()
        """Set whenever a swap ends."""

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin to watch. Call once, inside the running event loop."""
        name = self.pod.name
        self._watchers = [
            asyncio.create_task(self._forever(self._observe_triton), name=f"triton of {name}"),
            asyncio.create_task(self._forever(self._observe_agent), name=f"agent of {name}"),
        ]

    async def stop(self) -> None:
        """Stop watching and swapping; the server goes on with what it has."""
        tasks = [*self._watchers, *self._swaps.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Exception):
            await self._triton.close()
        with suppress(Exception):
            await self._agent.close()

    async def _forever(self, once: Callable[[], object]) -> None:
        while True:
            started = time.monotonic()
            try:
                await once()  # type: ignore[misc]
            except Exception:
                logger.exception("Watching server %s failed; it goes on", self.pod.name)
            await asyncio.sleep(max(0.05, self.interval_seconds - (time.monotonic() - started)))

    # ------------------------------------------------------------------ what is there

    async def _observe_triton(self) -> None:
        await self.look()
        self._converge()

    async def look(self) -> None:
        """Ask Triton what it has loaded. An answer that does not come is part of the observation, never an error."""
        try:
            index = await self._triton.index(INDEX_DEADLINE_SECONDS)
        except TritonError as error:
            # What it had is kept: a server that hangs for a moment still has it, and a dead one is not ready.
            self.observation = replace(self.observation, reachable=False, message=str(error))
            return
        loaded: dict[str, set[int]] = {}
        for entry in index:
            if entry.state is State.READY:
                loaded.setdefault(entry.model, set()).add(entry.number)
        self.observation = replace(
            self.observation,
            reachable=True,
            message="",
            time_seconds=self._wall_clock(),
            loaded={model: frozenset(numbers) for model, numbers in loaded.items()},
        )

    async def _observe_agent(self) -> None:
        try:
            inventory = await self._agent.inventory()
            if self._wanted_files:
                await self._agent.put_wanted(self._wanted_files)
        except AgentError as error:
            self.observation = replace(self.observation, inventory_message=str(error))
            return
        self.observation = replace(self.observation, inventory=inventory, inventory_message="")

    def finished(self) -> tuple[Finished, ...]:
        """Return the swaps that ended since the last call, oldest first."""
        done = tuple(self._finished)
        self._finished.clear()
        return done

    def swapping(self) -> frozenset[str]:
        """Return the models that are being brought to their target right now."""
        return frozenset(model for model, task in self._swaps.items() if not task.done())

    # ------------------------------------------------------------------ what is wanted

    def want(self, wanted: Mapping[str, Want], files: Mapping[str, tuple[int, ...]]) -> None:
        """Set what every model shall be (models that are absent are left alone), and which files are wanted soonest."""
        self._wanted = dict(wanted)
        self._wanted_files = files
        self._converge()

    def _converge(self) -> None:
        for model in self._wanted:
            running = self._swaps.get(model)
            if (running is None or running.done()) and self._differs(model):
                self._swaps[model] = asyncio.create_task(self._bring(model), name=f"{model} on {self.pod.name}")

    def _differs(self, model: str) -> bool:
        if not self.observation.reachable:
            return False
        target = self._servable(self._wanted[model].target, model)
        return target is not None and wanted_versions(target) != self.observation.loaded.get(model, frozenset())

    def _servable(self, target: Target, model: str) -> Target | None:
        """The target without standbys that must not be tried now; None when the active one must not be tried."""
        loaded = self.observation.loaded.get(model, frozenset())
        blocked = self.broken.waiting(model, self._wall_clock()) - loaded
        if target.active in blocked or (target.active not in loaded and not self._has_files(model, target.active)):
            return None
        standby = tuple(n for n in target.standby if n in loaded or (n not in blocked and self._has_files(model, n)))
        return Target(target.active, standby)

    def _has_files(self, model: str, version: int) -> bool:
        return version in self.observation.files(model)

    # ------------------------------------------------------------------ from one to the other

    async def _bring(self, model: str) -> None:
        """Bring one model to its target: first the version that answers, then the standbys."""
        try:
            while (want := self._wanted.get(model)) is not None and self._differs(model):
                target = self._servable(want.target, model)
                config = self._config(model)
                if target is None or config is None:
                    return
                loaded = self.observation.loaded.get(model, frozenset())
                if target.active in loaded:
                    done = await self._switch(model, want, target, config, loaded)
                    loads = wanted_versions(target) - self.observation.loaded.get(model, frozenset())
                    if done and loads:
                        async with self._loading(model):
                            done = self._wanted.get(model) != want or await self._standbys(model, want, target, config)
                else:
                    async with self._loading(model):
                        # What is wanted may have changed while another load was waited for.
                        if self._wanted.get(model) != want:
                            continue
                        done = await self._switch(model, want, target, config, None)
                if not done:
                    return
        except Exception:
            logger.exception("Bringing %s on %s to its target failed; it is tried again", model, self.pod.name)

    def _loading(self, model: str) -> AsyncExitStack:
        """Wait for this server's turn to load: one load at a time here, and a few of one model in the pool."""
        return _Turns(self._cold_gate(model), self._one_load_at_a_time)

    def _config(self, model: str) -> str | None:
        inventory = self.observation.inventory
        found = inventory.tasks.get(model) if inventory else None
        return found.config or None if found else None

    def _budget(self) -> MemoryBudget | None:
        memory = self.observation.inventory.memory if self.observation.inventory else None
        limit = (memory.limit_bytes if memory else None) or self.pod.memory_limit_bytes
        return MemoryBudget(limit, memory.used_bytes) if memory and limit else None

    async def _switch(self, model: str, want: Want, target: Target, config: str, loaded: frozenset[int] | None) -> bool:
        if loaded is not None and max(loaded) == target.active and loaded <= wanted_versions(target):
            return True  # it answers already, and nothing is there that has to go
        outcome = await apply(
            self._triton,
            model,
            target,
            config_text=config,
            deadlines=Deadlines(load=self.load_deadline_seconds),
            memory=self._budget(),
            versions_memory=want.memory_bytes,
            loaded=loaded,
        )
        self._note(model, outcome, standby=False)
        await self.look()
        return outcome.ok

    async def _standbys(self, model: str, want: Want, target: Target, config: str) -> bool:
        outcomes = await load_standbys(
            self._triton,
            model,
            target,
            config_text=config,
            deadlines=Deadlines(load=self.load_deadline_seconds),
            memory=self._budget(),
            versions_memory=want.memory_bytes,
        )
        for outcome in outcomes:
            self._note(model, outcome, standby=True)
        await self.look()
        return all(outcome.ok for outcome in outcomes)

    def _note(self, model: str, outcome: SwapOutcome, *, standby: bool) -> None:
        now = self._wall_clock()
        if outcome.blames_version or outcome.outcome is Outcome.REFUSED_MEMORY:
            self.broken.failed(model, outcome.to_version, outcome.sentence, now)
        elif outcome.ok:
            self.broken.worked(model, outcome.to_version)
        if outcome.kind is not Kind.NONE or not outcome.ok:
            self._finished.append(Finished(self.pod.name, model, now, outcome, standby))
            self.swapped.set()


class _Turns(AsyncExitStack):
    """Hold several semaphores, taken in order."""

    def __init__(self, *gates: asyncio.Semaphore) -> None:
        super().__init__()
        self._gates = gates

    async def __aenter__(self) -> _Turns:
        await super().__aenter__()
        try:
            for gate in self._gates:
                await self.enter_async_context(gate)
        except BaseException:
            await self.aclose()
            raise
        return self
