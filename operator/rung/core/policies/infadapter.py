"""InfAdapter: a set of versions and the hardware of each, every half minute (Salmani et al., EuroMLSys 2023).

The paper divides the cores of a cluster among versions; load goes to the most accurate version first, by a weighted
round robin. In a pool of fixed servers the units are servers: each task's servers of one hardware class are divided
among its versions (`core.variant_sets`, exactly), and the plan says the weight of each server in the balancer. A task
has an equal part of each of its servers, and a version carries 0.8 of what it sustains there, the paper's reserve.

Its other rules: the load is predicted from ten one-minute maxima, plus 10 %; a decision every 30 s, the first after two
minutes (a task that nothing answers yet gets its first version at once); less capacity only after four decisions that
agree. Where nothing carries the load: what carries the most.

Where requests are spread evenly, as a Kubernetes Service does it, weights can't be had: then, and with `weighted`
False, each server has to carry an even part of the load, so a class of servers runs one version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest
from typing import Any, ClassVar

from rung.core import signals
from rung.core.forecast import ExponentialMean, Forecaster
from rung.core.frontier import Metric, metric_of
from rung.core.memory import entries, is_number
from rung.core.plan import Code, Memory, Plan, Reason, ServerPlan
from rung.core.policies.lane import Choice, Lane, lanes_on, plan_and_reasons
from rung.core.snapshot import PoolSnapshot, ServerState
from rung.core.variant_sets import Variant, VariantSet, best_variant_set

WINDOW_SECONDS, WINDOWS = 60, 10
UNKNOWN_CAPACITY_RPS = signals.HIGHEST_DEMAND_RPS
"""Of a version without a profile: nothing is known to stop it."""


@dataclass(frozen=True, slots=True)
class InfAdapterParameters:
    """The parameters, with the paper's values as defaults."""

    alpha: float = 0.05
    beta: float = 0.001
    decide_every_seconds: float = 30.0
    first_after_seconds: float = 120.0
    reserve: float = 0.8
    """Share of what a version sustains that it is given."""
    margin: float = 0.1
    """The predicted load is raised by this share."""
    agreeing: int = 4
    """Decisions that have to agree before there is less capacity."""
    forecaster: Forecaster = field(default_factory=lambda: ExponentialMean(span=10, margin=0.0))
    """Of one-minute maxima. The paper's is an LSTM where one was trained."""
    note: str = ""
    """What the administrator should know of how this was set up."""
    weighted: bool = False
    """True: what spreads requests follows the plan's weights even where the snapshot does not say so."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What is kept of one task on one class of servers."""

    first_seconds: float
    decided_seconds: float | None = None
    agreed: int = 0


@dataclass(frozen=True, slots=True)
class _Group:
    """One task on its servers of one class, in order of the servers' names."""

    task: str
    hardware_class: str
    lanes: tuple[tuple[ServerState, Lane], ...]
    part: float
    """What part of each server the task has."""

    @property
    def key(self) -> str:
        numbers = ",".join(str(version.number) for version in self.lanes[0][1].ladder)
        return f"{self.task}@{self.hardware_class}/{numbers}"


@dataclass(frozen=True, slots=True)
class _Shared:
    """What a group's servers run: the rung and the weight of each, and why."""

    rungs: Mapping[str, int]
    weights: Mapping[str, float]
    code: Code
    why: str
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class InfAdapter:
    """The policy; see the module's text."""

    name: ClassVar[str] = "InfAdapter"
    metric: ClassVar[Metric] = Metric.INVERSE_THROUGHPUT
    needs_signals: ClassVar[bool] = True
    history_seconds: ClassVar[float] = WINDOW_SECONDS * WINDOWS

    parameters: InfAdapterParameters = field(default_factory=InfAdapterParameters)

    def decide(self, snapshot: PoolSnapshot, memory: Memory) -> tuple[Plan, Memory]:
        """Divide the servers of each task. Memory: by task and class, when it was decided and how often agreed."""
        if snapshot.balanced and not self.parameters.weighted:
            return InfAdapter(replace(self.parameters, weighted=True)).decide(snapshot, memory)
        now = snapshot.time_seconds
        before = _read(memory, now)
        tasks = {task.name for task in snapshot.tasks}
        # Servers that are away for a moment are not forgotten.
        after = {key: each for key, each in before.items() if key.partition("@")[0] in tasks}
        ready = [server for server in snapshot.servers if server.ready]
        lanes = {server.name: lanes_on(snapshot, server) for server in ready}
        shared: dict[tuple[str, str], _Shared] = {}
        for group in _groups(ready, lanes):
            outcome, after[group.key] = self._share(group, before.get(group.key, _Remembered(now)), now)
            for server, lane in group.lanes:
                shared[server.name, lane.state.name] = outcome
        plans: list[ServerPlan] = []
        reasons: list[Reason] = []
        for server in ready:
            choices, weights = [], {}
            for lane in lanes[server.name]:
                found = shared[server.name, lane.state.name]
                choices.append(Choice(found.rungs[server.name], found.code, found.why, found.numbers))
                weights[lane.state.name] = found.weights.get(server.name, 1.0)
            plan, told = plan_and_reasons(snapshot, server, lanes[server.name], choices, weights=weights)
            plans.append(plan)
            reasons += told
        notes = (self.parameters.note,) if self.parameters.note else ()
        return Plan(tuple(plans), tuple(reasons), notes), {
            "tasks": {key: _plain(each) for key, each in sorted(after.items())}
        }

    def _share(self, group: _Group, before: _Remembered, now: float) -> tuple[_Shared, _Remembered]:
        p = self.parameters
        newcomers = any(lane.present is None for _, lane in group.lanes)
        since = now - (before.first_seconds if before.decided_seconds is None else before.decided_seconds)
        wait = p.first_after_seconds if before.decided_seconds is None else p.decide_every_seconds
        rates = minute_maxima([lane.rates_rps for _, lane in group.lanes])
        if not rates:
            return _hold(group, Code.STALE_METRICS, "its demand is not known"), before
        if since < wait and not newcomers:
            last = "the first look" if before.decided_seconds is None else "the last decision"
            return _hold(group, Code.SETTLING, f"{since:.0f} s since {last} ({wait:.0f} s are waited)"), before
        load = p.forecaster.forecast(rates).expected_rps * (1.0 + p.margin)
        found, capacities = self._solve(group, load)
        less = _capacity(capacities, found) < _present_capacity(group, capacities) - 1e-9
        decided = _Remembered(before.first_seconds, now, before.agreed + 1 if less else 0)
        why = f"{load:.1f} inferences/s are predicted for {len(group.lanes)} server(s)"
        if less and decided.agreed < p.agreeing and not newcomers:
            why += f", and {decided.agreed} of {p.agreeing} decisions agree on less capacity"
            return _hold(group, Code.SETTLING, why), decided
        if not found.feasible:
            why += ", which nothing carries: this carries the most"
        numbers = {"predicted_rps": load, "expected_accuracy": found.accuracy, "optimality_gap": found.gap}
        rungs, weights = _placed(group, found, weighted=p.weighted)
        return _Shared(rungs, weights, Code.STEADY, why, numbers), _Remembered(before.first_seconds, now)

    def _solve(self, group: _Group, load_rps: float) -> tuple[VariantSet, list[float]]:
        """Return the best division of the servers, and what one server carries of the task by rung."""
        p = self.parameters
        _, first = group.lanes[0]
        capacities = []
        for version in first.ladder:
            seconds = metric_of(version, group.hardware_class)
            carried = UNKNOWN_CAPACITY_RPS if seconds is None else 1.0 / seconds
            capacities.append(p.reserve * group.part * carried)
        servers = len(group.lanes)
        # Without weights every server carries the same, so all run one version.
        steps = range(servers + 1) if p.weighted else (0, servers)
        variants = []
        for rung, version in enumerate(first.ladder):
            profile = version.profiles.get(group.hardware_class)
            load_seconds = profile.load_seconds if profile is not None else None
            variants.append(
                Variant(
                    accuracy=first.worths[rung],
                    capacity_rps=tuple(capacities[rung] * n if n in steps else 0.0 for n in range(servers + 1)),
                    load_seconds=load_seconds if load_seconds is not None and 0 < load_seconds < 1e6 else 1.0,
                    loaded=any(lane.warm(rung) for _, lane in group.lanes),
                )
            )
        found = best_variant_set(variants, load_rps, servers, alpha=p.alpha, beta=p.beta, use_all=True)
        return found, capacities


def _groups(ready: Sequence[ServerState], lanes: Mapping[str, Sequence[Lane]]) -> list[_Group]:
    """Return each task with its servers of each class on which the same versions may be served."""
    found: dict[tuple[str, str, tuple[int, ...]], list[tuple[ServerState, Lane]]] = {}
    for server in sorted(ready, key=lambda each: each.name):
        for lane in lanes[server.name]:
            numbers = tuple(version.number for version in lane.ladder)
            found.setdefault((lane.state.name, server.hardware_class, numbers), []).append((server, lane))
    groups = []
    for (task, hardware_class, _), members in found.items():
        part = 1.0 / max(len(lanes[server.name]) for server, _ in members)
        groups.append(_Group(task, hardware_class, tuple(members), part))
    return groups


def minute_maxima(rates_rps: Sequence[Sequence[float]]) -> list[float]:
    """Return the highest rate of all servers together in each of the last minutes, the oldest first.

    The oldest may be a part of a minute. Empty when no server's rates are known.
    """
    newest_first = zip_longest(*(rates[::-1] for rates in rates_rps), fillvalue=0.0)
    together = [sum(each) for each in islice(newest_first, WINDOW_SECONDS * WINDOWS)]
    minutes = [max(together[start : start + WINDOW_SECONDS]) for start in range(0, len(together), WINDOW_SECONDS)]
    return minutes[::-1]


def _hold(group: _Group, code: Code, why: str) -> _Shared:
    rungs = {s.name: lane.top if lane.present is None else lane.present for s, lane in group.lanes}
    return _Shared(rungs, {}, code, why, {})


def _capacity(capacities: Sequence[float], found: VariantSet) -> float:
    return sum(units * capacity for units, capacity in zip(found.units, capacities, strict=True))


def _present_capacity(group: _Group, capacities: Sequence[float]) -> float:
    return sum(0.0 if lane.present is None else capacities[lane.present] for _, lane in group.lanes)


def _placed(group: _Group, found: VariantSet, *, weighted: bool) -> tuple[dict[str, int], dict[str, float]]:
    """Say which server runs what: one that has a version already keeps it where it can."""
    left = list(found.units)
    rungs: dict[str, int] = {}
    for server, lane in group.lanes:
        if lane.present is not None and left[lane.present] > 0:
            rungs[server.name] = lane.present
            left[lane.present] -= 1
    for server, _ in group.lanes:
        if server.name not in rungs:
            rung = next((each for each, units in enumerate(left) if units > 0), 0)
            rungs[server.name] = rung
            left[rung] = max(0, left[rung] - 1)
    carried = sum(found.carried_rps)
    if not weighted or carried <= 0:
        return rungs, {}
    # A share of its own for each server: 1 is an even part.
    even = carried / len(group.lanes)
    return rungs, {name: found.carried_rps[r] / max(1, found.units[r]) / even for name, r in rungs.items()}


def _plain(each: _Remembered) -> dict[str, Any]:
    plain: dict[str, Any] = {"first_seconds": each.first_seconds, "agreed": each.agreed}
    return plain if each.decided_seconds is None else {**plain, "decided_seconds": each.decided_seconds}


def _read(memory: Memory, now: float) -> dict[str, _Remembered]:
    found: dict[str, _Remembered] = {}
    for key, entry in entries(memory, "tasks").items():
        first, decided, agreed = (entry.get(name) for name in ("first_seconds", "decided_seconds", "agreed"))
        found[key] = _Remembered(
            min(float(first), now) if is_number(first) else now,
            min(float(decided), now) if is_number(decided) else None,
            int(agreed) if is_number(agreed) and 0 <= agreed < 1e6 else 0,
        )
    return found
