"""ModelSwitching: the version whose answers are worth most at the present load (Zhang et al., HotCloud 2020).

An answer that comes late is worth nothing, so a version's *effective accuracy* is its accuracy times the share of its
answers that are in time at the present demand. The paper looks that share up in measured latencies by load; here it is
computed from the profile's CPU time by queueing theory (`core.tail`), which is what a profile holds.

The paper serves one model on hardware of its own. Several tasks on a server each get an equal part of its cores, as if
they were alone on it. No hysteresis and no forecast: the paper has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rung.core import tail
from rung.core.frontier import Metric
from rung.core.plan import Code, Memory, Plan, Reason, ServerPlan
from rung.core.policies import base
from rung.core.policies.lane import DEMAND_WINDOW_SECONDS, Choice, Lane, lanes_on, plan_and_reasons, usable_cores
from rung.core.snapshot import PoolSnapshot


@dataclass(frozen=True, slots=True)
class ModelSwitching:
    """The policy; see the module's text."""

    name: ClassVar[str] = "ModelSwitching"
    metric: ClassVar[Metric] = Metric.INVERSE_THROUGHPUT
    needs_signals: ClassVar[bool] = True
    history_seconds: ClassVar[float] = DEMAND_WINDOW_SECONDS

    def decide(self, snapshot: PoolSnapshot, memory: Memory) -> tuple[Plan, Memory]:
        """Judge each task of each server by itself; nothing is remembered."""
        plans: list[ServerPlan] = []
        reasons: list[Reason] = []
        for server in snapshot.servers:
            if not server.ready:
                continue
            lanes = lanes_on(snapshot, server)
            cores = usable_cores(server.capacity_cores) / max(1, len(lanes))
            plan, told = plan_and_reasons(snapshot, server, lanes, [_choose(lane, cores) for lane in lanes])
            plans.append(plan)
            reasons += told
        return Plan(tuple(plans), tuple(reasons)), {}


def _choose(lane: Lane, cores: float) -> Choice:
    rate = lane.demand_rps
    if rate is None:
        rung = lane.top if lane.present is None else lane.present
        return Choice(rung, Code.STALE_METRICS, "its demand is not known", {})
    slo_seconds = lane.state.slo_latency_seconds
    late = [tail.late_share(rate, cost, 0.0, cores, slo_seconds) for cost in lane.costs]
    effective = [worth * (1.0 - share) for worth, share in zip(lane.worths, late, strict=True)]
    # Of equal ones the cheapest: where all are late, it makes the shortest queue.
    rung = max(range(len(effective)), key=lambda each: (effective[each], -each))
    why = (
        f"at {rate:.1f} inferences/s on {cores:.2f} cores, {base.percent(1 - late[rung])} of its answers would be in "
        f"time: an effective accuracy of {base.percent(effective[rung])}, the highest"
    )
    return Choice(rung, Code.STEADY, why, {"effective_accuracy": effective[rung], "late_share": late[rung]})
