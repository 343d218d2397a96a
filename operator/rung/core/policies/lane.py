"""One task on one server, as the policies that plan by demand and cost see it, and their words for what they chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite

from rung.core import frontier, signals
from rung.core.frontier import Metric
from rung.core.plan import Code, Reason, ServerPlan, Target
from rung.core.policies import base
from rung.core.policies.base import Ladder, Standing
from rung.core.snapshot import PoolSnapshot, ServerState, TaskState, Version

MOST_CORES = 1e6
DEMAND_WINDOW_SECONDS = 10.0
"""What these policies call the present demand."""
LAST = 10
"""So many samples of what is asked for its present value alone."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One task on one server. Tasks without any version that may be served there have none."""

    state: TaskState
    server: str
    ladder: Ladder
    standing: Standing
    demand_rps: float | None
    """The mean of the last ten seconds, or what the owner declared; None: not known."""
    rates_rps: Sequence[float]
    """What was observed, one a second, oldest first; or what the owner declared, alone."""
    pending: Sequence[float]
    """Requests that waited for their turn in the last seconds, oldest first."""
    late_rps: Sequence[float] | None
    """Late requests a second, of the last seconds, oldest first, where the reflex chooses for each one; None where it
    does not."""
    worths: tuple[float, ...]
    """Normalised accuracy by rung, 0 to 1."""
    costs: tuple[float, ...]
    """CPU-seconds of an inference by rung, as the profiles say; 0 where nobody measured it."""
    loaded: frozenset[int]
    hardware_class: str

    @property
    def present(self) -> int | None:
        """The rung that it is on, or on its way to."""
        return self.standing.rung if self.standing.wanted is None else self.standing.wanted

    @property
    def top(self) -> int:
        """The best rung."""
        return len(self.ladder) - 1

    @property
    def weight(self) -> float:
        """The weight of its accuracy."""
        return self.state.weight if 0 <= self.state.weight <= 1e9 else 1.0

    def warm(self, rung: int) -> bool:
        """Tell whether a rung is loaded."""
        return self.ladder[rung].number in self.loaded

    def keeps_service_level(self, rung: int) -> bool:
        """Tell whether a rung's measured latency (p95) keeps the service level; where nobody measured it, it may."""
        profile = self.ladder[rung].profiles.get(self.hardware_class)
        p95 = profile.latency_p95_seconds if profile is not None else None
        return p95 is None or not p95 > self.state.slo_latency_seconds

    def reason(self, rung: int, code: Code, why: str, numbers: Mapping[str, float] | None = None) -> Reason:
        """Return why the lane has this rung: `why` is a clause.

        A rung that differs from the present one is a step, whatever the code says; one that does not is none.
        """
        name, version = self.state.name, base.describe(self.ladder[rung])
        if self.present is None:
            act, code = f"{name} begins with {version}", Code.INITIAL
        elif rung == self.present:
            act = f"{name} stays at {version}"
            code = Code.STEADY if code in (Code.STEP_DOWN, Code.STEP_UP, Code.INITIAL) else code
            code = self.standing.code or code
        else:
            down = rung < self.present
            code = Code.STEP_DOWN if down else Code.STEP_UP
            verb = "steps down" if down else "steps up"
            act = f"{name} {verb} from {base.describe(self.ladder[self.present])} to {version}"
        finite = {key: float(value) for key, value in (numbers or {}).items() if isfinite(value)}
        if self.demand_rps is not None:
            finite["demand_rps"] = self.demand_rps
        return Reason(name, self.server, code, f"{act}: {why}.", finite)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a policy chose for a lane: the rung, a code, a clause that says why, the numbers that decided."""

    rung: int
    code: Code
    why: str
    numbers: Mapping[str, float]


def lanes_on(snapshot: PoolSnapshot, server: ServerState) -> list[Lane]:
    """Return the lanes of a server, by name of the task."""
    demand = base.demands(snapshot, server, DEMAND_WINDOW_SECONDS)
    found = []
    for state in base.tasks_of(snapshot, server):
        ladder = base.ladder_on(state, server, Metric.INVERSE_THROUGHPUT)
        if not ladder:
            continue
        declared = demand[state.name] if state.declared_demand_rps is not None else None
        rates = signals.rates(server.demand.get(state.name, ())) if declared is None else [declared]
        found.append(
            Lane(
                state=state,
                server=server.name,
                ladder=ladder,
                standing=base.standing(state, server, ladder, Metric.INVERSE_THROUGHPUT),
                demand_rps=demand[state.name],
                rates_rps=rates,
                pending=signals.rates(server.pending.get(state.name, ())[-LAST:]),
                late_rps=signals.rates(server.late[state.name][-LAST:]) if state.name in server.late else None,
                worths=frontier.normalized_accuracies(ladder, state),
                costs=_costs(ladder, server.hardware_class, server.capacity_cores),
                loaded=server.loaded.get(state.name, frozenset()),
                hardware_class=server.hardware_class,
            )
        )
    return found


def plan_and_reasons(
    snapshot: PoolSnapshot,
    server: ServerState,
    lanes: Sequence[Lane],
    choices: Sequence[Choice],
    expected_utilization: float | None = None,
    weights: Mapping[str, float] | None = None,
) -> tuple[ServerPlan, list[Reason]]:
    """Return the plan of one server and a reason for each of its tasks, from one choice for each lane."""
    targets = {lane.state.name: Target(lane.ladder[c.rung].number) for lane, c in zip(lanes, choices, strict=True)}
    versions = {lane.state.name: lane.ladder[c.rung] for lane, c in zip(lanes, choices, strict=True)}
    if expected_utilization is None:
        demand = {lane.state.name: lane.demand_rps for lane in lanes}
        expected_utilization = base.expected_utilization(versions, demand, server.hardware_class)
    reasons = [lane.reason(c.rung, c.code, c.why, c.numbers) for lane, c in zip(lanes, choices, strict=True)]
    served = {lane.state.name for lane in lanes}
    reasons += [
        Reason(task.name, server.name, Code.NO_VERSIONS, f"No version of {task.name} may be served on {server.name}.")
        for task in base.tasks_of(snapshot, server)
        if task.name not in served
    ]
    return ServerPlan(server.name, targets, expected_utilization, weights=weights or {}), reasons


def cpu_seconds(version: Version, server: ServerState) -> float:
    """Return what an inference costs as the profile says; 0 where nobody measured it."""
    return _costs((version,), server.hardware_class, server.capacity_cores)[0]


@lru_cache(frontier.REMEMBERED)
def _costs(versions: tuple[Version, ...], hardware_class: str, capacity_cores: float) -> tuple[float, ...]:
    return tuple(_cost(version, hardware_class, capacity_cores) for version in versions)


def _cost(version: Version, hardware_class: str, capacity_cores: float) -> float:
    seconds_of_server = frontier.metric_of(version, hardware_class)
    if seconds_of_server is None:
        return 0.0
    profile = version.profiles[hardware_class]
    measured = profile.cpu_seconds_per_inference
    if measured is not None and isfinite(measured) and frontier.SMALLEST_METRIC <= measured <= frontier.LARGEST_METRIC:
        return measured
    return seconds_of_server * usable_cores(profile.cpu_cores or capacity_cores)


def usable_cores(cores: float) -> float:
    """Return a number of cores that can be divided by: 1 where it makes no sense."""
    return cores if isfinite(cores) and 0 < cores <= MOST_CORES else 1.0
