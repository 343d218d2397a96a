"""What a run came to, in the numbers that policies are compared by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rung.core.frontier import normalized_accuracy
from rung_sim.engine import Floats
from rung_sim.simulation import Run


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. Shares and accuracies from 0 to 1; what failed is late, too, and counts no accuracy."""

    policy: str
    requests: int
    late_share: float
    failed: int
    normalized_accuracy: float
    """Mean of the tasks, each the mean of its answers."""
    normalized_accuracy_per_request: float
    normalized_accuracy_by_task: dict[str, float]
    late_share_by_task: dict[str, float]
    cpu: float
    """Mean utilisation of the servers."""
    core_seconds: float
    swaps: dict[str, int]
    cold_swap_seconds: float | None
    """Mean, from the begin of a load to the new version answering."""
    latency_seconds: dict[str, float]
    """Percentiles of the answers: p50, p95, p99."""
    decisions_per_second: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)


def outcome_of(run: Run) -> Outcome:
    """Sum a run up; requests and CPU without its warm-up, swaps and core-seconds with it."""
    counted = run.arrival_seconds >= run.warm_up_seconds
    failed = ~np.isfinite(run.latency_seconds)
    accuracy = np.zeros(run.task.size)
    late = np.zeros(run.task.size, bool)
    by_task: dict[str, float] = {}
    late_by_task: dict[str, float] = {}
    for number, task in enumerate(run.world.tasks):
        state = task.state
        mine = counted & (run.task == number)
        for version in state.versions:
            accuracy[mine & (run.version == version.number)] = normalized_accuracy(version, state)
        late[mine] = run.latency_seconds[mine] > state.slo_latency_seconds
        by_task[state.name] = _mean(accuracy[mine & ~failed])
        late_by_task[state.name] = _mean(late[mine])
    answered = run.latency_seconds[counted & ~failed]
    p50, p95, p99 = np.percentile(answered, (50, 95, 99)) if answered.size else (np.nan, np.nan, np.nan)
    return Outcome(
        policy=run.policy,
        requests=int(counted.sum()),
        late_share=_mean(late[counted]),
        failed=int((failed & counted).sum()),
        normalized_accuracy=float(np.mean(list(by_task.values()))),
        normalized_accuracy_per_request=_mean(accuracy[counted & ~failed]),
        normalized_accuracy_by_task=by_task,
        late_share_by_task=late_by_task,
        cpu=float(run.utilization[run.warm_up_seconds :].mean()),
        core_seconds=run.core_seconds,
        swaps=dict(run.swaps),
        cold_swap_seconds=run.cold_swap_seconds,
        latency_seconds={"p50": float(p50), "p95": float(p95), "p99": float(p99)},
        decisions_per_second=1.0 / run.decision_seconds if run.decision_seconds > 0 else float("inf"),
    )


def _mean(values: Floats | np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
