"""From what was seen to the snapshot that policies read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from rung.adapters.agent import Inventory
from rung.adapters.prometheus import PoolSignals
from rung.api import InferenceTask, ModelVersion, ServingPool, parse_pool, parse_task, parse_version
from rung.control.observe import (
    CoreVersions,
    Signals,
    answering_versions,
    build_snapshot,
    core_task,
    core_version,
    demand_problem,
    failing_versions,
    metrics_problem,
    registered_sha256,
    without_rivals,
)
from rung.control.servers import ServerWorker
from rung.control.turns import LoadTurns
from rung.control.view import ClusterView, ServerPod
from rung.core.signals import LONGEST_GAP_SECONDS, RawSeries
from rung.core.snapshot import Mode, PoolSnapshot, Profile, Sample

NOW = 1000.0
POD = ServerPod(
    "n", "s1", "u1", None, "127.0.0.1", {"zone": "a"}, ready=True, terminating=False, cpu_limit_cores=2.0,
    grpc_port=1, agent_port=2,
)  # fmt: skip


def make_pool(**spec: Any) -> ServingPool:
    body = {"serverSelector": {"zone": "a"}, "metrics": {"prometheusUrl": "http://p"}, **spec}
    return parse_pool({"metadata": {"namespace": "n", "name": "edge"}, "spec": body})


def make_task(name: str = "digits", **spec: Any) -> InferenceTask:
    body = {"poolRef": {"name": "edge"}, "slo": {"latency": "400ms"}, **spec}
    return parse_task({"metadata": {"namespace": "n", "name": name}, "spec": body})


def make_version(number: int, task: str = "digits", **spec: Any) -> ModelVersion:
    body = {
        "taskRef": {"name": task},
        "version": number,
        "artifact": {"uri": "s3://models/m", "sha256": "0" * 64, "bytes": 1},
        "accuracy": {"value": 0.9},
        **spec,
    }
    return parse_version({"metadata": {"namespace": "n", "name": f"{task}-{number}"}, "spec": body})


def series(values: Mapping[float, float], **labels: str) -> RawSeries:
    return RawSeries(labels, tuple(Sample(time, value) for time, value in values.items()))


def make_worker(pod: ServerPod = POD) -> ServerWorker:
    worker = ServerWorker(pod, turns=LoadTurns(), load_deadline_seconds=30)
    files = {
        1: {"state": "Available", "sha256": "0" * 64},
        2: {"state": "Corrupt", "sha256": "0" * 64},
        3: {"state": "Available", "sha256": "f" * 64},
    }
    inventory = {
        "repository": {"reachable": True},
        "disk": {"budgetBytes": 1},
        "tasks": {"digits": {"config": "name", "versions": files}},
    }
    worker.observation = replace(
        worker.observation,
        reachable=True,
        loaded={"digits": frozenset({1, 2}), "stranger": frozenset({9})},
        inventory=Inventory.model_validate(inventory),
    )
    return worker


def snapshot_of(worker: ServerWorker, signals: Signals, *tasks: InferenceTask) -> PoolSnapshot:
    versions = {task.name: (core_version(make_version(1)),) for task in tasks}
    sha256 = {task.name: registered_sha256([make_version(number) for number in (1, 2, 3)]) for task in tasks}
    return build_snapshot(NOW, ClusterView(), make_pool(), {worker.pod.name: worker}, signals, tasks, versions, sha256)


def test_a_version_keeps_what_policies_read() -> None:
    profile = {
        "hardwareClass": "pi", "sloLatency": "400ms", "maxThroughput": 20.5, "cpuSecondsPerInference": 0.04,
        "latency": {"p50": "1ms", "p95": "2ms", "p99": "3ms"}, "memoryBytes": 5, "loadTime": "1.5s", "cpu": "1500m",
    }  # fmt: skip
    version = core_version(make_version(7, profiles=[profile], lineage={"flops": 100}))
    assert version.number == 7
    assert version.flops == 100
    assert version.profiles == {"pi": Profile(20.5, 0.002, 0.04, 5, 1.5, 1.5)}
    assert core_version(make_version(7)).profiles == {}


def test_versions_are_made_again_only_where_they_changed() -> None:
    cache = CoreVersions()
    registered = (make_version(1), make_version(2))
    made = cache.of("digits", registered)
    assert cache.of("digits", (registered[0], registered[1])) is made
    changed = cache.of("digits", (registered[0], make_version(2, accuracy={"value": 0.95})))
    assert changed[1].accuracy == 0.95
    cache.keep([])
    assert cache.of("digits", registered) is not made


def test_a_task_keeps_what_its_owner_asks_for() -> None:
    asked = make_task(minAccuracy=0.8, maxMetric=0.1, weight=2, mode="Pinned", pinnedVersion=3)
    state = core_task(asked, (), frozenset())
    assert (state.min_accuracy, state.max_metric, state.weight) == (0.8, 0.1, 2)
    assert (state.mode, state.pinned_version, state.slo_latency_seconds) == (Mode.PINNED, 3, 0.4)
    assert state.servers is None, "every server"
    chosen = core_task(make_task(serverSelector={"zone": "a"}), (), frozenset({"s1"}))
    assert chosen.servers == frozenset({"s1"})
    assert core_task(make_task(demand={"source": "Declared", "rate": 3}), (), frozenset()).declared_demand_rps == 3


async def test_a_server_as_it_was_seen() -> None:
    worker = make_worker()
    worker.broken.failed("digits", 2, "garbage", NOW)
    cpu = series({NOW - 2: 10.0, NOW - 1: 11.0, NOW: 12.0}, job="agent")
    labels = {"model": "digits", "version": "1"}
    success = series({NOW - 2: 0.0, NOW - 1: 5.0, NOW: 10.0}, **labels)
    raw = PoolSignals(cpu_seconds={"s1": (cpu,)}, success={"s1": (success,)})
    try:
        (server,) = snapshot_of(worker, Signals(raw), make_task()).servers
    finally:
        await worker.stop()
    assert server.ready
    assert server.capacity_cores == 2.0
    assert [sample.value for sample in server.utilization] == [0.5, 0.5]
    assert server.demand["digits"][-1].value == pytest.approx(5.0)
    assert server.active == {"digits": 2}
    assert server.loaded == {"digits": frozenset({1, 2})}
    assert server.available == {"digits": frozenset({1})}, "2 is not verified, 3 is another file than was registered"
    assert server.broken == {"digits": frozenset({2})}


async def test_what_a_gate_counts_is_the_truth_about_the_models_that_it_knows() -> None:
    worker = make_worker()
    counted = {NOW - 2: 0.0, NOW - 1: 5.0, NOW: 10.0}
    success = tuple(series(counted, model=model, version="1") for model in ("digits", "parity"))
    gate = tuple(
        series(values, model="digits", __name__=f"rung_gate_{name}")
        for name, values in {
            "arrivals_total": {NOW - 2: 0.0, NOW - 1: 20.0, NOW: 40.0},
            "late_total": {NOW - 2: 0.0, NOW - 1: 0.0, NOW: 3.0},
            "waiting_requests": {NOW - 1: 15.0, NOW: 30.0},
        }.items()
    )
    raw = PoolSignals(success={"s1": success}, gate={"s1": gate})
    try:
        (server,) = snapshot_of(worker, Signals(raw), make_task(), make_task("parity")).servers
    finally:
        await worker.stop()
    assert {task: samples[-1].value for task, samples in server.demand.items()} == {"digits": 20.0, "parity": 5.0}
    assert [sample.value for sample in server.late["digits"]] == [0.0, 3.0]
    assert [sample.value for sample in server.pending["digits"]] == [15.0, 30.0]
    assert "parity" not in server.late, "nobody chooses for it"


@pytest.mark.parametrize("change", [{"ready": False}, {"terminating": True}])
async def test_a_pod_that_is_not_ready_or_goes_is_no_ready_server(change: dict[str, Any]) -> None:
    worker = make_worker(replace(POD, **change))
    assert not snapshot_of(worker, Signals(), make_task()).servers[0].ready
    await worker.stop()


async def test_before_the_agent_answers_nothing_is_known_of_its_files() -> None:
    worker = make_worker()
    worker.observation = replace(worker.observation, inventory=None)
    assert snapshot_of(worker, Signals(), make_task()).servers[0].available is None
    await worker.stop()


async def test_what_is_wrong_with_the_metrics_is_said_of_the_server_it_is_about() -> None:
    worker, pool = make_worker(), make_pool()
    problem = Signals(problem="Prometheus did not answer")
    assert metrics_problem(problem, snapshot_of(worker, problem), pool) == "Prometheus did not answer"
    assert "no CPU samples of s1" in metrics_problem(Signals(), snapshot_of(worker, Signals()), pool)
    old = Signals(PoolSignals(cpu_seconds={"s1": (series({NOW - 12: 1.0, NOW - 11: 2.0}),)}))
    seen = snapshot_of(worker, old)
    assert "CPU sample of s1 is 11 s old (spec.metrics.maxAge: 5 s)" in metrics_problem(old, seen, pool)
    fresh = Signals(PoolSignals(cpu_seconds={"s1": (series({NOW - 2: 1.0, NOW - 1: 2.0}),)}))
    assert metrics_problem(fresh, snapshot_of(worker, fresh), pool) == ""
    await worker.stop()


async def test_servers_whose_requests_nobody_counts_are_named_once_a_scrape_must_have_found_them() -> None:
    worker, pool, ages = make_worker(), make_pool(), {"s1": LONGEST_GAP_SECONDS + 1}
    nothing = Signals()
    observed, declared = make_task(), make_task(demand={"source": "Declared", "rate": 3})
    said = demand_problem(nothing, snapshot_of(worker, nothing, observed), pool, ages)
    assert "has no request counters of s1" in said
    assert "the agent's page (port `agent`) has them" in said
    assert demand_problem(nothing, snapshot_of(worker, nothing, observed), pool, {"s1": 1.0}) == "", "just loaded"
    assert demand_problem(nothing, snapshot_of(worker, nothing, declared), pool, ages) == "", "nobody needs them"
    counted = Signals(PoolSignals(success={"s1": (series({NOW: 0.0}, model="digits", version="2"),)}))
    assert demand_problem(counted, snapshot_of(worker, counted, observed), pool, ages) == ""
    worker.observation = replace(worker.observation, loaded={})
    assert demand_problem(nothing, snapshot_of(worker, nothing, observed), pool, ages) == "", "nothing is loaded"
    await worker.stop()


def test_versions_fail_when_requests_fail_and_none_succeeds() -> None:
    def counter(version: str, before: float, after: float, **labels: str) -> RawSeries:
        return series({1.0: before, 2.0: after}, model="digits", version=version, **labels)

    failure = [counter("3", 1, 4, reason="BACKEND"), counter("2", 1, 2, reason="OTHER"), counter("1", 5, 5)]
    assert failing_versions([counter("2", 7, 8), counter("3", 7, 7)], failure, 2.0) == {"digits": frozenset({3})}
    assert failing_versions([counter("3", 7, 7)], failure, 2.1) == {}, "of long ago"
    assert failing_versions([], [series({2.0: 9}, model="digits", version="3")], 0.0) == {}, "one sample tells nothing"
    assert failing_versions([], [series({1.0: 1, 2.0: 2}, model="digits")], 0.0) == {}, "of no known version"


def test_versions_answer_whose_counters_rose_just_now() -> None:
    def counter(version: str, before: float, after: float) -> RawSeries:
        return series({1.0: before, 2.0: after}, model="digits", version=version)

    success = [counter("1", 3, 3), counter("2", 3, 4), series({2.0: 9}, model="digits", version="3")]
    assert answering_versions(success, 2.0) == {"digits": frozenset({2})}
    assert answering_versions(success, 2.1) == {}, "long ago"


def test_of_two_tasks_with_one_model_the_first_by_name_has_it() -> None:
    alpha, beta, gamma = make_task("alpha", model="m"), make_task("beta", model="m"), make_task("gamma")
    assert without_rivals([alpha, beta, gamma]) == ((alpha, gamma), ((beta, "alpha"),))
