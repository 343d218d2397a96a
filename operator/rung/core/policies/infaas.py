"""InFaaS: the cheapest version that meets a task's floor and service level (Romero et al., ATC 2021).

As a baseline on fixed hardware: it minimises cost and latency and never seeks accuracy, which its users state as a
floor (`minAccuracy`). A version that no longer carries the demand is *upgraded* to a faster one; after ten decisions in
a row in which a cheaper one would carry it, it is *downgraded* to that. What a version costs on hardware that is paid
for anyway is the memory it holds, by its profile; where that is not known of every candidate, its CPU time.

Where the paper leaves a choice: several tasks on a server each get an equal part of it, a version carries what its
maximal throughput (measured at the service level) is times that part; where none carries the demand, the fastest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rung.core.frontier import Metric, metric_of
from rung.core.memory import entries, is_number
from rung.core.plan import Code, Memory, Plan, Reason, ServerPlan
from rung.core.policies import base
from rung.core.policies.lane import DEMAND_WINDOW_SECONDS, Choice, Lane, lanes_on, plan_and_reasons
from rung.core.snapshot import PoolSnapshot


@dataclass(frozen=True, slots=True)
class InFaaS:
    """The policy; see the module's text."""

    name: ClassVar[str] = "InFaaS"
    metric: ClassVar[Metric] = Metric.INVERSE_THROUGHPUT
    needs_signals: ClassVar[bool] = True
    history_seconds: ClassVar[float] = DEMAND_WINDOW_SECONDS

    quiet_votes: int = 10
    """Decisions in a row in which a cheaper version would do, before it is taken."""

    def decide(self, snapshot: PoolSnapshot, memory: Memory) -> tuple[Plan, Memory]:
        """Judge each task of each server by itself. Memory: `{"servers": {name: {task: votes}}}`, without zeros."""
        plans: list[ServerPlan] = []
        reasons: list[Reason] = []
        votes = _read(memory)
        for server in snapshot.servers:
            if not server.ready:
                continue
            lanes = lanes_on(snapshot, server)
            before, after = votes.get(server.name, {}), {}
            choices = []
            for lane in lanes:
                choice, count = self._choose(lane, 1.0 / max(1, len(lanes)), before.get(lane.state.name, 0))
                choices.append(choice)
                if count:
                    after[lane.state.name] = count
            votes[server.name] = after
            plan, told = plan_and_reasons(snapshot, server, lanes, choices)
            plans.append(plan)
            reasons += told
        return Plan(tuple(plans), tuple(reasons)), {
            "servers": {name: dict(sorted(each.items())) for name, each in sorted(votes.items()) if each}
        }

    def _choose(self, lane: Lane, share: float, votes: int) -> tuple[Choice, int]:
        """Return the choice, and how many quiet votes there are now."""
        candidates = _candidates(lane)
        rate, now = lane.demand_rps, lane.present
        cheapest = candidates[0]
        if rate is None:
            rung = cheapest if now is None else now
            return Choice(rung, Code.STALE_METRICS, "its demand is not known", {}), votes
        carries = {rung: _capacity_rps(lane, rung) * share for rung in candidates}
        good = next((rung for rung in candidates if carries[rung] >= rate), max(candidates, key=lambda r: carries[r]))
        numbers = {"capacity_rps": carries[good], "votes": float(votes)}
        floor = "" if lane.state.min_accuracy is None else f" above {base.percent(lane.state.min_accuracy)} accuracy"
        carried = f"it is the cheapest{floor} that carries {rate:.1f} inferences/s"
        if now is None or now not in carries or carries[now] < rate or good == now:
            if carries[good] < rate:
                carried = f"no version carries {rate:.1f} inferences/s, and it is the fastest"
            return Choice(good, Code.STEADY, carried, numbers), 0
        if votes + 1 < self.quiet_votes:
            cheaper = base.describe(lane.ladder[good])
            why = f"{cheaper} would do, in {votes + 1} decisions in a row ({self.quiet_votes} are needed)"
            return Choice(now, Code.SETTLING, why, numbers), votes + 1
        return Choice(good, Code.STEADY, carried, numbers), 0


def _candidates(lane: Lane) -> list[int]:
    """Return the rungs whose latency keeps the service level, or all where none does, cheapest first."""
    rungs = range(len(lane.ladder))
    kept = [rung for rung in rungs if lane.keeps_service_level(rung)] or list(rungs)
    memory = {rung: _memory_bytes(lane, rung) for rung in kept}
    if all(held is not None for held in memory.values()):
        return sorted(kept, key=lambda rung: (memory[rung] or 0, lane.costs[rung], rung))
    return sorted(kept, key=lambda rung: (lane.costs[rung], rung))


def _memory_bytes(lane: Lane, rung: int) -> int | None:
    profile = lane.ladder[rung].profiles.get(lane.hardware_class)
    held = profile.memory_bytes if profile is not None else None
    return held if held is not None and held > 0 else None


def _capacity_rps(lane: Lane, rung: int) -> float:
    """Return what a version carries alone on the server; without a profile, nothing is known to stop it."""
    seconds = metric_of(lane.ladder[rung], lane.hardware_class)
    return float("inf") if seconds is None else 1.0 / seconds


def _read(memory: Memory) -> dict[str, dict[str, int]]:
    return {
        name: {str(task): int(votes) for task, votes in entry.items() if is_number(votes) and 0 <= votes < 1e6}
        for name, entry in entries(memory, "servers").items()
    }
