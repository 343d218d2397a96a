"""Proteus: every ten seconds, the exact plan of most accuracy-weighted throughput (Ahmad et al., ASPLOS 2024).

Its program picks the version on each device so that the demand is met within what every version sustains at the
service level, and the sum of demand x accuracy is highest; where the demand can't be met, the least shortfall.

Its devices hold one version of one model each. On ours several tasks share a server, so what is met is the server's
time: the sum of demand / maximal throughput is at most 1. The balancer spreads a task evenly over its servers, so each
server is a program of its own, over the demand that reaches it; it is solved exactly (`core.allocation`). Not taken
over: its adaptive batching, which Triton's dynamic batcher does, and its solver (Gurobi).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rung.core import allocation
from rung.core.frontier import Metric, metric_of
from rung.core.memory import entries, is_number
from rung.core.plan import Code, Memory, Plan, Reason, ServerPlan
from rung.core.policies import base
from rung.core.policies.lane import DEMAND_WINDOW_SECONDS, Choice, Lane, lanes_on, plan_and_reasons
from rung.core.snapshot import PoolSnapshot, ServerState

IDLE_RPS = 1e-6
"""What a task without demand counts, so that of two plans that cost the same the more accurate one wins."""


@dataclass(frozen=True, slots=True)
class Proteus:
    """The policy; see the module's text."""

    name: ClassVar[str] = "Proteus"
    metric: ClassVar[Metric] = Metric.INVERSE_THROUGHPUT
    needs_signals: ClassVar[bool] = True
    history_seconds: ClassVar[float] = DEMAND_WINDOW_SECONDS

    solve_every_seconds: float = 10.0
    reserve: float = 1.0
    """Share of what the versions sustain that is planned for; the paper leaves none free."""

    def decide(self, snapshot: PoolSnapshot, memory: Memory) -> tuple[Plan, Memory]:
        """Solve each server whose time has come. Memory: `{"servers": {name: {"solved_seconds": float}}}`."""
        now = snapshot.time_seconds
        plans: list[ServerPlan] = []
        reasons: list[Reason] = []
        solved = _read(memory, now)
        for server in snapshot.servers:
            if not server.ready:
                continue
            lanes = lanes_on(snapshot, server)
            last = solved.get(server.name)
            if last is not None and now - last < self.solve_every_seconds and all(x.present is not None for x in lanes):
                why = f"planned {now - last:.0f} s ago, and again every {self.solve_every_seconds:.0f} s"
                choices = [Choice(lane.present or 0, Code.SETTLING, why, {}) for lane in lanes]
            elif lanes and all(lane.demand_rps is None for lane in lanes):
                choices = [_held(lane) for lane in lanes]
            else:
                choices = _solve(server, lanes, self.reserve)
                solved[server.name] = now
            plan, told = plan_and_reasons(snapshot, server, lanes, choices)
            plans.append(plan)
            reasons += told
        return Plan(tuple(plans), tuple(reasons)), {
            "servers": {name: {"solved_seconds": time} for name, time in sorted(solved.items())}
        }


def _held(lane: Lane) -> Choice:
    rung = lane.top if lane.present is None else lane.present
    return Choice(rung, Code.STALE_METRICS, "its demand is not known", {})


def _solve(server: ServerState, lanes: list[Lane], reserve: float) -> list[Choice]:
    """Return the plan of one server at the present demand; a task of unknown demand keeps its version."""
    options: list[list[allocation.Choice]] = []
    rungs: list[list[int]] = []
    for lane in lanes:
        if lane.demand_rps is None:
            kept = _held(lane).rung
            rungs.append([kept])
            options.append([allocation.Choice(0.0, 0.0, reserve)])
            continue
        fit = [rung for rung in range(len(lane.ladder)) if lane.keeps_service_level(rung)] or [0]
        rungs.append(fit)
        options.append(
            [
                allocation.Choice(
                    value=lane.weight * lane.worths[rung] * max(lane.demand_rps, IDLE_RPS),
                    load=lane.demand_rps * (metric_of(lane.ladder[rung], server.hardware_class) or 0.0),
                    most_total=reserve,
                )
                for rung in fit
            ]
        )
    found = allocation.best_allocation(options)
    if found.choices is None:
        chosen = [fit[0] for fit in rungs]
        why = "the demand can't be met, and the cheapest versions fall short by the least"
    else:
        chosen = [fit[place] for fit, place in zip(rungs, found.choices, strict=True)]
        why = "it is part of the most accurate plan that meets the demand"
    busy = sum(options[place][rungs[place].index(rung)].load for place, rung in enumerate(chosen))
    why += f", with {base.percent(busy)} of what the server sustains"
    numbers = {"planned_utilization": busy, "optimality_gap": found.gap}
    return [
        Choice(rung, Code.STALE_METRICS if lane.demand_rps is None else Code.STEADY, why, numbers)
        for lane, rung in zip(lanes, chosen, strict=True)
    ]


def _read(memory: Memory, now: float) -> dict[str, float]:
    """Read the memory; a clock that was set back must not stop the plans for ever."""
    times = {name: entry.get("solved_seconds") for name, entry in entries(memory, "servers").items()}
    return {name: min(float(time), now) for name, time in times.items() if is_number(time)}
