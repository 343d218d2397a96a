"""Frontier: the most accuracy that keeps answers in time, each second anew, with the profile corrected as it goes.

What it does, for each server by itself (where a balancer follows, `core.policies.shares` says which part of the
requests it gets):

- *Cost.* A version's CPU time is what its profile says times a factor that is learned: what the server used by what
  the profiles predicted, over the settled seconds since the last change, blended with what was learned before. So a
  wrong profile or a hotter CPU corrects itself.
- *What there is.* A server where requests wait at every look uses all that it gets: where that is less than its limit
  says, it is planned with that, and its CPU says nothing of costs (`policies.given`).
- *Demand.* Stepping down looks a few seconds ahead (`forecast.Trend`), and what waits has to be answered within them,
  too. Stepping up asks for what the last 45 s would have needed, so that the next wave of the same height does
  not undo it.
- *The limit is the share of late answers*, not utilisation: an allocation is good when queueing theory expects no task
  to have more than 1 - objective of them (`core.tail`), times what experience says of theory: it is careful. Where
  answers were late all the same, the limit gets stricter at once, and slowly looser again: an error budget
  (`policies.budget`).
- *Allocation.* Among all allocations that keep the limit: the one of the highest weighted normalised accuracy, exactly
  (`core.allocation`). Where none does: the cheapest of every task, and the reason says by how much that is too much.
- *Asymmetry.* Down at once, through what is loaded; up only some seconds after the last change, one load at a time,
  where the gain is worth the load.
- *Parking.* A task of which a server gets no requests, as its others answer them better, keeps its cheapest version
  there: it takes the least memory, and if another server ends it is what answers in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from math import fsum, inf, isfinite
from typing import ClassVar

import numpy as np

from rung.core import tail
from rung.core.allocation import TOLERANCE, Choice, best_allocation
from rung.core.balance import steady
from rung.core.frontier import Metric
from rung.core.plan import Code, Memory, Plan, Reason, ServerPlan
from rung.core.policies import base, lane, learning
from rung.core.policies.budget import forgiven, judged, seconds_for_one_late
from rung.core.policies.frontier_parameters import FrontierParameters
from rung.core.policies.given import Given, given_cores, planned_cores
from rung.core.policies.lane import Lane
from rung.core.policies.remembered import Remembered, digest, plain, read
from rung.core.policies.shares import Shares, next_shares
from rung.core.policies.shares import plain as plain_shares
from rung.core.policies.shares import remembered as remembered_shares
from rung.core.snapshot import Mode, PoolSnapshot, ServerState

TRUSTED_FACTOR = 1.2
"""What costs more than this by its profile is corrected all the same, and its administrators are told."""
LEAST_LATE, MOST_LATE = 1e-6, 0.5
"""However strict or loose the limit has become: beyond half, an overloaded server would be as good as any."""
PARK_SECONDS = 60.0
"""A task is parked so long after the last change."""
HISTORY_SECONDS = 90.0
"""What the forecast learns its own errors from."""


@dataclass(frozen=True, slots=True)
class _Decision:
    """The rung of each lane, and why."""

    rungs: list[int]
    code: Code
    why: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frontier:
    """The policy; see the module's text."""

    name: ClassVar[str] = "Frontier"
    metric: ClassVar[Metric] = Metric.INVERSE_THROUGHPUT
    needs_signals: ClassVar[bool] = True

    parameters: FrontierParameters = field(default_factory=FrontierParameters)

    @property
    def history_seconds(self) -> float:
        """Return how much of the signals' history the policy reads."""
        return max(HISTORY_SECONDS, self.parameters.remember_seconds + self.parameters.forecast.level_seconds)

    def decide(self, snapshot: PoolSnapshot, memory: Memory) -> tuple[Plan, Memory]:
        """Plan each ready server by itself, for its part of the requests.

        Memory: `{"servers": {name: {...}}}`, see `Remembered`, and with a balancer `{"shares": ...}`.
        """
        ready = [server for server in snapshot.servers if server.ready]
        known = read(memory)
        remembered = known | {server.name: known.get(server.name, Remembered()) for server in ready}
        given = {
            server.name: given_cores(server, remembered[server.name].given, snapshot.time_seconds)
            for server in ready
            if self.parameters.see_cores
        }
        shares: Shares = {}
        if snapshot.balanced:
            lanes = {server.name: lane.lanes_on(snapshot, server) for server in ready}
            factors = {name: remembered[name].factor for name in lanes}
            shares = next_shares(snapshot, lanes, factors, given, memory)
            snapshot = steady(snapshot, shares)
        servers = [
            _Server(
                self.parameters,
                snapshot,
                server,
                remembered[server.name],
                given.get(server.name),
                frozenset(task for task, mine in shares.items() if mine.get(server.name) == 0.0),
            )
            for server in snapshot.servers
            if server.ready
        ]
        plans: list[ServerPlan] = []
        reasons: list[Reason] = []
        for server, decision in zip(servers, _answers([server.first() for server in servers]), strict=True):
            name = server.server.name
            plan, told, remembered[name] = server.conclude(decision)
            weights = {task: mine[name] for task, mine in shares.items() if name in mine}
            plans.append(replace(plan, weights=weights))
            reasons += told
        after: dict[str, object] = {"servers": {name: plain(each) for name, each in sorted(remembered.items())}}
        # While nothing follows, for a moment or for ever, the shares that were learned are kept.
        kept = plain_shares(shares or remembered_shares(snapshot, memory))
        return Plan(tuple(plans), tuple(reasons)), after | ({"shares": kept} if kept else {})


@dataclass(frozen=True, slots=True)
class _Question:
    """What are the best rungs at a demand, none above `most`? And what follows from the answer; None: nothing keeps
    the limit."""

    server: _Server
    demand: Sequence[float]
    most: Sequence[int]
    then: Callable[[list[int] | None], _Decision]
    price: float = 0.0
    """Of what is not loaded."""
    trade_price: float = 0.0
    """Of what is worse than what answers now."""


class _Server:
    """One decision about one server."""

    def __init__(
        self,
        parameters: FrontierParameters,
        snapshot: PoolSnapshot,
        server: ServerState,
        before: Remembered,
        given: Given | None,
        parked: frozenset[str] = frozenset(),
    ) -> None:
        self.p, self.snapshot, self.server, self.now = parameters, snapshot, server, snapshot.time_seconds
        self.before = before
        since = before.since_seconds
        self.since_seconds = None if since is None else min(since, self.now)
        self.lanes = lane.lanes_on(snapshot, server)
        self.present = [one.top if one.present is None else one.present for one in self.lanes]
        self.parked = [one.state.name in parked for one in self.lanes]
        self.given = given
        self.cores = planned_cores(server, given, self.now)
        self.gap = 0.0
        self.settled = all(one.standing.rung == one.present or one.state.mode is not Mode.AUTO for one in self.lanes)
        self.factor = before.factor
        # What is loaded beside takes CPU, too, and is no inference.
        self.loaded = digest(server.loaded)
        self.loaded_seconds = before.loaded_seconds if before.loaded in (None, self.loaded) else self.now
        # While something wanted does not answer yet, what was used belongs to what was there before. And what a server
        # uses that gets less than it should says nothing of what inferences cost.
        if self.since_seconds is not None and parameters.calibrate and self.settled:
            short_seconds = self.given.time_seconds if self.given is not None else None
            moments = (self.since_seconds, server.disturbed_seconds, self.loaded_seconds, short_seconds)
            after = max(min(moment, self.now) for moment in moments if moment is not None) + parameters.settle_seconds
            self.factor = learning.cost_factor(before.factor, server, self.lanes, after, parameters.trust_seconds)
        reflex = bool(self.lanes) and all(one.late_rps is not None for one in self.lanes)
        self.forecast = parameters.forecast
        if reflex:
            self.forecast = replace(self.forecast, deviations=parameters.reflex_deviations)
        # What waits has to go in the next seconds, besides what comes.
        waiting = [one.pending[-1] if one.pending and parameters.drain_seconds > 0 else 0.0 for one in self.lanes]
        self.ahead = [
            self._ahead(one) + queue / max(1e-9, parameters.drain_seconds) * (queue > 0)
            for one, queue in zip(self.lanes, waiting, strict=True)
        ]
        self.most_cores = inf if reflex else parameters.most_utilization * self.cores
        seconds_for_one = seconds_for_one_late(self.lanes) if reflex else None
        self.judgement = forgiven(parameters, before, self.now, seconds_for_one)
        late = learning.seen_late(server, self.lanes, self.factor)
        if late is not None and not (reflex and self._is_given_up()):
            self.judgement = judged(parameters, self.judgement, late, reflex=reflex)

    def _is_given_up(self) -> bool:
        """Tell whether what is late may be that of an allocation that was, or will be, thought too much anyway."""
        since_down = inf if self.before.down_seconds is None else self.now - self.before.down_seconds
        return 0 <= since_down < self.p.settle_seconds or not self._keeps(self.present, self.ahead)

    def conclude(self, decision: _Decision) -> tuple[ServerPlan, list[Reason], Remembered]:
        """Return the plan, the reasons, and what to remember."""
        rungs, looseness, judged_seconds = decision.rungs, *self.judgement
        changed = any(rung != one.present for rung, one in zip(rungs, self.lanes, strict=True))
        stepped_down = any(rung < (one.present or 0) for rung, one in zip(rungs, self.lanes, strict=True))
        after = Remembered(
            factor=self.factor if changed else self.before.factor,
            # A change has taken effect when what was wanted answers.
            since_seconds=self.now if changed or self.since_seconds is None or not self.settled else self.since_seconds,
            looseness=self.before.looseness if judged_seconds == self.before.judged_seconds else looseness,
            judged_seconds=judged_seconds,
            given=self.given,
            loaded=self.loaded,
            loaded_seconds=self.loaded_seconds,
            down_seconds=self.now if stepped_down else self.before.down_seconds,
        )
        expected = self._load(rungs, self.ahead) / self.cores
        numbers = {**decision.numbers, "factor": self.factor, "looseness": looseness}
        if self.gap > 0:
            numbers["optimality_gap"] = self.gap
        if isfinite(expected):
            numbers["expected_utilization"] = expected
        choices = [lane.Choice(rung, decision.code, decision.why, numbers) for rung in rungs]
        plan, reasons = lane.plan_and_reasons(
            self.snapshot, self.server, self.lanes, choices, expected if isfinite(expected) else None
        )
        return replace(plan, profile_trusted=self.factor <= TRUSTED_FACTOR), reasons, after

    # ------------------------------------------------------------------------------------------------------- deciding

    def first(self) -> _Decision | _Question:
        """Return what is decided, or what has to be known for it."""
        newcomers = [one.state.name for one in self.lanes if one.present is None]
        best = [0 if parked else one.top for one, parked in zip(self.lanes, self.parked, strict=True)]
        present = self.present
        if not any(one.rates_rps for one in self.lanes):
            return _Decision(present, Code.INITIAL if newcomers else Code.STALE_METRICS, "no demand is known")
        if newcomers:
            why = f"nothing answered {', '.join(newcomers[:3])} here before"
            return _Question(
                self, self.ahead, best, lambda rungs: _Decision(rungs or [0] * len(best), Code.INITIAL, why)
            )
        if not self._keeps(present, self.ahead):
            return _Question(self, self.ahead, present, partial(self._down, present), price=self.p.load_price)
        waited = inf if self.since_seconds is None else self.now - self.since_seconds
        if waited < self.p.up_after_seconds:
            return _Decision(present, Code.SETTLING, f"{waited:.0f} s since the last change")
        if present == best:
            return _Decision(present, Code.AT_TOP, "there is nothing better")
        need = [max(self._need(one), ahead) for one, ahead in zip(self.lanes, self.ahead, strict=True)]
        price = self.p.load_price * max(0.0, 1.0 - waited / max(1.0, self.p.price_seconds))
        up = partial(self._up, present, best, need, price)
        return _Question(self, need, best, up, price=price, trade_price=self.p.trade_price)

    def _down(self, present: list[int], rungs: list[int] | None) -> _Decision:
        load = self._load(present, self.ahead)
        if rungs is None:
            rungs = [0] * len(present)
            least = base.percent(self._load(rungs, self.ahead) / self.cores)
            code = Code.AT_BOTTOM if rungs == present else Code.STEP_DOWN
            why = f"even the cheapest versions would use {least} of the CPU"
        else:
            code = Code.STEP_DOWN
            why = f"in a few seconds too many answers would be late, at {base.percent(load / self.cores)} CPU"
        whole = lane.usable_cores(self.server.capacity_cores)
        if self.cores < whole:
            why += f" of the {self.cores:.2g} cores that it seems to get (its limit: {whole:g})"
        # A load takes its time: until then, what is loaded on the way answers.
        through = [self._through(*each) for each in zip(self.lanes, present, rungs, strict=True)]
        return _Decision(through, code, why, {"load_cores": load})

    @staticmethod
    def _through(one: Lane, present: int, rung: int) -> int:
        if one.warm(rung):
            return rung
        return next((between for between in range(rung + 1, present) if one.warm(between)), rung)

    def _up(
        self, present: list[int], best: list[int], need: list[float], price: float, rungs: list[int] | None
    ) -> _Decision:
        asked = f"at the demand of the last {self.p.remember_seconds:.0f} s"
        if rungs is not None and self._value(rungs) - self._prices(rungs, price) > self._value(present) + TOLERANCE:
            rungs = [now if parked else rung for now, rung, parked in zip(present, rungs, self.parked, strict=True)]
            return _Decision(rungs, Code.STEP_UP, f"there is room {asked}", {"need_cores": self._load(rungs, need)})
        if present != (parked := [min(rung, most) for rung, most in zip(present, best, strict=True)]) and (
            self.since_seconds is not None and self.now - self.since_seconds >= PARK_SECONDS
        ):
            return _Decision(parked, Code.STEP_DOWN, "the other servers answer its requests, and it stands by here")
        return _Decision(present, Code.STEADY, f"nothing better keeps answers in time {asked}")

    def open_rungs(self, one: Lane, most: int) -> range:
        """Return the rungs that a lane may have, none above `most`."""
        if one.rates_rps:
            return range(most + 1)
        # Of a task whose demand is not known, nothing says what another version would do.
        only = most if one.present is None else one.present
        return range(only, only + 1)

    @staticmethod
    def value(one: Lane, rung: int, price: float, trade_price: float) -> float:
        """Return what a rung is worth, less a price if it is not loaded, and one if a better one answers now."""
        value = one.weight * one.worths[rung]
        if one.present is not None and rung < one.present:
            value -= trade_price
        return value if one.warm(rung) else value - price

    def limit(self, one: Lane) -> float:
        """Return the share of late answers that a lane may have at present."""
        planned = self.p.late_share if self.p.late_share is not None else 1.0 - one.state.objective
        if one.late_rps is not None:
            planned = min(self.p.reflex_late_share, self.p.reflex_saves * (1.0 - one.state.objective))
        return min(MOST_LATE, max(LEAST_LATE, planned * self.judgement.looseness))

    def _keeps(self, rungs: Sequence[int], demand: Sequence[float]) -> bool:
        """Tell whether an allocation keeps the limit of every lane."""
        total = self._load(rungs, demand)
        if self.p.utilization_limit is not None:
            return total <= self.p.utilization_limit * self.cores
        if total > self.most_cores:
            return False
        for one, rung, rate in zip(self.lanes, rungs, demand, strict=True):
            cost = one.costs[rung] * self.factor
            late = tail.late_share(rate, cost, total - rate * cost, self.cores, one.state.slo_latency_seconds)
            if late > self.limit(one):
                return False
        return True

    def _load(self, rungs: Sequence[int], demand: Sequence[float]) -> float:
        """Return the cores that an allocation uses at a demand."""
        return fsum(
            rate * one.costs[rung] * self.factor for one, rung, rate in zip(self.lanes, rungs, demand, strict=True)
        )

    def _value(self, rungs: Sequence[int]) -> float:
        lanes = zip(self.lanes, rungs, self.parked, strict=True)
        return fsum(one.weight * one.worths[rung] for one, rung, parked in lanes if not parked)

    def _prices(self, rungs: Sequence[int], price: float) -> float:
        """Return what the loads and the trades of a step up have to be worth."""
        lanes = [each[:2] for each in zip(self.lanes, rungs, self.parked, strict=True) if not each[2]]
        cold = sum(rung != one.present and not one.warm(rung) for one, rung in lanes)
        traded = sum(one.present is not None and rung < one.present for one, rung in lanes)
        return price * cold + self.p.trade_price * traded

    # -------------------------------------------------------------------------------------------------------- demand

    def _ahead(self, one: Lane) -> float:
        """Return the demand of the next seconds that will hardly be passed."""
        if one.state.declared_demand_rps is not None:
            return one.demand_rps or 0.0
        return self.forecast.forecast(one.rates_rps).high_rps

    def _need(self, one: Lane) -> float:
        """Return the highest demand of the last seconds, each as it would have been foreseen."""
        if one.state.declared_demand_rps is not None:
            return one.demand_rps or 0.0
        width = max(1, min(self.forecast.level_seconds, len(one.rates_rps), round(self.p.remember_seconds)))
        sums = [0.0, *accumulate(one.rates_rps[-round(self.p.remember_seconds) :])]
        highest = max((after - before for before, after in zip(sums, sums[width:], strict=False)), default=0.0) / width
        return highest + self.forecast.noise(highest, width)


def _answers(asked: Sequence[_Decision | _Question]) -> Iterator[_Decision]:
    """Yield what is decided for each server. The limits of all choices of all servers are found at once."""
    questions = [one for one in asked if isinstance(one, _Question)]
    rows: list[float] = []
    for question in questions:
        server = question.server
        for one, rate, most in zip(server.lanes, question.demand, question.most, strict=True):
            limit, slo_seconds = server.limit(one), one.state.slo_latency_seconds
            for rung in server.open_rungs(one, most):
                rows += (rate, one.costs[rung] * server.factor, server.cores, slo_seconds, limit)
    others = iter(tail.most_others(*np.array(rows).reshape(-1, 5).T).tolist())
    for each in asked:
        yield each if isinstance(each, _Decision) else each.then(_best(each, others))


def _best(asked: _Question, others: Iterator[float]) -> list[int] | None:
    """Return the best rungs; `others` yields the cores that everything beside each choice may use."""
    server = asked.server
    open_rungs = [server.open_rungs(one, most) for one, most in zip(server.lanes, asked.most, strict=True)]
    choices = []
    for one, rate, rungs in zip(server.lanes, asked.demand, open_rungs, strict=True):
        mine = []
        for rung in rungs:
            load = rate * one.costs[rung] * server.factor
            most = min(load + next(others), server.most_cores)
            if server.p.utilization_limit is not None:
                most = server.p.utilization_limit * server.cores
            mine.append(Choice(server.value(one, rung, asked.price, asked.trade_price), load, most))
        choices.append(mine)
    found = best_allocation(choices)
    server.gap = max(server.gap, found.gap)
    if found.choices is None:
        return None
    return [rungs[place] for rungs, place in zip(open_rungs, found.choices, strict=True)]
