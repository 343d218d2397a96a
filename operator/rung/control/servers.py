"""One Triton server, looked after: a watcher that knows what it has loaded, and a worker that brings it to the plan.

Each server has its own tasks, so one that is slow, hung or gone never delays the others or the loop. The worker is
level-triggered: it compares what is wanted with what is there, and tries again until they agree.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

from rung.adapters.agent import AgentClient, AgentError, Inventory, Reflex
from rung.adapters.triton import DeadlineExceeded, IndexEntry, Refused, State, TritonClient, TritonError
from rung.control.backoff import BrokenVersions
from rung.control.balancing import Balancing
from rung.control.hint import Hint
from rung.control.observation import REVIVE, STANDBY, Finished, Observation, Want
from rung.control.revive import dead_versions, revive
from rung.control.standby import Squeeze
from rung.control.swap import Deadlines, Kind, MemoryBudget, Outcome, SwapOutcome, apply, load_standbys
from rung.control.turns import LoadTurns
from rung.control.view import ServerPod
from rung.control.vitals import Vitals
from rung.core.plan import Target
from rung.core.swap_steps import wanted_versions

logger = logging.getLogger(__name__)

INDEX_DEADLINE_SECONDS = 2.0
HEALTH_EVERY_SECONDS = 5.0
"""So often it is looked which loaded versions are to be asked whether they live; at once when requests fail."""
SHORTEST_HEALTH_PAUSE_SECONDS = 2.0
ROUNDS_IN_A_ROW = 4
"""After so many tries a model that still differs waits for the next look at its server."""
OUTCOMES_KEPT = 256
OLDEST_MEMORY_SECONDS = 30.0
"""Memory that was measured longer ago than this says nothing about now."""
LOADS_KEPT = 64
AGENT_EVERY_SECONDS = 2.0
"""So often agents measure: while nothing changes here, to ask more often would tell nothing new."""


class ServerWorker:
    """Watches one server and carries out what is wanted of it. The servers of a pool share their `turns` to load."""

    def __init__(
        self,
        pod: ServerPod,
        *,
        turns: LoadTurns,
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
        self.reflex = Reflex()
        """For which tasks the gate chooses."""
        self.balancing: Balancing | None = None
        """Keeps requests away while something is loaded; None: it is loaded beside them."""
        self.squeeze = Squeeze()
        """How many standbys its memory allows."""
        self._triton = TritonClient(pod.triton_address)
        self._agent = AgentClient(pod.agent_address)
        self._files_hint = Hint(self._agent.put_wanted)
        self._gate_hint = Hint(self._agent.put_reflex)
        self._turns = turns
        self._wall_clock = wall_clock
        self._wanted: dict[str, Want] = {}
        self._wanted_files: Mapping[str, tuple[int, ...]] = {}
        self._swaps: dict[str, asyncio.Task[None]] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._finished: deque[Finished] = deque(maxlen=OUTCOMES_KEPT)
        self._own_loads: deque[tuple[float, int]] = deque(maxlen=LOADS_KEPT)
        self._changed_seconds = 0.0
        self._failing: Mapping[str, frozenset[int]] = {}
        self._vitals = Vitals()
        self._suspicion = asyncio.Event()

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin to watch. Call once, inside the running event loop."""
        name = self.pod.name
        self._watchers = [
            asyncio.create_task(self._forever(self._observe_triton), name=f"triton of {name}"),
            asyncio.create_task(self._forever(self._observe_agent, AGENT_EVERY_SECONDS), name=f"agent of {name}"),
            asyncio.create_task(self._watch_health(), name=f"health of {name}"),
        ]

    async def stop(self, patience_seconds: float = 0.0) -> None:
        """Stop watching and swapping; the server goes on with what it has.

        A swap that is cut leaves the server serving. Only a version that is being revived may leave a gap, so what is
        under way gets `patience_seconds` to end.
        """
        self.want({}, {})
        for task in self._watchers:
            task.cancel()
        running = [task for task in self._swaps.values() if not task.done()]
        if running and patience_seconds > 0:
            await asyncio.wait(running, timeout=patience_seconds)
        tasks = [*self._watchers, *self._swaps.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Exception):
            await self._triton.close()
        with suppress(Exception):
            await self._agent.close()

    async def _forever(self, once: Callable[[], Awaitable[None]], calm_seconds: float = 0.0) -> None:
        """Do something each interval; while nothing changes here, every so many seconds will do."""
        while True:
            started = time.monotonic()
            try:
                await once()
            except Exception:
                logger.exception("Watching server %s failed; it goes on", self.pod.name)
            busy = self.swapping() or not self._memory_is_known()
            seconds = self.interval_seconds if busy else max(self.interval_seconds, calm_seconds)
            await asyncio.sleep(max(0.05, seconds - (time.monotonic() - started)))

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
        self.observation = replace(
            self.observation,
            reachable=True,
            message="",
            time_seconds=self._wall_clock(),
            loaded=_by_model(index, State.READY),
            loading=_by_model(index, State.LOADING),
        )

    async def _observe_agent(self) -> None:
        try:
            inventory = await self._agent.inventory()
        except AgentError as error:
            self.observation = replace(self.observation, inventory_message=str(error))
            return
        self._forgive_new_files(inventory)
        self.observation = replace(
            self.observation, inventory=inventory, inventory_time_seconds=self._wall_clock(), inventory_message=""
        )
        try:
            if self._wanted_files:
                await self._files_hint.say(self._wanted_files)
            await self._gate_hint.say(self.reflex)
        except AgentError as error:
            # A hint that was not taken: what the agent said before counts all the same.
            self.observation = replace(self.observation, inventory_message=str(error))

    def _forgive_new_files(self, inventory: Inventory) -> None:
        """Let a broken version be tried at once when its files were fetched anew."""
        for breakage in self.broken.all():
            before = self.observation.file(breakage.model, breakage.version)
            found = inventory.tasks.get(breakage.model)
            now = found.versions.get(breakage.version) if found else None
            if before and now and (before.state, before.sha256) != (now.state, now.sha256):
                self.broken.forgive(breakage.model, [breakage.version])

    def finished(self) -> tuple[Finished, ...]:
        """Return the swaps that ended since the last call, oldest first."""
        done = tuple(self._finished)
        self._finished.clear()
        return done

    def swapping(self) -> frozenset[str]:
        """Return the models that are being brought to their target right now."""
        return frozenset(model for model, task in self._swaps.items() if not task.done())

    def waiting(self) -> dict[str, int]:
        """Return the models that wait for a turn to load, each with its place among all that wait in the pool."""
        return self._turns.places(self)

    # ------------------------------------------------------------------ what is wanted

    def want(self, wanted: Mapping[str, Want], files: Mapping[str, tuple[int, ...]]) -> None:
        """Set what every model shall be (models that are absent are left alone), and which files are wanted soonest."""
        before, self._wanted = self._wanted, dict(wanted)
        self._wanted_files = files
        for model in before:
            if before[model] != wanted.get(model):
                # What needs no load, a warm step down, must not wait for the turn of one that isn't wanted any more.
                self._turns.give_up(self, model)
        self._converge()

    def _converge(self) -> None:
        for model in self._wanted:
            running = self._swaps.get(model)
            if (running is None or running.done()) and self._differs(model):
                self._swaps[model] = asyncio.create_task(self._bring(model), name=f"{model} on {self.pod.name}")

    def _differs(self, model: str) -> bool:
        if not self.observation.reachable or self._is_held_back(model):
            return False
        loaded = self.observation.loaded.get(model, frozenset())
        if wanted_versions(self._wanted[model].target) == loaded:
            return False  # as nearly always
        target = self._servable(self._wanted[model], model)
        return target is not None and wanted_versions(target) != loaded

    def _is_held_back(self, model: str) -> bool:
        """Whether a load that passed its deadline goes on: Triton keeps every other change of the model waiting."""
        loading = self.observation.loading.get(model, frozenset())
        return not loading.isdisjoint(self.broken.waiting(model, self._wall_clock()))

    def _servable(self, want: Want, model: str) -> Target | None:
        """The target without standbys that must not be tried now; None when the active one must not be tried."""
        loaded = self.observation.loaded.get(model, frozenset())
        # Looked at again, because the plan may be older than what the agent now says of the files.
        files = self.observation.files(model, want.sha256)
        may_be_tried = loaded | (files - self.broken.waiting(model, self._wall_clock()))
        if want.target.active not in may_be_tried:
            return None
        return Target(want.target.active, tuple(n for n in want.target.standby if n in may_be_tried))

    # ------------------------------------------------------------------ from one to the other

    async def _bring(self, model: str) -> None:
        """Bring one model to its target: first the version that answers, then the standbys."""
        try:
            for _ in range(ROUNDS_IN_A_ROW):
                want = self._wanted.get(model)
                if want is None or not self._differs(model):
                    return
                target = self._servable(want, model)
                config = self._config(model)
                if target is None or config is None:
                    return
                loaded = self.observation.loaded.get(model, frozenset())
                if target.active in loaded:
                    done = await self._switch(model, want, target, config, loaded)
                    loads = wanted_versions(target) - self.observation.loaded.get(model, frozenset())
                    if done and loads:
                        if not self._memory_is_known():
                            # A standby can wait: nobody is drained before it could be loaded.
                            return
                        async with self._turn(model, want) as mine:
                            done = not mine or await self._standbys(model, want, target, config)
                else:
                    async with self._turn(model, want) as mine:
                        done = not mine or await self._switch(model, want, target, config, None)
                if not done:
                    return
        except Exception:
            logger.exception("Bringing %s on %s to its target failed; it is tried again", model, self.pod.name)

    @asynccontextmanager
    async def _turn(self, model: str, want: Want) -> AsyncIterator[bool]:
        """Wait for this server's turn to load, without requests where that can be; False when something else is wanted
        by then."""
        async with self._turns.turn(self, model) as mine, AsyncExitStack() as stack:
            # A step down that has to be loaded is in a hurry.
            answering = max(self.observation.loaded.get(model, frozenset()), default=0)
            balancing, name = self.balancing, self.pod.name
            if mine and balancing is not None and balancing.spreads(name) and 0 < answering <= want.target.active:
                why = await stack.enter_async_context(balancing.aside(name))
                if why:
                    logger.info("%s loads %s with requests beside it: %s", name, model, why)
            yield mine and self._wanted.get(model) == want

    def _config(self, model: str) -> str | None:
        inventory = self.observation.inventory
        found = inventory.tasks.get(model) if inventory else None
        return found.config or None if found else None

    def within_memory(self, targets: Mapping[str, Target]) -> dict[str, Target]:
        """Return the targets with as many standbys as the server's memory allows, by what was last measured."""
        memory = self._memory()
        measured, before = self.observation.memory_time_seconds, self.squeeze
        if memory is not None and self._wall_clock() - measured <= OLDEST_MEMORY_SECONDS:
            self.squeeze = before.after(memory.used_bytes, memory.limit_bytes, measured, targets.values())
            if self.squeeze != before:
                logger.warning(
                    "%s uses %.0f MB of %.0f MB: it keeps %s standbys of each task",
                    self.pod.name, memory.used_bytes / 1e6, memory.limit_bytes / 1e6,
                    "all" if self.squeeze.most is None else self.squeeze.most,
                )  # fmt: skip
        return self.squeeze.allows(targets)

    def _budget(self) -> MemoryBudget | None:
        """What is known of the memory now. Loads follow each other faster than an agent measures: they are added.

        None, with which no load is refused, when there is no limit or the agent told nothing for too long.
        """
        seen, memory = self.observation, self._memory()
        if memory is None:
            return None
        age_seconds = self._wall_clock() - seen.memory_time_seconds
        if age_seconds > OLDEST_MEMORY_SECONDS:
            why = f": {seen.inventory_message}" if seen.inventory_message else ""
            logger.warning(
                "The memory of %s was last measured %.0f s ago, so no load there is checked against it%s",
                self.pod.name, age_seconds, why,
            )  # fmt: skip
            return None
        since_bytes = sum(size for ended, size in self._own_loads if ended >= seen.memory_time_seconds)
        return replace(memory, used_bytes=memory.used_bytes + since_bytes)

    def _memory_is_known(self) -> bool:
        """Whether it is known what the last change took, and what the last drop gave back, where there is a limit."""
        seen = self.observation
        if self._memory() is None or seen.inventory_message:
            return True
        older = self._wall_clock() - seen.memory_time_seconds > OLDEST_MEMORY_SECONDS
        return older or self._changed_seconds < seen.memory_time_seconds

    def _memory(self) -> MemoryBudget | None:
        """What was measured last, however long ago; None when there is no limit."""
        memory = self.observation.inventory.memory if self.observation.inventory else None
        limit = (memory.limit_bytes if memory else None) or self.pod.memory_limit_bytes
        return MemoryBudget(limit, memory.used_bytes) if memory is not None and limit else None

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
        self._note(model, outcome, outcome.kind.value)
        await self.look()
        return outcome.ok

    async def _standbys(self, model: str, want: Want, target: Target, config: str) -> bool:
        budget = self._budget()
        if not self._memory_is_known():
            return False
        outcomes = await load_standbys(
            self._triton,
            model,
            target,
            config_text=config,
            deadlines=Deadlines(load=self.load_deadline_seconds),
            memory=budget,
            versions_memory=want.memory_bytes,
        )
        for outcome in outcomes:
            self._note(model, outcome, STANDBY)
        await self.look()
        return all(outcome.ok for outcome in outcomes)

    def _note(self, model: str, outcome: SwapOutcome, kind: str) -> None:
        if outcome.hung:
            command = f"kubectl delete pod {self.pod.name} -n {self.pod.namespace}"
            helps = f"until it ends or Triton is restarted ({command}) no version of {model} is loaded or dropped here"
            outcome = replace(outcome, sentence=f"{outcome.sentence}; {helps}")
        now = self._wall_clock()
        refused = outcome.outcome is Outcome.REFUSED_MEMORY
        for version in {outcome.to_version} if refused else outcome.blamed:
            self.broken.failed(model, version, outcome.sentence, now)
        if outcome.ok:
            self.broken.worked(model, outcome.to_version)
            self._changed_seconds = now
        if outcome.ok and outcome.kind is Kind.COLD and (want := self._wanted.get(model)):
            self._own_loads.append((now, want.memory_bytes.get(outcome.to_version, 0)))
        if outcome.kind is not Kind.NONE or not outcome.ok:
            self._finished.append(Finished(self.pod.name, model, kind, outcome))

    # ------------------------------------------------------------------ versions whose process died

    def answered(self, answering: Mapping[str, frozenset[int]]) -> None:
        """Say which versions clients had answers from just now, by model: these are not asked."""
        self._vitals.heard(answering, time.monotonic())

    def suspect(self, failing: Mapping[str, frozenset[int]]) -> None:
        """Say of which versions requests fail now, by model: these are looked at now, not at the next round."""
        self._failing = {model: versions for model, versions in failing.items() if model in self._wanted}
        if self._failing:
            self._suspicion.set()

    async def _watch_health(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_EVERY_SECONDS):
                    await self._suspicion.wait()
            models = sorted(self._failing or self._wanted)
            self._suspicion.clear()
            for model in models:
                try:
                    await self._check_health(model)
                except TritonError as error:
                    logger.debug("Health of %s on %s is not known: %s", model, self.pod.name, error)
                except Exception:
                    logger.exception("Looking after %s on %s failed; it goes on", model, self.pod.name)
            await asyncio.sleep(SHORTEST_HEALTH_PAUSE_SECONDS)

    async def _check_health(self, model: str) -> None:
        """Ask the versions of a model that were not heard of lately, and load those again whose process is dead."""
        config = self._config(model)
        loaded, failing = self.observation.loaded.get(model, frozenset()), self._failing.get(model, frozenset())
        asked = self._vitals.due(model, loaded, failing, time.monotonic())
        if not self.observation.reachable or not config or not asked:
            return
        if model in self.swapping() or self._is_held_back(model):
            return
        dead = await dead_versions(self._triton, model, config_text=config, failing=failing, versions=asked)
        self._vitals.heard({model: asked - dead}, time.monotonic())
        # Asked while nothing held the swaps back, so one may have begun since: then it is the next round's matter.
        if dead and model in self._wanted and model not in self.swapping():
            self._swaps[model] = asyncio.create_task(self._revive(model, config, failing, dead), name=f"revive {model}")
            await asyncio.wait([self._swaps[model]])

    async def _revive(self, model: str, config: str, failing: frozenset[int], dead: frozenset[int]) -> None:
        started = time.monotonic()
        active = max(self.observation.loaded.get(model, frozenset()), default=0)
        deadlines = Deadlines(load=self.load_deadline_seconds)
        try:
            dead = await revive(self._triton, model, config_text=config, deadlines=deadlines, failing=failing)
            fault, what = Outcome.OK, "had died; it was loaded again"
        except TritonError as error:
            kinds = {Refused: Outcome.LOAD_FAILED, DeadlineExceeded: Outcome.TIMED_OUT}
            fault = kinds.get(type(error), Outcome.UNREACHABLE)
            what = f"died, and loading it again failed: {error}"
        seconds = time.monotonic() - started
        for number in sorted(dead):
            sentence = f"the process of version {number} {what}"
            self._note(model, SwapOutcome(Kind.COLD, fault, active, number, seconds, sentence), REVIVE)
        await self.look()


def _by_model(index: Iterable[IndexEntry], state: State) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {}
    for entry in index:
        if entry.state is state:
            found.setdefault(entry.model, set()).add(entry.number)
    return {model: frozenset(numbers) for model, numbers in found.items()}
