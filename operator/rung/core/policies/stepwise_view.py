"""One server as Stepwise sees it, and the moves it can make there. When to move is `rung.core.policies.stepwise`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import isfinite

from rung.core import chain as chains
from rung.core import frontier
from rung.core.chain import Chain, Climber
from rung.core.frontier import Metric
from rung.core.plan import Code, Reason
from rung.core.policies import base
from rung.core.policies.base import Ladder, Standing
from rung.core.snapshot import Mode, PoolSnapshot, ServerState, TaskState, Version

Rungs = dict[str, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where each task shall be, and why: a code each, one clause for all, the numbers that decided."""

    rungs: Rungs
    codes: Mapping[str, Code]
    why: str
    numbers: Mapping[str, float]
    trusted: bool = True
    doubt: str = ""

    def doubted(self, doubt: str) -> Outcome:
        """Return the same outcome, reached with a profile that can't be trusted."""
        return replace(self, trusted=False, doubt=doubt)


@dataclass(frozen=True, slots=True)
class ServerView:
    """One server: its tasks with their ladders, standings and demand. All mappings are by task."""

    server: ServerState
    tasks: Mapping[str, TaskState]
    ladders: Mapping[str, Ladder]
    """Tasks without any version that may be served are not in here, nor in `standings`."""
    standings: Mapping[str, Standing]
    demand: Mapping[str, float | None]
    metric: Metric
    _cache: dict[str, Climber] = field(default_factory=dict)

    @property
    def newcomers(self) -> list[str]:
        """Return the tasks that never had a version here."""
        return [task for task, standing in self.standings.items() if standing.rung is None]

    @property
    def forced(self) -> list[str]:
        """Return the tasks that have to leave what answers, and were not told so by the last plan."""
        return [
            task
            for task, standing in self.standings.items()
            if standing.code is Code.REPLACED and standing.wanted is None
        ]

    @property
    def present(self) -> Rungs:
        """Return the rung of each task that has one."""
        return {task: standing.rung for task, standing in self.standings.items() if standing.rung is not None}

    def versions(self, rungs: Mapping[str, int]) -> dict[str, Version]:
        """Return the version of each task in an allocation."""
        return {task: self.ladders[task][rung] for task, rung in rungs.items()}

    def expected(self, rungs: Mapping[str, int]) -> float | None:
        """Return the utilisation that the profiles predict for an allocation."""
        return base.expected_utilization(self.versions(rungs), self.demand, self.server.hardware_class)

    def predicted(self) -> float:
        """Return the utilisation that the profiles predict for the present; 0 when they predict none."""
        return self.expected(self.present) or 0.0

    # The moves.

    def held(self, keep_wanted: bool) -> Rungs:
        """Return the allocation that changes nothing: where a task is on its way to a version, it stays on its way.

        A task that is only recommended about never gets on its way, so its wanted version is kept only while asked.
        """
        rungs = self.present
        for task, standing in self.standings.items():
            recommended = self.tasks[task].mode is Mode.RECOMMEND
            if standing.wanted is not None and (keep_wanted or not recommended):
                rungs[task] = standing.wanted
        return rungs

    def hold(self, code: Code, why: str, numbers: Mapping[str, float], keep_wanted: bool = False) -> Outcome:
        """Change nothing."""
        rungs = self.held(keep_wanted)
        return Outcome(rungs, dict.fromkeys(rungs, code), why, numbers)

    def first_allocation(self, goal: float) -> Outcome:
        """Give each newcomer its first version, and let the rest be."""
        rungs = self.held(keep_wanted=True)
        newcomers = self.newcomers
        others = self.expected(rungs) or 0.0
        known = [task for task in newcomers if (self.demand[task] or 0.0) > 0]
        rungs |= {task: len(self.ladders[task]) - 1 for task in newcomers}
        candidates = chains.build({task: self._throughput_climber(task) for task in known})
        room = goal - others
        point = candidates.first_at_most(room) if room >= 0 else None
        rungs |= candidates.allocation(len(candidates.steps) if point is None else point)
        codes = {task: Code.INITIAL if task in newcomers else Code.STEADY for task in rungs}
        expected = self.expected(rungs)
        if newcomers:
            why = f"Nothing answered {_names(newcomers)} here before"
        else:
            why = f"What answers {_names(self.forced)} may not be served any more"
        numbers = {"goal": goal, "others_utilization": others}
        if expected is not None:
            why += f"; expected CPU {base.percent(expected)} (goal {base.percent(goal)})"
        return Outcome(rungs, codes, why, numbers)

    def step_down(self, min_reduction: float, why: str, numbers: Mapping[str, float]) -> Outcome:
        """Go to the first point whose total metric is lower by the least reduction, else to the lowest point."""
        known = {task: rate for task, rate in self.demand.items() if task in self.standings and rate}
        outcome = self._step_down(known, min_reduction, why, numbers)
        if outcome is None:
            unknown = {task: 1.0 for task in self.standings if self.demand[task] is None}
            guess = f"{why}, with one inference a second assumed where demand is not known"
            outcome = self._step_down(unknown, min_reduction, guess, numbers)
        if outcome is not None:
            return outcome
        if known or not all(rate == 0 for rate in self.demand.values()):
            return self.hold(Code.AT_BOTTOM, f"{why}, and there is nothing cheaper", numbers)
        return self.hold(Code.AT_BOTTOM, f"{why}, but nobody asks: a cheaper version would save nothing", numbers)

    def _step_down(
        self, demand: Mapping[str, float], min_reduction: float, why: str, numbers: Mapping[str, float]
    ) -> Outcome | None:
        chain = chains.build({task: self._climber(task, rate) for task, rate in demand.items()})
        present = self.present
        total = chain.total(present)
        if total <= chain.totals[-1] + chain.slack:
            return None
        limit = (1.0 - min_reduction) * total
        point = chain.first_at_most(limit)
        reached = point is not None
        if point is None:
            point = chain.first_at_most(chain.totals[-1]) or 0
        rungs = self.held(keep_wanted=False) | chain.allocation(point)
        moved = {
            "total_metric": total,
            "new_total_metric": chain.totals[point],
            "limit_metric": limit,
        }
        if not reached:
            why = f"{why}, and no allocation saves {base.percent(min_reduction)}"
        return self._moved(Code.STEP_DOWN, rungs, why, {**numbers, **moved})

    def step_up(self, multiplier: float, goal: float, why: str, numbers: Mapping[str, float]) -> Outcome:
        """Go to the highest point whose total metric stays below multiplier x present."""
        chain, present = self._known_chain()
        total = chain.total(present)
        limit = multiplier * total if total > 0 else 0.0
        point = chain.first_below(limit)
        numbers = {**numbers, "total_metric": total, "goal": goal}
        if isfinite(multiplier):
            numbers |= {"multiplier": multiplier, "limit_metric": limit}
        if point is not None and self._gains(chain, chain.allocation(point), present):
            moved = {**numbers, "new_total_metric": chain.totals[point]}
            return self._moved(Code.STEP_UP, self.held(False) | chain.allocation(point), why, moved)
        return self._no_room(f"{why}, but the next version up would pass {base.percent(goal)}", why, numbers)

    def step_up_once(self, why: str, numbers: Mapping[str, float]) -> Outcome:
        """Go one point up."""
        chain, present = self._known_chain()
        total = chain.total(present)
        point = chain.last_above(total) if total > 0 else 0
        numbers = {**numbers, "total_metric": total}
        if point is not None and self._gains(chain, chain.allocation(point), present):
            moved = {**numbers, "new_total_metric": chain.totals[point]}
            return self._moved(Code.STEP_UP, self.held(False) | chain.allocation(point), why, moved)
        return self._no_room(f"{why}, but no point above is better", why, numbers)

    def rebalance(self, why: str, numbers: Mapping[str, float]) -> Outcome:
        """Go to the highest point that costs no more than the present, if it holds more accuracy."""
        chain, present = self._known_chain()
        total = chain.total(present)
        point = chain.first_at_most(total)
        numbers = {**numbers, "total_metric": total}
        if point is not None and self._gains(chain, chain.allocation(point), present):
            numbers["new_total_metric"] = chain.totals[point]
            numbers["accuracy_gain"] = chain.accuracy(chain.allocation(point)) - chain.accuracy(present)
            why = f"{why}; today's demand allows more accuracy at the same load"
            return self._moved(Code.REBALANCE, self.held(False) | chain.allocation(point), why, numbers)
        return self.hold(Code.STEADY, f"{why}: neither high nor low, and no better point for today's demand", numbers)

    # How they are computed.

    def _known_chain(self) -> tuple[Chain, Rungs]:
        """Return the chain of the tasks whose demand is known, zero included, and the present of the same tasks."""
        rates = {task: rate for task, rate in self.demand.items() if task in self.standings and rate is not None}
        chain = chains.build({task: self._climber(task, rate) for task, rate in rates.items()})
        return chain, {task: rung for task, rung in self.present.items() if task in rates}

    @staticmethod
    def _gains(chain: Chain, rungs: Rungs, present: Rungs) -> bool:
        return chain.accuracy(rungs) > chain.accuracy(present) + chains.TOLERANCE

    def _moved(self, code: Code, rungs: Rungs, why: str, numbers: Mapping[str, float]) -> Outcome:
        present = self.present
        codes = {task: code if rung != present.get(task) else Code.STEADY for task, rung in rungs.items()}
        return Outcome(rungs, codes, why, numbers)

    def _no_room(self, no_room: str, at_top: str, numbers: Mapping[str, float]) -> Outcome:
        rungs = self.held(keep_wanted=False)
        top = {task: rung == len(self.ladders[task]) - 1 for task, rung in rungs.items()}
        unknown = [task for task in rungs if not top[task] and self.demand[task] is None]
        if unknown:
            no_room = f"{at_top}, but the demand of {_names(unknown)} is not known"
        codes = {task: Code.AT_TOP if top[task] else Code.NO_ROOM for task in rungs}
        return Outcome(rungs, codes, at_top if all(top.values()) else no_room, numbers)

    def _climber(self, task: str, rate: float) -> Climber:
        climber = self._cache.get(task)
        if climber is None:
            climber = _climber(self.tasks[task], self.ladders[task], self.server.hardware_class, self.metric)
            self._cache[task] = climber
        return Climber(climber.metrics, climber.accuracies, rate)

    def _throughput_climber(self, task: str) -> Climber:
        """Return a newcomer's climber in CPU, whatever the policy's metric is: the goal is one of CPU."""
        return replace(
            _climber(self.tasks[task], self.ladders[task], self.server.hardware_class, Metric.INVERSE_THROUGHPUT),
            demand_rps=self.demand[task] or 0.0,
        )

    def reasons(self, outcome: Outcome) -> list[Reason]:
        """Return one reason for each task of the server."""
        expected = self.expected(outcome.rungs)
        numbers = dict(outcome.numbers)
        if expected is not None:
            numbers["expected_utilization"] = expected
        return [self._reason(task, outcome, expected, numbers) for task in self.tasks]

    def _reason(self, task: str, outcome: Outcome, expected: float | None, numbers: Mapping[str, float]) -> Reason:
        name = self.server.name
        if task not in outcome.rungs:
            return Reason(task, name, Code.NO_VERSIONS, f"No version of {task} may be served on {name}.")
        standing = self.standings[task]
        ladder = self.ladders[task]
        new = ladder[outcome.rungs[task]]
        code = outcome.codes[task]
        kept = outcome.rungs[task] == standing.rung
        if standing.code is not None and kept:
            code = standing.code
        rate = self.demand[task]
        numbers = {**numbers, "version": float(new.number), "accuracy": new.accuracy}
        if rate is not None:
            numbers["demand_rps"] = rate
        if code is Code.RESTORED:
            act = f"{task} gets {base.describe(new)} back, because nothing answers it on {name} now"
        elif code is Code.REPLACED:
            old = self.server.active.get(task)
            act = f"{task} leaves {old}, which may not be served any more, for {base.describe(new)}"
        elif kept:
            act = f"{task} stays at {base.describe(new)}"
        elif standing.rung is None:
            act = f"{task} starts with {base.describe(new)}"
        else:
            up = outcome.rungs[task] > standing.rung
            verb = "steps up" if up else "steps down"
            if code in (Code.SETTLING, Code.STEADY, Code.STALE_METRICS):
                verb = "is on its way up" if up else "is on its way down"
            act = f"{task} {verb} from {base.describe(ladder[standing.rung])} to {base.describe(new)}"
        tail = f", expected CPU {base.percent(expected)}" if not kept and expected is not None else ""
        return Reason(task, name, code, f"{outcome.why}: {act}{tail}.{outcome.doubt}", numbers)


def _climber(task: TaskState, ladder: Ladder, hardware_class: str, metric: Metric) -> Climber:
    """Return a ladder as the chain sees it. A lone version without a profile costs nothing that is known."""
    weight = task.weight if 0 <= task.weight <= 1e9 else 1.0
    # A ladder that was made for another metric may not rise in this one: then a rung costs what the one below costs.
    metrics = tuple(accumulate((frontier.metric_of(version, hardware_class, metric) or 0.0 for version in ladder), max))
    best = frontier.best_accuracy(task) or 1.0
    accuracies = tuple(weight * version.accuracy / best for version in ladder)
    return Climber(metrics, accuracies, 0.0)


def view(snapshot: PoolSnapshot, server: ServerState, metric: Metric, demand_window_seconds: float) -> ServerView:
    """Look at one server of a snapshot."""
    tasks = {task.name: task for task in base.tasks_of(snapshot, server)}
    ladders = {name: base.ladder_on(task, server, metric) for name, task in tasks.items()}
    ladders = {name: ladder for name, ladder in ladders.items() if ladder}
    standings = {name: base.standing(tasks[name], server, ladder, metric) for name, ladder in ladders.items()}
    demand = base.demands(snapshot, server, demand_window_seconds)
    return ServerView(server, tasks, ladders, standings, demand, metric)


def _names(tasks: Iterable[str]) -> str:
    """Return a few names, and how many more there are."""
    names = list(tasks)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
