"""A whole simulated run: the objects that a user applies, a trace, and the operator's own decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rung.core.decide import Settings
from rung.core.policies.base import Policy
from rung.core.policies.frontier import Frontier
from rung.core.policies.static import Static, StaticChoice
from rung.core.policies.stepwise import Stepwise
from rung_sim.outcome import Outcome, outcome_of
from rung_sim.simulation import Options, Run, Simulation
from rung_sim.world import SimulatedServer, World, WorldError, read_world

SERVER = SimulatedServer("edge-0", 1.0)
LADDER = ((0.60, 9), (0.75, 30), (0.85, 100))
"""Accuracy and milliseconds of CPU."""


def objects(*tasks: str) -> list[dict[str, Any]]:
    def made(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": "rung.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}

    metrics = {"prometheusUrl": "http://prometheus:9090"}
    found = [made("ServingPool", "edge", {"serverSelector": {"app": "triton"}, "metrics": metrics})]
    for task in tasks:
        found.append(made("InferenceTask", task, {"poolRef": {"name": "edge"}, "slo": {"latency": "400ms"}}))
        for number, (accuracy, milliseconds) in enumerate(LADDER, start=1):
            profile = {
                "hardwareClass": "default", "cpu": "1", "sloLatency": "400ms", "maxThroughput": 1000 / milliseconds,
                "cpuSecondsPerInference": milliseconds / 1000, "loadTime": "500ms", "loadCpuSeconds": 0.3,
            }  # fmt: skip
            artifact = {"uri": f"s3://models/{task}/{number}/model.onnx", "sha256": "0" * 64, "bytes": 9}
            spec = {"taskRef": {"name": task}, "version": number, "artifact": artifact, "profiles": [profile]}
            spec["accuracy"] = {"metric": "accuracy", "value": accuracy}
            found.append(made("ModelVersion", f"{task}-{number}", spec))
    return found


def written(folder: Path, documents: list[dict[str, Any]]) -> Path:
    path = folder / "pool.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


@pytest.fixture
def world(tmp_path: Path) -> World:
    return read_world(written(tmp_path, objects("digits", "parity")), [SERVER])


def run(world: World, policy: Policy, *rates: float, seconds: int = 120, seed: int = 0) -> tuple[Run, Outcome]:
    """Each task at a rate that is constant for a third of the time, three times as high for another, and as before."""
    third = seconds // 3
    shape = np.concatenate([np.ones(third), np.full(third, 3.0), np.ones(third)])
    demand = {task.state.name: rate * shape for task, rate in zip(world.tasks, rates, strict=True)}
    done = Simulation(world, demand, policy, Settings(), Options(seed=seed)).run()
    return done, outcome_of(done)


def test_the_best_versions_are_most_accurate_and_the_cheapest_least(world: World) -> None:
    _, best = run(world, Static(StaticChoice.BEST), 1.0, 1.0)
    _, cheapest = run(world, Static(StaticChoice.CHEAPEST), 1.0, 1.0)
    assert best.normalized_accuracy == 1.0
    assert cheapest.normalized_accuracy == pytest.approx(0.60 / 0.85)
    assert best.requests == cheapest.requests == pytest.approx(2 * 200, rel=0.15), "the same demand for every policy"
    assert best.cpu == pytest.approx(100 / 9 * cheapest.cpu, rel=0.02)
    assert cheapest.cpu == pytest.approx(cheapest.requests * 0.009 / 120, rel=0.02)
    assert best.core_seconds == 120
    assert cheapest.late_share == 0
    assert best.swaps == {"warm": 0, "cold": 0}


@pytest.mark.parametrize("policy", [Stepwise(), Frontier()], ids=lambda each: each.name)
def test_a_wave_is_answered_by_steps_down_and_up_again(world: World, policy: Policy) -> None:
    done, found = run(world, policy, 2.0, 2.0, seconds=300)
    _, best = run(world, Static(StaticChoice.BEST), 2.0, 2.0, seconds=300)
    assert found.failed == 0
    assert found.late_share < 0.2 * best.late_share
    assert 0.75 < found.normalized_accuracy < 1
    assert found.swaps["warm"] + found.swaps["cold"] == len([step for step in done.steps if step.second > 0])
    ways = {step.reason.code.value for step in done.steps if step.second > 0}
    assert ways >= {"StepDown", "StepUp"}
    assert (done.active[-1] > done.active[150:190].min(axis=0)).any(), "it is back up at the end"


def test_a_seed_gives_the_same_run_again_and_another_one_another(world: World) -> None:
    first, again, other = (run(world, Stepwise(), 3.0, 2.0, seed=seed)[0] for seed in (7, 7, 8))
    assert np.array_equal(first.latency_seconds, again.latency_seconds)
    assert [step.version for step in first.steps] == [step.version for step in again.steps]
    assert first.latency_seconds.size != other.latency_seconds.size


def without(kind: str) -> list[dict[str, Any]]:
    return [each for each in objects("digits") if each["kind"] != kind]


@pytest.mark.parametrize(
    ("documents", "sentence"),
    [
        (without("ServingPool"), "has 0 ServingPools; give exactly one"),
        (without("InferenceTask"), "has no InferenceTask"),
        (without("ModelVersion"), "has no ModelVersion of digits"),
        (
            [*objects("digits"), {"kind": "InferenceTask", "metadata": {"name": "x"}, "spec": {}}],
            "default/x: spec.poolRef: is missing",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, documents: list[dict[str, Any]], sentence: str) -> None:
    path = written(tmp_path, documents)
    with pytest.raises(WorldError, match=sentence) as error:
        read_world(path, [SERVER])
    assert str(error.value).startswith(f"{path}: ")


def test_a_class_without_profiles_and_a_file_that_is_none_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, objects("digits"))
    with pytest.raises(WorldError, match="no version of digits has a profile for the hardware class n100; there are"):
        read_world(path, [SimulatedServer("a", 1.0, "n100")])
    with pytest.raises(WorldError, match="can't be read: No such file"):
        read_world(tmp_path / "none.yaml", [SERVER])
    path.write_text("a: [")
    with pytest.raises(WorldError, match="is no YAML"):
        read_world(path, [SERVER])


def test_what_kubectl_writes_as_one_list_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": objects("digits")}))
    assert [task.state.name for task in read_world(path, [SERVER]).tasks] == ["digits"]
