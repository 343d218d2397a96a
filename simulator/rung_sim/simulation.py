"""One run: demand comes, a policy decides once a second with the operator's own code, versions are swapped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil

import numpy as np

from rung.core.balance import steady
from rung.core.decide import Settings, decide
from rung.core.drain import refusal
from rung.core.plan import Memory, Plan, Reason
from rung.core.policies.base import Policy
from rung.core.snapshot import PoolSnapshot, ServerState
from rung_loadgen.arrivals import poisson_arrivals
from rung_sim import engine
from rung_sim.engine import Floats, Ints, State
from rung_sim.faults import Fault, FaultKind
from rung_sim.lanes import Lane, Turns
from rung_sim.watch import Watched, read
from rung_sim.world import Service, SimulatedServer, SimulatedTask, World

EPOCH_SECONDS = 1_600_000_000.0
"""When a simulation begins, for policies that are given times."""
NOTICE_SECONDS = 2
"""So long a balancer goes on sending to a server that is gone (a readiness probe that fails twice)."""
MORE_HISTORY_SECONDS = 20
"""So much more than a policy reads is kept, as the operator asks for."""
LAST_SECONDS = 600
"""So long after the end of demand the last answers may come; what comes later failed."""

Progress = Callable[[float], None]
"""Is told how much is done, 0 to 1."""


class Choosing:
    """How requests find their version; see `engine`."""

    TRITON, REFLEX, SLACK_FIT = engine.TRITON, engine.REFLEX, engine.SLACK_FIT


class Balancer(StrEnum):
    """How requests are spread over servers."""

    EVEN = "Even"  # by chance, as a Service does for clients that begin many connections
    FEWEST = "Fewest"  # Rung's: to the server with fewer requests of the task under way, of two that are drawn
    COORDINATED = "Coordinated"  # and none to a server that loads, where `rung.core.drain` lets it


@dataclass(frozen=True, slots=True)
class Options:
    """What a run has beside its world and its demand."""

    seed: int = 0
    decide_every_seconds: int = 1
    signals_late_seconds: int = 1
    """How old the newest sample is when a decision is made: scraping and the query take their time."""
    warm_up_seconds: int = 0
    """These first seconds are simulated and not counted."""
    faults: tuple[Fault, ...] = ()
    cost_factor: float = 1.0
    """What an inference really costs by what its profile says: 1 where profiles are right."""
    choosing: int = Choosing.TRITON
    free_swaps: bool = False
    """Loads take neither time nor CPU: for bounds."""
    balancer: Balancer = Balancer.EVEN
    """What spreads the requests of a task that several servers serve."""


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
    cold_swap_seconds: float | None
    """What a cold swap took in the mean, from the begin of its load; None without any. Warm ones take no time."""
    steps: tuple[Step, ...]
    decision_seconds: float
    """What a decision took in the mean, on this machine."""
    warm_up_seconds: int


class Simulation:
    """Replays demand on a world under one policy.

    Args:
        world: pool, tasks and servers.
        rates_rps: requests a second of each task, by second, shape (seconds,); the longest is the run's length.
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
        turns = Turns(world.pool.spec.rollout.max_concurrent)
        self._lanes = {
            (server.name, task.state.name): self._lane(place, server, number, task, turns)
            for place, server in enumerate(world.servers)
            for number, task in enumerate(world.tasks)
        }
        history = ceil(policy.history_seconds) + MORE_HISTORY_SECONDS
        self._watched = {server.name: Watched(history) for server in world.servers}
        self._weights: dict[tuple[str, str], float] = {}
        self._drained: set[str] = set()
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
        rng = np.random.default_rng([self.options.seed, len(times)])
        pick = np.column_stack([rng.random(arrival.size), rng.random(arrival.size)])
        servers = self.world.servers
        state = engine.new_state(
            arrival[order], task[order], pick, np.zeros((len(times), len(servers))),
            np.array([server.cores for server in servers]), max(map(len, self._numbers)),
            np.array([server.other_cores for server in servers]),
        )  # fmt: skip
        state.fewest[0] = self.options.balancer is not Balancer.EVEN
        return state

    def _lane(self, place: int, server: SimulatedServer, number: int, task: SimulatedTask, turns: Turns) -> Lane:
        lane = place * len(self.world.tasks) + number
        first = lane * (self._state.head.size // self._state.active.size)
        rungs = {version: rung for rung, version in enumerate(self._numbers[number])}
        services = dict(task.services[server.hardware_class])
        for version, rung in rungs.items():
            # What nobody measured on this class costs what the dearest one does: it is never chosen for speed.
            cost = services.setdefault(version, max(services.values(), key=lambda each: each.each_seconds))
            self._state.fixed_seconds[first + rung] = cost.fixed_seconds * self.options.cost_factor
            self._state.each_seconds[first + rung] = cost.each_seconds * self.options.cost_factor
            self._state.batch_size[first + rung] = cost.batch_size
        if self.options.free_swaps:
            services = {
                version: Service(each.fixed_seconds, each.each_seconds, each.batch_size, 0.0, 0.0)
                for version, each in services.items()
            }
        self._state.choosing[lane] = self.options.choosing
        self._state.limit_seconds[lane] = task.state.slo_latency_seconds
        return Lane(self._state, lane, place, number, rungs, services, turns)

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
            self._fault(second)
            if second % self.options.decide_every_seconds == 0:
                snapshot = self._snapshot(second)
                began = time.perf_counter()
                plan, self._memory = decide(self.policy, snapshot, self._memory, self.settings)
                taken += time.perf_counter() - began
                decisions += 1
                steps += self._apply(plan, second)
                if self.options.balancer is Balancer.COORDINATED:
                    self._drain(snapshot)
            for place, server in enumerate(self.world.servers):
                for number, name in enumerate(self._names):
                    answering = self._lanes[server.name, name].active
                    active[second, place, number] = -1 if answering is None else answering
            self._route(second)
            self._advance(float(second + 1))
            for place, server in enumerate(self.world.servers):
                utilization[second, place] = self._watch(place, server, second + 1)
                core_seconds += server.cores
            if second % 50 == 0:
                progress(second / self.seconds)
        end = float(self.seconds)
        while self._state.pending.sum() and end < self.seconds + LAST_SECONDS:
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
        cold = [seconds for lane in self._lanes.values() for seconds in lane.cold_seconds]
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
            cold_swap_seconds=float(np.mean(cold)) if cold else None,
            steps=tuple(steps),
            decision_seconds=taken / max(1, decisions),
            warm_up_seconds=self.options.warm_up_seconds,
        )

    # ------------------------------------------------------------------------------------------------- what happens

    def _advance(self, until: float) -> None:
        while True:
            why, lane = engine.advance(self._state, until)
            if why == engine.REACHED:
                return
            place, number = divmod(lane, len(self.world.tasks))
            self._lanes[self.world.servers[place].name, self._names[number]].load_ended()

    def _fault(self, second: int) -> None:
        """Begin and end what goes wrong."""
        for place, server in enumerate(self.world.servers):
            mine = [fault for fault in self.options.faults if fault.hits(server.name)]
            taken = sum(f.cores for f in mine if f.kind is FaultKind.NEIGHBOUR and f.holds(second))
            if self._state.other_cores[place] != server.other_cores + taken:
                engine.share_with(self._state, place, server.other_cores + taken)
            gone = self._gone(server, second)
            if gone and self._state.up[place]:
                engine.take_down(self._state, place)
                for name in self._names:
                    self._lanes[server.name, name].lose()
            self._state.up[place] = not gone

    def _gone(self, server: SimulatedServer, second: int) -> bool:
        faults = self.options.faults
        return any(f.kind is FaultKind.SERVER_GONE and f.hits(server.name) and f.holds(second) for f in faults)

    def _route(self, second: int) -> None:
        """Tell the balancer where each task's requests go: evenly, by weights where the plan has some.

        A server that has just gone still gets its part; one that answers nothing for the task, or is drained, does not,
        unless no other serves the task.
        """
        for number, task in enumerate(self.world.tasks):
            name = task.state.name
            shares = np.zeros(len(self.world.servers))
            for place, server in enumerate(self.world.servers):
                if task.state.servers is not None and server.name not in task.state.servers:
                    continue
                lane = self._lanes[server.name, name]
                seen_gone = self._gone(server, second) and self._gone(server, second - NOTICE_SECONDS)
                answers = lane.active is not None or (self._gone(server, second) and not seen_gone)
                shares[place] = self._weights.get((server.name, name), 1.0) * (
                    answers and server.name not in self._drained
                )
            if not shares.any():
                shares = np.array(
                    [task.state.servers is None or s.name in task.state.servers for s in self.world.servers], float
                )
            self._state.routes[number] = np.cumsum(shares) / max(shares.sum(), 1e-12)

    def _drain(self, snapshot: PoolSnapshot) -> None:
        """Take the servers out of the balancing that load and may be drained; have those back that are done."""
        for server in self.world.servers:
            if not any(self._lanes[server.name, name].loads_calmly for name in self._names):
                self._drained.discard(server.name)
            elif server.name not in self._drained and refusal(snapshot, server.name, self._drained) is None:
                self._drained.add(server.name)

    def _apply(self, plan: Plan, second: int) -> list[Step]:
        steps = []
        reasons = {(reason.server, reason.task): reason for reason in plan.reasons}
        for server_plan in plan.servers:
            for name in self._names:
                self._weights[server_plan.server, name] = server_plan.weights.get(name, 1.0)
            for name in sorted(server_plan.apply):
                lane, target = self._lanes[server_plan.server, name], server_plan.targets[name]
                if lane.target is None or lane.target.active != target.active:
                    steps.append(Step(second, reasons[server_plan.server, name], target.active))
                if second == 0:
                    lane.place(target)
                else:
                    lane.want(target)
        return steps

    # ------------------------------------------------------------------------------------------------- what is seen

    def _watch(self, place: int, server: SimulatedServer, second: int) -> float:
        """Take this second's samples; returns the utilisation."""
        first = place * len(self._names)
        return self._watched[server.name].sample(
            EPOCH_SECONDS + second,
            used_core_seconds=float(self._state.used[place]),
            cores=server.cores,
            arrived={name: int(self._state.arrived[first + number]) for number, name in enumerate(self._names)},
            pending={name: engine.waiting(self._state, first + number) for number, name in enumerate(self._names)},
            late={name: int(self._state.late[first + number]) for number, name in enumerate(self._names)},
        )

    def _snapshot(self, second: int) -> PoolSnapshot:
        snapshot = PoolSnapshot(
            time_seconds=EPOCH_SECONDS + second,
            servers=tuple(self._server(server, second) for server in self.world.servers),
            tasks=tuple(task.state for task in self.world.tasks),
        )
        return snapshot if self.options.balancer is Balancer.EVEN else replace(steady(snapshot), balanced=True)

    def _server(self, server: SimulatedServer, second: int) -> ServerState:
        newest = second - self.options.signals_late_seconds
        without_demand: list[Fault] = []
        for fault in self.options.faults:
            if fault.hits(server.name) and fault.kind is FaultKind.METRICS_LATE and fault.holds(second):
                newest = min(newest, fault.begin_seconds)
            if fault.hits(server.name) and fault.kind is FaultKind.DEMAND_LOST:
                without_demand.append(fault)
        watched = self._watched[server.name]
        lanes = {name: self._lanes[server.name, name] for name in self._names}
        until = EPOCH_SECONDS + newest

        def lost(seconds: float) -> bool:
            return any(fault.holds(int(seconds - EPOCH_SECONDS) - 1) for fault in without_demand)

        gaps = lost if without_demand else None

        return ServerState(
            name=server.name,
            hardware_class=server.hardware_class,
            capacity_cores=server.cores,
            ready=not self._gone(server, second),
            utilization=read(watched.utilization, until),
            demand={name: read(samples, until, gaps) for name, samples in watched.demand.items()},
            pending={name: read(samples, until, gaps) for name, samples in watched.pending.items()},
            # Only what chooses for each request sees what became of it.
            late={name: read(samples, until, gaps) for name, samples in watched.late.items()}
            if self.options.choosing == Choosing.REFLEX
            else {},
            active={name: lane.active for name, lane in lanes.items() if lane.active is not None},
            loaded={name: lane.loaded for name, lane in lanes.items() if lane.loaded},
        )
