"""What may go wrong in a simulation, the balancer's part in it, and the shapes of demand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rung.core.decide import Settings
from rung.core.policies.frontier import Frontier
from rung.core.policies.infadapter import InfAdapter, InfAdapterParameters
from rung.core.policies.static import Static, StaticChoice
from rung_sim import demand
from rung_sim.experiments.distributed import THREE_SERVERS, TWO_EACH
from rung_sim.experiments.setting import three_tasks
from rung_sim.faults import Fault, FaultKind
from rung_sim.outcome import outcome_of
from rung_sim.simulation import NOTICE_SECONDS, Balancer, Options, Run, Simulation

SECONDS = 120
RATES = {"ants": 6.0, "cifar10": 4.0, "cifar100": 3.0}


def run(
    *faults: Fault, servers: int = 1, policy: Frontier | Static | InfAdapter | None = None, **options: object
) -> Run:
    world = three_tasks() if servers == 1 else three_tasks(THREE_SERVERS, TWO_EACH)
    rates = {task: np.full(SECONDS, rate * servers) for task, rate in RATES.items()}
    made = replace(Options(faults=faults), **options)  # type: ignore[arg-type]
    return Simulation(world, rates, policy or Static(StaticChoice.CHEAPEST), Settings(), made).run()


def failed_at(done: Run) -> np.ndarray:
    return done.arrival_seconds[~np.isfinite(done.latency_seconds)]


def test_a_server_that_is_gone_fails_what_comes_until_the_balancer_notices() -> None:
    gone = Fault(FaultKind.SERVER_GONE, 40, 20, "edge-0")
    done = run(gone, servers=3)
    failed = failed_at(done)
    assert failed.size > 0
    assert failed.min() > 39
    assert failed.max() < 40 + NOTICE_SECONDS + 0.01
    assert (done.active[40:60, 0] == -1).all()
    assert (done.active[70:, 0, [0, 2]] > 0).all(), "it is back, with what it had"
    alone = run(replace(gone, server=None))
    assert failed_at(alone).max() > 59, "with no other server, all fails until it is back"


def test_without_metrics_everything_is_held_and_what_is_lost_comes_back() -> None:
    late = run(Fault(FaultKind.METRICS_LATE, 30, 40), policy=Frontier())
    assert {step.second for step in late.steps} & set(range(40, 70)) == set()
    lost = run(Fault(FaultKind.DEMAND_LOST, 30, 40), policy=Frontier())
    assert outcome_of(lost).failed == 0


def test_a_neighbour_slows_everyone_down_while_it_is_there() -> None:
    alone, beside = run(), run(Fault(FaultKind.NEIGHBOUR, 40, 40, cores=0.8))
    then = (alone.arrival_seconds > 41) & (alone.arrival_seconds < 79)
    assert np.median(beside.latency_seconds[then]) > 3 * np.median(alone.latency_seconds[then])
    before = alone.arrival_seconds < 39
    assert np.array_equal(beside.latency_seconds[before], alone.latency_seconds[before])


def test_the_balancer_follows_weights_and_spares_who_drains() -> None:
    policy = InfAdapter(InfAdapterParameters(weighted=True, first_after_seconds=20.0))
    weighted = run(servers=3, policy=policy)
    assert outcome_of(weighted).failed == 0
    drained = run(servers=3, policy=Frontier(), balancer=Balancer.COORDINATED)
    assert outcome_of(drained).failed == 0


def test_costs_that_are_not_the_profiles() -> None:
    right, dear = outcome_of(run()), outcome_of(run(cost_factor=2.0))
    assert dear.cpu == pytest.approx(2 * right.cpu, rel=0.01)


def test_the_shapes_of_the_thesis() -> None:
    rng = np.random.default_rng(1)
    assert demand.constant(3, 5).tolist() == [3.0] * 5
    assert demand.linear(1, 2, 2, 6).tolist() == [1, 1, 3, 3, 5, 5]
    assert demand.linear(3, -2, 2, 6).tolist() == [3, 3, 1, 1, 0, 0]
    assert demand.exponential(1, 2, 2, 6).tolist() == [1, 1, 2, 2, 4, 4]
    waves = demand.random_waves(5.0, 600, rng)
    assert waves[0] == pytest.approx(0)
    assert np.abs(waves).max() == pytest.approx(5)
    trace = rng.poisson(30, 600).astype(float)
    made = demand.manipulated(trace, 6.0, warm_up_seconds=60)
    assert made[60:].mean() == pytest.approx(6, rel=0.05)
    assert made[:60].mean() < 4
    assert made[60:].std() / made[60:].mean() == pytest.approx(trace.std() / trace.mean(), rel=0.1)
    waved = demand.manipulated(trace, 6.0, demand.sinus(3.0, 300, 600))
    assert waved.min() >= 0
    assert waved[50:100].mean() > waved[200:250].mean() + 3
    assert demand.manipulated(np.zeros(5), 6.0).tolist() == [0.0] * 5


@pytest.mark.parametrize(
    ("text", "first", "size"),
    [
        ("constant:3:5", 3.0, 5),
        ("linear:1:2:30:60", 1.0, 60),
        ("exponential:1:2:30:60", 1.0, 60),
        ("sinus:4:2:30:60", 4.0, 60),
        ("waves:4:2:7:60", 4.0, 60),
    ],
)
def test_a_shape_is_named_in_place_of_a_file(text: str, first: float, size: int) -> None:
    found = demand.shape(text)
    assert found is not None
    assert (found[0], found.size) == (pytest.approx(first), size)
    assert found.min() >= 0


@pytest.mark.parametrize(
    "text", ["constant:x:5", "constant:3", "linear:1:2:0:60", "exponential:1:0:3:9", "waves:1:1:1:1e9"]
)
def test_a_shape_that_makes_no_sense_says_how_it_is_written(text: str) -> None:
    with pytest.raises(ValueError, match="is not written as"):
        demand.shape(text)


def test_what_names_no_shape_is_a_file() -> None:
    assert demand.shape("traces/constant.txt") is None
    assert demand.shape("constant") is None
