"""Stepwise: the "trivial policy" of Buijnsters (TU Delft, section 4.4). Each server is judged by itself.

Every branch below cites the rule it carries out. Where the thesis (or `the rules`, our shorter statement of it) is
silent, this is what was chosen, and why:

- *The present* is what answers now, not what was last wanted: CPU was measured on it. Where a task is on its way to
  another version and nothing is to change, the plan repeats what was wanted.
- "Last 10 s" are the samples later than now - 10 s. Fewer than `min_samples` of them judge nothing: hold.
- "The first 15 s" excludes second 15 itself, "30 s since the last change" includes second 30.
- "Observed CPU", in the step up, is the mean of the last 10 s, as it is in the step down; demand is the mean of the
  same 10 s.
- A change is a plan that differs from the last one in a version of some task. A restart of the server is no change:
  it starts the 15 s again (its loads cost CPU), not the 30 s. Without memory of the last change, it is now.
- Down, when no point is 40 % below: the lowest point there is. A task without demand, or of unknown demand, keeps its
  version on the way down: dropping it saves nothing that is known, and raising it would cost a load.
- Up: the point found must hold more accuracy than the present, else there is no room. Without demand at all, every
  point fits and the best is taken, as the thesis starts with the best.
- Trust is judged where it matters, when a step up is computed, and only when the prediction is above nothing.
- Up with another metric: the lowest point of the chain whose total passes the present one.
- The chain's *better point for today's demand*: the highest point whose total does not pass the present one, if the sum
  of its normalised accuracies is higher than the present's.
- Demand that is not known: the task keeps its version. When no demand is known that could be lowered and the CPU is too
  high, tasks of unknown demand count one inference a second each, so that a busy server still steps down.
- First version of a task: the highest point of the chain of the new tasks at which the expected CPU of the whole server
  stays within the goal, else the cheapest; with unknown demand the best, as in the thesis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import fsum, isfinite
from typing import ClassVar

from rung.core import signals
from rung.core.frontier import Metric
from rung.core.memory import entries, is_number
from rung.core.plan import Code, Memory, Plan, Reason, ServerPlan, Target
from rung.core.policies import base
from rung.core.policies.stepwise_view import Outcome, ServerView, view
from rung.core.snapshot import PoolSnapshot, ServerState


@dataclass(frozen=True, slots=True)
class StepwiseParameters:
    """The parameters, with the thesis' values as defaults; utilisation from 0 to 1."""

    metric: Metric = Metric.INVERSE_THROUGHPUT
    window_seconds: float = 20.0
    """How much CPU history is kept, one sample a second."""
    settle_seconds: float = 15.0
    """Nothing happens this long after a change."""
    judge_seconds: float = 10.0
    """How much of the newest history is judged."""
    up_after_seconds: float = 30.0
    """Time since the last change before a step up or a rebalance."""
    down_above: float = 0.70
    """Step down when the mean is above this."""
    up_below: float = 0.50
    """Step up when the maximum is below this."""
    goal: float = 0.65
    """Utilisation that a step up aims at."""
    min_reduction: float = 0.40
    """Share by which a step down lowers the total metric at least."""
    trust: float = 1.2
    """The profile is trusted up to observed CPU = predicted CPU x this."""
    min_samples: int = 5
    """Fewer CPU samples than this in the judged time judge nothing."""


@dataclass(frozen=True, slots=True)
class Stepwise:
    """The policy; see the module's text for its rules."""

    name: ClassVar[str] = "Stepwise"
    needs_signals: ClassVar[bool] = True

    parameters: StepwiseParameters = field(default_factory=StepwiseParameters)

    @property
    def metric(self) -> Metric:
        """Return what a version costs."""
        return self.parameters.metric

    @property
    def history_seconds(self) -> float:
        """Return how much of the signals' history the policy reads."""
        return self.parameters.judge_seconds

    def decide(self, snapshot: PoolSnapshot, memory: Memory) -> tuple[Plan, Memory]:
        """Judge each ready server by itself. Memory: `{"servers": {name: {"last_change_seconds": float}}}`."""
        plans: list[ServerPlan] = []
        reasons: list[Reason] = []
        remembered = _last_changes(memory)
        changes = dict(remembered)
        for server in snapshot.servers:
            if not server.ready:
                continue
            last_change = remembered.get(server.name)
            if last_change is not None:
                # A clock that was set back must not stop the server for ever.
                last_change = min(last_change, snapshot.time_seconds)
            seen = view(snapshot, server, self.parameters.metric, self.parameters.judge_seconds)
            outcome = self._server(snapshot.time_seconds, server, seen, last_change)
            plans.append(_plan(seen, outcome))
            reasons.extend(seen.reasons(outcome))
            if last_change is None or _differs(seen, outcome):
                last_change = snapshot.time_seconds
            changes[server.name] = last_change
        return Plan(tuple(plans), tuple(reasons)), {
            "servers": {name: {"last_change_seconds": time} for name, time in sorted(changes.items())}
        }

    def _server(  # noqa: PLR0911 - one return for each rule
        self, now: float, server: ServerState, seen: ServerView, last_change: float | None
    ) -> Outcome:
        p = self.parameters
        if seen.newcomers or seen.forced:
            return seen.first_allocation(p.goal)
        since_change = now - (now if last_change is None else last_change)
        disturbed = server.disturbed_seconds
        since_upset = since_change
        if disturbed is not None and isfinite(disturbed):
            since_upset = min(since_change, max(0.0, now - disturbed))
        numbers = {"seconds_since_change": since_change}
        if since_upset < p.settle_seconds:
            upset = "the last change" if since_upset == since_change else "the restart"
            why = f"{since_upset:.0f} s since {upset}, judged again after {p.settle_seconds:.0f} s"
            return seen.hold(Code.SETTLING, why, numbers, keep_wanted=True)

        recent = signals.recent_values(server.utilization, now, min(p.judge_seconds, p.window_seconds))
        if len(recent) < max(1, p.min_samples):
            why = f"Only {len(recent)} CPU samples in the last {p.judge_seconds:.0f} s, {p.min_samples} are needed"
            return seen.hold(Code.STALE_METRICS, why, {**numbers, "samples": float(len(recent))}, keep_wanted=True)
        recent = [min(max(value, 0.0), signals.HIGHEST_UTILIZATION) for value in recent]
        mean = fsum(recent) / len(recent)
        highest = max(recent)
        numbers |= {"cpu_mean": mean, "cpu_max": highest}
        averaged = f"CPU averaged {base.percent(mean)} over the last {p.judge_seconds:.0f} s"
        if mean > p.down_above:
            return seen.step_down(p.min_reduction, f"{averaged} (limit {base.percent(p.down_above)})", numbers)
        if since_change < p.up_after_seconds:
            why = f"{averaged}, and the last change was {since_change:.0f} s ago (up after {p.up_after_seconds:.0f} s)"
            return seen.hold(Code.STEADY, why, numbers)
        if highest < p.up_below:
            low = f"CPU stayed below {base.percent(p.up_below)} for {p.judge_seconds:.0f} s (mean {base.percent(mean)})"
            return self._step_up(seen, mean, low, numbers)
        return seen.rebalance(averaged, numbers)

    def _step_up(self, seen: ServerView, observed: float, why: str, numbers: dict[str, float]) -> Outcome:
        p = self.parameters
        if p.metric is not Metric.INVERSE_THROUGHPUT:
            return seen.step_up_once(why, numbers)
        predicted = seen.predicted()
        trusted = predicted <= 0 or observed <= predicted * p.trust
        basis = observed if trusted else predicted * p.trust
        multiplier = p.goal / basis if basis > 0 else float("inf")
        outcome = seen.step_up(multiplier, p.goal, why, numbers)
        # At the top nothing is to be computed, so nothing is said about the profile.
        if trusted or all(code is Code.AT_TOP for code in outcome.codes.values()):
            return outcome
        doubt = f" The profile predicts {base.percent(predicted)}: it can't be trusted here."
        return outcome.doubted(doubt)


def _plan(seen: ServerView, outcome: Outcome) -> ServerPlan:
    targets = {task: Target(version.number) for task, version in seen.versions(outcome.rungs).items()}
    return ServerPlan(seen.server.name, targets, seen.expected(outcome.rungs), outcome.trusted)


def _differs(seen: ServerView, outcome: Outcome) -> bool:
    """Tell whether the plan is a change: a task's version is not the one that was wanted.

    Where none was wanted, or it is not to be had any more, the plan is compared with what answers: giving up a version
    that failed to load changes nothing on the server, so it starts no timer.
    """
    for task, rung in outcome.rungs.items():
        standing = seen.standings[task]
        answers = base.rung_of(seen.ladders[task], seen.server.active.get(task))
        if rung != (answers if standing.wanted is None else standing.wanted):
            return True
    return False


def _last_changes(memory: Memory) -> dict[str, float]:
    """Read the memory; what is malformed is as if it had never been."""
    times = {name: entry.get("last_change_seconds") for name, entry in entries(memory, "servers").items()}
    return {name: float(time) for name, time in times.items() if is_number(time) and abs(time) < 1e15}
