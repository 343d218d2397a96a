"""Frontier: the most accuracy that keeps answers in time, each second anew, with the profile corrected as it goes.

What it does, for each server by itself:

- *Cost.* A version's CPU time is what its profile says times a factor that is learned: what the server used by what
  the profiles predicted, over the settled seconds since the last change, blended with what was learned before. So a
  wrong profile or a hotter CPU corrects itself.
- *Demand.* Stepping down looks a few seconds ahead (`forecast.Trend`). Stepping up asks for what the last half minute
  would have needed, so that the next wave of the same height does not undo it.
- *The limit is the share of late answers*, not utilisation: an allocation is good when queueing theory expects no task
  to have more than 1 - objective of them (`core.tail`).
- *Allocation.* Among all allocations that keep the limit: the one of the highest weighted normalised accuracy, exactly
  (`core.allocation`). Where none does: the cheapest of every task, and the reason says by how much that is too much.
- *Asymmetry.* Down at once; up only some seconds after the last change, where the gain is worth the loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, inf, isfinite

from rung.core import frontier, signals, tail
from rung.core.allocation import Choice, best_allocation
from rung.core.forecast import Trend
from rung.core.frontier import Metric
from rung.core.plan import Code, Memory, Plan, Reason, ServerPlan, Target
from rung.core.policies import base
from rung.core.policies.base import Ladder, Standing
from rung.core.snapshot import PoolSnapshot, ServerState, TaskState, Version

LEAST_FACTOR, MOST_FACTOR = 0.25, 4.0
"""A profile that is off by more than this is no profile."""
MOST_CORES = 1e6
LEAST_SAMPLES = 3
"""Fewer settled CPU samples say nothing of the factor."""


@dataclass(frozen=True, slots=True)
class FrontierParameters:
    """The parameters of the policy."""

    forecast: Trend = field(default_factory=Trend)
    remember_seconds: float = 30.0
    """Stepping up asks what these last seconds would have needed."""
    settle_seconds: float = 5.0
    """CPU is judged, and a step up considered, this long after a change."""
    up_after_seconds: float = 5.0
    """Time since the last change before a step up."""
    late_share: float | None = None
    """Share of late answers to plan for; None: 1 - objective of each task."""
    load_price: float = 0.002
    """What a version that is not loaded has to be worth more, in summed normalised accuracy."""
    trust_seconds: float = 20.0
    """So many seconds of what was learned before weigh as much as the same number since the last change."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What is kept of a server between two decisions."""

    factor: float = 1.0
    since_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """One task on one server, with everything that the decision reads."""

    state: TaskState
    ladder: Ladder
    standing: Standing
    rates_rps: tuple[float, ...]
    """Its demand, one a second, oldest first."""
    declared_rps: float | None
    costs: tuple[float, ...]
    """CPU-seconds of an inference by rung, as the profiles say."""
    loaded: frozenset[int]

    @property
    def present(self) -> int | None:
        """The rung that it is on, or on its way to."""
        return self.standing.rung if self.standing.wanted is None else self.standing.wanted

    @property
    def known(self) -> bool:
        return self.declared_rps is not None or bool(self.rates_rps)

    def demand(self, forecast: Trend) -> float:
        """Return the demand of the next seconds that will hardly be passed."""
        if self.declared_rps is not None:
            return self.declared_rps
        return forecast.forecast(self.rates_rps).high_rps

    def need(self, forecast: Trend, seconds: float) -> float:
        """Return the highest demand of the last seconds, each as it would have been foreseen."""
        if self.declared_rps is not None:
            return self.declared_rps
        width = forecast.level_seconds
        rates = self.rates_rps[-round(seconds) :]
        means = (fsum(rates[end - width : end]) / width for end in range(width, len(rates) + 1))
        highest = max(means, default=0.0)
        return highest + forecast.noise(highest, width)


@dataclass(frozen=True, slots=True)
class _Decision:
    """The rung of each task, and why."""

    rungs: list[int]
    code: Code
    why: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frontier:
    """The policy; see the module's text."""

    parameters: FrontierParameters = field(default_factory=FrontierParameters)

    @property
    def name(self) -> str:
        """Return the policy's name."""
        return "Frontier"

    @property
    def metric(self) -> Metric:
        """Return what a version costs."""
        return Metric.INVERSE_THROUGHPUT

    @property
    def needs_signals(self) -> bool:
        """Return True: it plans by demand and CPU."""
        return True

    def decide(self, snapshot: PoolSnapshot, memory: Memory) -> tuple[Plan, Memory]:
        """Plan each ready server by itself. Memory: `{"servers": {name: {"factor": 1.0, "since_seconds": 0.0}}}`."""
        remembered = _read(memory)
        plans: list[ServerPlan] = []
        reasons: list[Reason] = []
        for server in snapshot.servers:
            if not server.ready:
                continue
            before = remembered.get(server.name, _Remembered())
            plan, told, after = _Server(self.parameters, snapshot, server, before).decide()
            plans.append(plan)
            reasons += told
            remembered[server.name] = after
        kept = {
            name: {"factor": round(each.factor, 3), "since_seconds": each.since_seconds}
            for name, each in sorted(remembered.items())
        }
        return Plan(tuple(plans), tuple(reasons)), {"servers": kept}


class _Server:
    """One decision about one server."""

    def __init__(
        self, parameters: FrontierParameters, snapshot: PoolSnapshot, server: ServerState, before: _Remembered
    ) -> None:
        self.p, self.server, self.now = parameters, server, snapshot.time_seconds
        since = before.since_seconds
        self.since_seconds = None if since is None else min(since, self.now)
        seen = [_task(state, snapshot, server) for state in base.tasks_of(snapshot, server)]
        self.missing = [task.state for task in seen if not task.ladder]
        self.tasks = [task for task in seen if task.ladder]
        self.ahead = [task.demand(parameters.forecast) for task in self.tasks]
        self.cores = _usable(server.capacity_cores)
        self.factor = self._factor(before.factor)
        self.before = before

    def decide(self) -> tuple[ServerPlan, list[Reason], _Remembered]:
        """Return the plan, the reasons, and what to remember."""
        decision = self._rungs()
        rungs = decision.rungs
        changed = any(rungs[place] != task.present for place, task in enumerate(self.tasks))
        since = self.now if changed or self.since_seconds is None else self.since_seconds
        after = _Remembered(self.factor if changed else self.before.factor, since)
        targets = {
            task.state.name: Target(task.ladder[rung].number) for task, rung in zip(self.tasks, rungs, strict=True)
        }
        expected = self._load(rungs, self.ahead) / self.cores
        numbers = {**decision.numbers, "factor": self.factor}
        if isfinite(expected):
            numbers["expected_utilization"] = expected
        reasons = [self._reason(task, rung, decision, numbers) for task, rung in zip(self.tasks, rungs, strict=True)]
        reasons += [
            Reason(state.name, self.server.name, Code.NO_VERSIONS,
                   f"No version of {state.name} may be served on {self.server.name}.")
            for state in self.missing
        ]  # fmt: skip
        return ServerPlan(self.server.name, targets, expected if isfinite(expected) else None), reasons, after

    # ------------------------------------------------------------------------------------------------------- deciding

    def _rungs(self) -> _Decision:
        """Return the rung of each task, and why."""
        newcomers = [task.state.name for task in self.tasks if task.present is None]
        best = [len(task.ladder) - 1 for task in self.tasks]
        present = [top if task.present is None else task.present for task, top in zip(self.tasks, best, strict=True)]
        if not any(task.known for task in self.tasks):
            return _Decision(present, Code.INITIAL if newcomers else Code.STALE_METRICS, "no demand is known")
        if newcomers:
            rungs = self._best(self.ahead, best) or [0] * len(best)
            return _Decision(rungs, Code.INITIAL, f"nothing answered {', '.join(newcomers[:3])} here before")
        if not self._keeps(present, self.ahead):
            return self._down(present)
        return self._up(present, best)

    def _down(self, present: list[int]) -> _Decision:
        load = self._load(present, self.ahead)
        rungs = self._best(self.ahead, present)
        if rungs is not None:
            why = f"in a few seconds too many answers would be late, at {base.percent(load / self.cores)} CPU"
            return _Decision(rungs, Code.STEP_DOWN, why, {"load_cores": load})
        rungs = [0] * len(present)
        least = base.percent(self._load(rungs, self.ahead) / self.cores)
        code = Code.AT_BOTTOM if rungs == present else Code.STEP_DOWN
        return _Decision(rungs, code, f"even the cheapest versions would use {least} of the CPU", {"load_cores": load})

    def _up(self, present: list[int], best: list[int]) -> _Decision:
        waited = inf if self.since_seconds is None else self.now - self.since_seconds
        if waited < self.p.up_after_seconds:
            return _Decision(present, Code.SETTLING, f"{waited:.0f} s since the last change")
        recent = (task.need(self.p.forecast, self.p.remember_seconds) for task in self.tasks)
        need = [max(rate, ahead) for rate, ahead in zip(recent, self.ahead, strict=True)]
        rungs = self._best(need, best, priced=True)
        asked = f"at the demand of the last {self.p.remember_seconds:.0f} s"
        if rungs is not None and self._value(rungs) > self._value(present) + self._price(rungs):
            return _Decision(rungs, Code.STEP_UP, f"there is room {asked}", {"need_cores": self._load(rungs, need)})
        code = Code.AT_TOP if present == best else Code.STEADY
        return _Decision(present, code, f"nothing better keeps answers in time {asked}")

    def _best(self, demand: Sequence[float], most: Sequence[int], *, priced: bool = False) -> list[int] | None:
        """Return the best rungs, none above `most`; None where nothing keeps the limit."""
        choices = []
        for task, rate, top in zip(self.tasks, demand, most, strict=True):
            choices.append([self._choice(task, rung, rate, priced=priced) for rung in range(top + 1)])
        found = best_allocation(choices).choices
        return None if found is None else list(found)

    def _choice(self, task: _Task, rung: int, rate_rps: float, *, priced: bool) -> Choice:
        value = self._worth(task, rung)
        if priced and task.ladder[rung].number not in task.loaded:
            value -= self.p.load_price
        cost = task.costs[rung] * self.factor
        load = rate_rps * cost
        others = tail.most_others(rate_rps, cost, self.cores, task.state.slo_latency_seconds, self._limit(task))
        return Choice(value, load, -inf if others is None else load + others)

    def _limit(self, task: _Task) -> float:
        return self.p.late_share if self.p.late_share is not None else max(1e-6, 1.0 - task.state.objective)

    def _keeps(self, rungs: Sequence[int], demand: Sequence[float]) -> bool:
        """Tell whether an allocation keeps the limit of every task."""
        total = self._load(rungs, demand)
        for task, rung, rate in zip(self.tasks, rungs, demand, strict=True):
            cost = task.costs[rung] * self.factor
            late = tail.late_share(rate, cost, total - rate * cost, self.cores, task.state.slo_latency_seconds)
            if late > self._limit(task):
                return False
        return True

    def _load(self, rungs: Sequence[int], demand: Sequence[float]) -> float:
        """Return the cores that an allocation uses at a demand."""
        return fsum(
            rate * task.costs[rung] * self.factor for task, rung, rate in zip(self.tasks, rungs, demand, strict=True)
        )

    def _value(self, rungs: Sequence[int]) -> float:
        return fsum(self._worth(task, rung) for task, rung in zip(self.tasks, rungs, strict=True))

    def _worth(self, task: _Task, rung: int) -> float:
        weight = task.state.weight if 0 <= task.state.weight <= 1e9 else 1.0
        return weight * frontier.normalized_accuracy(task.ladder[rung], task.state)

    def _price(self, rungs: Sequence[int]) -> float:
        cold = sum(
            1
            for task, rung in zip(self.tasks, rungs, strict=True)
            if rung != task.present and task.ladder[rung].number not in task.loaded
        )
        return cold * self.p.load_price

    # ------------------------------------------------------------------------------------------------------- learning

    def _factor(self, before: float) -> float:
        """Return by what the profiles have to be multiplied, from the settled seconds since the last change."""
        if self.since_seconds is None:
            return before
        after = max(self.since_seconds, self.server.disturbed_seconds or -inf) + self.p.settle_seconds
        used = {
            s.time_seconds: _within(s.value, signals.HIGHEST_UTILIZATION)
            for s in self.server.utilization
            if s.time_seconds > after and isfinite(s.value)
        }
        if len(used) < 3:
            return before
        predicted = 0.0
        for task in self.tasks:
            if task.standing.rung is None:
                continue
            demand = self.server.demand.get(task.state.name, ())
            rates = [
                _within(sample.value, signals.HIGHEST_DEMAND_RPS)
                for sample in demand
                if sample.time_seconds > after and isfinite(sample.value)
            ]
            if not rates:
                return before
            predicted += fsum(rates) / len(rates) * task.costs[task.standing.rung]
        mean = fsum(used.values()) / len(used) * self.cores
        if predicted <= 0.01 * self.cores or mean <= 0.01 * self.cores:
            return before
        seen = min(MOST_FACTOR, max(LEAST_FACTOR, mean / predicted))
        weight = len(used) / (len(used) + self.p.trust_seconds)
        return before + weight * (seen - before)

    def _reason(self, task: _Task, rung: int, decision: _Decision, numbers: Mapping[str, float]) -> Reason:
        name, version = task.state.name, base.describe(task.ladder[rung])
        code = decision.code
        if task.present is None:
            act = f"{name} begins with {version}"
        elif rung == task.present:
            act = f"{name} stays at {version}"
            code = Code.STEADY if code in (Code.STEP_DOWN, Code.STEP_UP) else code
        else:
            code = Code.STEP_DOWN if rung < task.present else Code.STEP_UP
            verb = "steps down" if rung < task.present else "steps up"
            act = f"{name} {verb} from {base.describe(task.ladder[task.present])} to {version}"
        return Reason(name, self.server.name, code, f"{act}: {decision.why}.", numbers)


def _task(state: TaskState, snapshot: PoolSnapshot, server: ServerState) -> _Task:
    ladder = base.ladder_on(state, server, Metric.INVERSE_THROUGHPUT)
    declared = state.declared_demand_rps
    if declared is not None:
        sharing = sum(1 for other in snapshot.servers if other.ready and base.serves(state, other))
        declared = signals.demand_rps(state, server, sharing, snapshot.time_seconds, 1.0)
    samples = server.demand.get(state.name, ())
    rates = tuple(min(s.value, signals.HIGHEST_DEMAND_RPS) for s in samples if isfinite(s.value) and s.value >= 0)
    return _Task(
        state=state,
        ladder=ladder,
        standing=base.standing(state, server, ladder, Metric.INVERSE_THROUGHPUT),
        rates_rps=rates[-90:],
        declared_rps=declared,
        costs=tuple(_cpu_seconds(version, server) for version in ladder),
        loaded=server.loaded.get(state.name, frozenset()),
    )


def _cpu_seconds(version: Version, server: ServerState) -> float:
    """Return what an inference costs as the profile says; 0 where nobody measured it."""
    seconds_of_server = frontier.metric_of(version, server.hardware_class)
    if seconds_of_server is None:
        return 0.0
    profile = version.profiles[server.hardware_class]
    measured = profile.cpu_seconds_per_inference
    if measured is not None and isfinite(measured) and frontier.SMALLEST_METRIC <= measured <= frontier.LARGEST_METRIC:
        return measured
    return seconds_of_server * _usable(profile.cpu_cores or server.capacity_cores)


def _within(value: float, highest: float) -> float:
    """Return a sample within what can be true: a fault of measuring must not outweigh all others."""
    return min(max(0.0, value), highest)


def _usable(cores: float) -> float:
    return cores if isfinite(cores) and 0 < cores <= MOST_CORES else 1.0


def _read(memory: Memory) -> dict[str, _Remembered]:
    """Read the memory; what is malformed is as if it had never been."""
    servers = memory.get("servers") if isinstance(memory, Mapping) else None
    found: dict[str, _Remembered] = {}
    for name, entry in servers.items() if isinstance(servers, Mapping) else ():
        if not isinstance(entry, Mapping):
            continue
        factor, since = entry.get("factor"), entry.get("since_seconds")
        found[str(name)] = _Remembered(
            min(MOST_FACTOR, max(LEAST_FACTOR, factor))
            if isinstance(factor, int | float) and isfinite(factor)
            else 1.0,
            float(since) if isinstance(since, int | float) and isfinite(since) else None,
        )
    return found
