"""One run: demand comes, a policy decides once a second with the operator's own code, versions are swapped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rung.core.decide import Settings, decide
from rung.core.plan import Memory, Plan, Reason
from rung.core.policies.base import Policy
from rung.core.snapshot import PoolSnapshot, Sample, ServerState
from rung_loadgen.arrivals import poisson_arrivals
from rung_sim import engine
from rung_sim.engine import Floats, Ints, State
from rung_sim.lanes import Lane
from rung_sim.world import SimulatedServer, SimulatedTask, World

EPOCH_SECONDS = 1_600_000_000.0
"""When a simulation begins, for policies that are given times."""
HISTORY_SECONDS = 150

Progress = Callable[[float], None]
"""Is told how much is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run has beside its world and its demand."""

    seed: int = 0
    decide_every_seconds: int = 1
    signals_late_seconds: int = 1
    """How old the newest sample is when a decision is made: scraping and the query take their time."""
    warm_up_seconds: int = 0
    """These first seconds are simulated and not counted."""


@dataclass(frozen=True, slots=True)
class Step:
    """A version of a task that was wanted anew on a server."""

    second: int
    reason: Reason
    version: int


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen. Requests in order of arrival; by second: (seconds, ...)."""

    world: World
    policy: str
    task: Ints
    latency_seconds: Floats
    """Infinite: it failed."""
    version: Ints
    """-1: none answered."""
    arrival_seconds: Floats
    utilization: Floats
    """(seconds, servers)"""
    active: Ints
    """(seconds, servers, tasks): the version that answered; -1: none."""
    core_seconds: float
    swaps: Mapping[str, int]
    steps: tuple[Step, ...]
    decision_seconds: float
    """What a decision took in the mean, on this machine."""
    warm_up_seconds: int


@dataclass
class _Watched:
    """One server as its Prometheus knows it."""

    utilization: deque[Sample] = field(default_factory=lambda: deque(maxlen=HISTORY_SECONDS))
    demand: dict[str, deque[Sample]] = field(default_factory=dict)
    used_before: float = 0.0
    arrived_before: dict[str, int] = field(default_factory=dict)


class Simulation:
    """Replays demand on a world under one policy.

    Args:
        world: pool, tasks and servers.
        rates_rps: requests a second of each task, by second, shape (seconds,), all of one length.
        policy: decides.
        settings: what every policy obeys.
        options: see there.
    """

    def __init__(
        self, world: World, rates_rps: Mapping[str, Floats], policy: Policy, settings: Settings, options: Options
    ) -> None:
        self.world, self.policy, self.settings, self.options = world, policy, settings, options
        self.seconds = max(rates.size for rates in rates_rps.values())
        self._names = [task.state.name for task in world.tasks]
        self._numbers = [sorted(version.number for version in task.state.versions) for task in world.tasks]
        self._state = self._begin(rates_rps)
        self._lanes = {
            (server.name, task.state.name): self._lane(place, server, number, task)
            for place, server in enumerate(world.servers)
            for number, task in enumerate(world.tasks)
        }
        self._watched = {server.name: _Watched() for server in world.servers}
        self._memory: Memory = {}

    def _begin(self, rates_rps: Mapping[str, Floats]) -> State:
        # A generator for each task: what one asks for is the same whatever the others do.
        times = [
            poisson_arrivals(rates_rps[name], np.random.default_rng([self.options.seed, place]))
            for place, name in enumerate(self._names)
        ]
        arrival = np.concatenate(times)
        task = np.repeat(np.arange(len(times)), [each.size for each in times])
        order = np.argsort(arrival, kind="stable")
        pick = np.random.default_rng([self.options.seed, len(times)]).random(arrival.size)
        servers = self.world.servers
        routes = np.empty((len(times), len(servers)))
        for place, each in enumerate(self.world.tasks):
            serving = np.array([each.state.servers is None or s.name in each.state.servers for s in servers], float)
            routes[place] = np.cumsum(serving) / max(1.0, serving.sum())
        return engine.new_state(
            arrival[order], task[order], pick, routes, np.array([server.cores for server in servers]),
            max(map(len, self._numbers)), np.array([server.other_cores for server in servers]),
        )  # fmt: skip

    def _lane(self, place: int, server: SimulatedServer, number: int, task: SimulatedTask) -> Lane:
        lane = place * len(self.world.tasks) + number
        first = lane * (self._state.head.size // self._state.active.size)
        rungs = {version: rung for rung, version in enumerate(self._numbers[number])}
        services = dict(task.services[server.hardware_class])
        for version, rung in rungs.items():
            # What nobody measured on this class costs what the dearest one does: it is never chosen for speed.
            cost = services.setdefault(version, max(services.values(), key=lambda each: each.each_seconds))
            self._state.fixed_seconds[first + rung] = cost.fixed_seconds
            self._state.each_seconds[first + rung] = cost.each_seconds
            self._state.batch_size[first + rung] = cost.batch_size
        return Lane(self._state, lane, rungs, services)

    def run(self, progress: Progress = lambda share: None) -> Run:
        """Simulate to the end, and until the last request is answered."""
        servers, tasks = len(self.world.servers), len(self.world.tasks)
        utilization = np.zeros((self.seconds, servers))
        active = np.full((self.seconds, servers, tasks), -1, np.int64)
        steps: list[Step] = []
        taken = 0.0
        decisions = 0
        core_seconds = 0.0
        for second in range(self.seconds):
            if second % self.options.decide_every_seconds == 0:
                snapshot = self._snapshot(second)
                began = time.perf_counter()
                plan, self._memory = decide(self.policy, snapshot, self._memory, self.settings)
                taken += time.perf_counter() - began
                decisions += 1
                steps += self._apply(plan, second)
            for place, server in enumerate(self.world.servers):
                for number, name in enumerate(self._names):
                    answering = self._lanes[server.name, name].active
                    active[second, place, number] = -1 if answering is None else answering
            self._advance(float(second + 1))
            for place, server in enumerate(self.world.servers):
                utilization[second, place] = self._watch(place, server, second + 1)
                core_seconds += server.cores
            if second % 50 == 0:
                progress(second / self.seconds)
        end = float(self.seconds)
        while self._state.pending.sum() and end < self.seconds + 600:
            end += 1.0
            self._advance(end)
        progress(1.0)
        latency = np.where(np.isnan(self._state.latency), np.inf, self._state.latency)
        numbers = np.full((tasks, max(map(len, self._numbers)) + 1), -1, np.int64)
        for number, versions in enumerate(self._numbers):
            numbers[number, : len(versions)] = versions
        swaps: dict[str, int] = {"warm": 0, "cold": 0}
        for lane in self._lanes.values():
            for kind, count in lane.swaps.items():
                swaps[kind] += count
        return Run(
            world=self.world,
            policy=self.policy.name,
            task=self._state.task,
            latency_seconds=latency,
            version=numbers[self._state.task, self._state.rung],  # the rung -1 is the last column: -1
            arrival_seconds=self._state.arrival,
            utilization=utilization,
            active=active,
            core_seconds=core_seconds,
            swaps=swaps,
            steps=tuple(steps),
            decision_seconds=taken / max(1, decisions),
            warm_up_seconds=self.options.warm_up_seconds,
        )

    def _advance(self, until: float) -> None:
        while True:
            why, lane = engine.advance(self._state, until)
            if why == engine.REACHED:
                return
            place, number = divmod(lane, len(self.world.tasks))
            self._lanes[self.world.servers[place].name, self._names[number]].load_ended()

    def _watch(self, place: int, server: SimulatedServer, second: int) -> float:
        """Take this second's samples; returns the utilisation."""
        watched, when = self._watched[server.name], EPOCH_SECONDS + second
        used = float(self._state.used[place])
        share = (used - watched.used_before) / server.cores
        watched.used_before = used
        watched.utilization.append(Sample(when, share))
        for number, name in enumerate(self._names):
            arrived = int(self._state.arrived[place * len(self._names) + number])
            rate = arrived - watched.arrived_before.get(name, 0)
            watched.arrived_before[name] = arrived
            watched.demand.setdefault(name, deque(maxlen=HISTORY_SECONDS)).append(Sample(when, float(rate)))
        return share

    def _snapshot(self, second: int) -> PoolSnapshot:
        now = EPOCH_SECONDS + second
        newest = now - self.options.signals_late_seconds
        return PoolSnapshot(
            time_seconds=now,
            servers=tuple(self._server(server, newest) for server in self.world.servers),
            tasks=tuple(task.state for task in self.world.tasks),
        )

    def _server(self, server: SimulatedServer, newest: float) -> ServerState:
        watched = self._watched[server.name]
        lanes = {name: self._lanes[server.name, name] for name in self._names}

        def known(samples: deque[Sample]) -> tuple[Sample, ...]:
            return tuple(sample for sample in samples if sample.time_seconds <= newest)

        return ServerState(
            name=server.name,
            hardware_class=server.hardware_class,
            capacity_cores=server.cores,
            utilization=known(watched.utilization),
            demand={name: known(samples) for name, samples in watched.demand.items()},
            active={name: lane.active for name, lane in lanes.items() if lane.active is not None},
            loaded={name: lane.loaded for name, lane in lanes.items() if lane.loaded},
        )

    def _apply(self, plan: Plan, second: int) -> list[Step]:
        steps = []
        reasons = {(reason.server, reason.task): reason for reason in plan.reasons}
        for server_plan in plan.servers:
            for name in sorted(server_plan.apply):
                lane, target = self._lanes[server_plan.server, name], server_plan.targets[name]
                if lane.target is None or lane.target.active != target.active:
                    steps.append(Step(second, reasons[server_plan.server, name], target.active))
                if second == 0:
                    lane.place(target)
                else:
                    lane.want(target)
        return steps
