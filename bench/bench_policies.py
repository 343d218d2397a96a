"""What a decision of Frontier takes, by tasks and servers, and what the simulator takes, by requests.

Run it with `make bench-policies`. Each decision is a full one: demand has just risen, so every server is planned anew.
Servers are of two hardware classes and have ten tasks each, every task ten versions. The optimality gap is what the
search says of itself; 0 means that the plan is the optimum. Times are the median of some decisions on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from statistics import median

import numpy as np

from rung.core.decide import Settings, decide
from rung.core.plan import Plan
from rung.core.policies.frontier import Frontier
from rung.core.policies.static import Static, StaticChoice
from rung.core.snapshot import PoolSnapshot, Profile, Sample, ServerState, TaskState, Version
from rung_sim.experiments import setting
from rung_sim.simulation import Options, Simulation

NOW = 1_000_000.0
VERSIONS, TASKS_A_SERVER, HISTORY = 10, 10, 110


def pool(tasks: int, servers: int, seed: int) -> PoolSnapshot:
    """Return a pool whose tasks are all on their best versions, and whose demand has doubled seconds ago."""
    rng = np.random.default_rng(seed)
    names = [f"server-{n:03}" for n in range(servers)]
    states = []
    for number in range(tasks):
        cheapest, span = rng.uniform(0.002, 0.006), rng.uniform(8, 25)
        seconds = cheapest * span ** (np.arange(VERSIONS) / (VERSIONS - 1))
        accuracy = 0.95 - rng.uniform(0.1, 0.4) * (1 - np.arange(VERSIONS) / (VERSIONS - 1)) ** rng.uniform(1.2, 2.5)
        versions = tuple(
            Version(
                v + 1, float(accuracy[v]),
                {name: Profile(float(1 / (seconds[v] * slow)), None, float(seconds[v] * slow))
                 for name, slow in (("fast", 1.0), ("slow", 1.6))},
            )
            for v in range(VERSIONS)
        )  # fmt: skip
        states.append(TaskState(f"task-{number:04}", versions, 0.4, servers=frozenset({names[number % servers]})))
    found = []
    for place, name in enumerate(names):
        mine = [task.name for task in states[place::servers]]
        rates = rng.uniform(1.5, 4.0, len(mine))
        demand = {
            task: tuple(
                Sample(NOW - HISTORY + s + 1, float(rng.poisson(rate * (2.0 if s > HISTORY - 10 else 1.0))))
                for s in range(HISTORY)
            )
            for task, rate in zip(mine, rates, strict=True)
        }
        found.append(
            ServerState(
                name, ("fast", "slow")[place % 2], 1.0,
                utilization=tuple(Sample(NOW - HISTORY + s + 1, 0.7) for s in range(HISTORY)),
                demand=demand, active=dict.fromkeys(mine, VERSIONS),
                loaded={task: frozenset({VERSIONS - 1, VERSIONS}) for task in mine},
            )
        )  # fmt: skip
    return PoolSnapshot(NOW, tuple(found), tuple(states))


def earlier(snapshot: PoolSnapshot) -> PoolSnapshot:
    """Return what was known twelve seconds before, when demand had not risen yet."""
    now = NOW - 12

    def known(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        return tuple(sample for sample in samples if sample.time_seconds <= now)

    servers = tuple(
        replace(s, utilization=known(s.utilization), demand={task: known(each) for task, each in s.demand.items()})
        for s in snapshot.servers
    )
    return replace(snapshot, time_seconds=now, servers=servers)


def standing_at(snapshot: PoolSnapshot, plan: Plan) -> PoolSnapshot:
    """Return the same moment with the versions of a plan loaded."""
    chosen = {each.server: each.targets for each in plan.servers}
    servers = tuple(
        replace(
            server,
            active={task: target.active for task, target in chosen[server.name].items()},
            loaded={task: frozenset({target.active, *target.standby}) for task, target in chosen[server.name].items()},
        )
        for server in snapshot.servers
    )
    return replace(snapshot, servers=servers)


def decision(tasks: int, servers: int, repeats: int) -> tuple[float, float, float]:
    """Return the median seconds of a decision, the largest optimality gap, and the share of lanes that moved."""
    times, gaps, moved = [], [0.0], []
    for seed in range(repeats):
        snapshot = pool(tasks, servers, seed)
        before, memory = decide(Frontier(), earlier(snapshot), {}, Settings())
        snapshot = standing_at(snapshot, before)
        began = time.perf_counter()
        plan, _ = decide(Frontier(), snapshot, memory, Settings())
        times.append(time.perf_counter() - began)
        gaps += [reason.numbers.get("optimality_gap", 0.0) for reason in plan.reasons]
        was = {(p.server, name): t.active for p in before.servers for name, t in p.targets.items()}
        moved.append(
            sum(t.active != was[p.server, name] for p in plan.servers for name, t in p.targets.items()) / tasks
        )
    return median(times), max(gaps), float(np.mean(moved))


def simulated(requests: int) -> float:
    """Return the seconds of a run of so many requests under a policy that costs little."""
    world = setting.three_tasks()
    seconds = 3600
    rate = requests / seconds / len(world.tasks)
    # Short inferences: what is measured is the simulator, not how long its queues become.
    cheap = [
        replace(task, services={name: {number: replace(s, each_seconds=1e-4) for number, s in services.items()}
                                for name, services in task.services.items()})
        for task in world.tasks
    ]  # fmt: skip
    world = replace(world, tasks=tuple(cheap))
    rates = {task.state.name: np.full(seconds, rate) for task in world.tasks}
    simulation = Simulation(world, rates, Static(StaticChoice.CHEAPEST), Settings(), Options())
    began = time.perf_counter()
    run = simulation.run()
    assert np.isfinite(run.latency_seconds).all()
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument("--picture", help="write how the time grows, as PNG")
    arguments = parser.parse_args()
    rows = []
    print(f"{'tasks':>6} {'servers':>8} {'decision':>12} {'a task':>10} {'gap':>9} {'moved':>7}")
    for tasks, servers in ((10, 1), (30, 3), (100, 10), (300, 30), (1000, 100), (3000, 300)):
        seconds, gap, moved = decision(tasks, servers, arguments.repeats)
        rows.append((tasks, seconds))
        print(f"{tasks:6} {servers:8} {1e3 * seconds:9.1f} ms {1e6 * seconds / tasks:7.0f} us {gap:9.2g} {moved:6.0%}")
    if arguments.picture:
        from rung_sim.figures import growth  # noqa: PLC0415

        growth(rows, "tasks (ten on each server, ten versions each)", "one decision, s").savefig(
            arguments.picture, dpi=110
        )
    simulated(10_000)  # compile
    seconds = simulated(arguments.requests)
    print(
        f"simulator: {arguments.requests:,} requests in {seconds:.1f} s ({arguments.requests / seconds / 1e6:.2f} M/s)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
