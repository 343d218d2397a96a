"""The built-in trace against the very policy that the demo shows: it has to make it step down, and let it step up."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest

from rung.core.policies.stepwise import Stepwise
from rung.core.snapshot import PoolSnapshot, Profile, Sample, ServerState, TaskState, Version
from rung_demo.trace import TaskCapacity, demo_traces
from rung_loadgen.arrivals import poisson_arrivals

IDLE_UTILIZATION = 0.03


@dataclass
class Replayed:
    steps: list[tuple[int, str, int, int]] = field(default_factory=list)
    overloaded_seconds: int = 0

    def directions(self, task: str) -> set[str]:
        return {"down" if new < old else "up" for _, name, old, new in self.steps if name == task}


def ladder(best_rps: float, span: float, count: int = 5) -> tuple[Version, ...]:
    rates = best_rps * span ** np.linspace(0, 1, count)
    accuracies = 0.98 - 0.08 * np.linspace(0, 1, count) ** 2
    return tuple(
        Version(round(accuracy * 100_000), float(accuracy), {"test": Profile(max_throughput_rps=float(rate))})
        for rate, accuracy in zip(rates, accuracies, strict=True)
    )


def replay(
    tasks: dict[str, tuple[Version, ...]], seed: int, traces_of: dict[str, tuple[Version, ...]] | None = None
) -> Replayed:
    """One server whose CPU is what the profiles say, decided on each second."""
    capacities = [
        TaskCapacity(
            name,
            best_rps=min(v.profiles["test"].max_throughput_rps for v in versions),
            cheapest_rps=max(v.profiles["test"].max_throughput_rps for v in versions),
        )
        for name, versions in (traces_of or tasks).items()
    ]
    traces = demo_traces(capacities)
    rng = np.random.default_rng(seed)
    counts = {
        name: np.bincount(poisson_arrivals(trace.rates_rps, rng).astype(int), minlength=trace.seconds)
        for name, trace in traces.items()
    }
    by_number = {name: {version.number: version for version in versions} for name, versions in tasks.items()}
    active = {name: max(versions) for name, versions in by_number.items()}
    states = tuple(TaskState(name, versions, 0.4) for name, versions in tasks.items())
    cpu: deque[Sample] = deque(maxlen=20)
    demand: dict[str, deque[Sample]] = {name: deque(maxlen=20) for name in tasks}
    memory: object = {}
    replayed = Replayed()
    for second in range(300):
        used = IDLE_UTILIZATION
        for name, number in active.items():
            rate = float(counts[name][second])
            demand[name].append(Sample(second, rate))
            used += rate / by_number[name][number].profiles["test"].max_throughput_rps
        replayed.overloaded_seconds += used > 1
        cpu.append(Sample(second, min(used, 1.0)))
        server = ServerState(
            "s", "test", 1.0, utilization=tuple(cpu), active=dict(active), wanted=dict(active),
            demand={name: tuple(samples) for name, samples in demand.items()},
        )  # fmt: skip
        plan, memory = Stepwise().decide(PoolSnapshot(float(second), (server,), states), memory)  # type: ignore[arg-type]
        for name, target in plan.servers[0].targets.items():
            if target.active != active[name]:
                replayed.steps.append((second, name, active[name], target.active))
                active[name] = target.active
    return replayed


@pytest.mark.parametrize("span", [6, 8, 20])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_task_steps_down_and_up_again_within_the_trace(span: float, seed: int) -> None:
    replayed = replay({"digit": ladder(60, span), "parity": ladder(90, span)}, seed)

    assert replayed.directions("digit") == {"down", "up"}, replayed.steps
    assert replayed.directions("parity") == {"down", "up"}, replayed.steps


def test_the_best_versions_alone_could_not_keep_up_and_the_policy_ends_the_overload() -> None:
    ladders = {"digit": ladder(60, 8), "parity": ladder(90, 8)}
    best_alone: dict[str, tuple[Version, ...]] = {name: (versions[0],) for name, versions in ladders.items()}

    stepwise = replay(ladders, 1)
    stuck = replay(best_alone, 1, traces_of=ladders)

    assert stuck.overloaded_seconds > 60
    assert stepwise.overloaded_seconds < stuck.overloaded_seconds / 2, stepwise.steps
