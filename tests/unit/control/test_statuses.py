"""From a pass to statuses, events and metrics: what people read of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rung.adapters.agent import Inventory
from rung.adapters.kubernetes import Cluster
from rung.api import Condition, InferenceTask, ModelVersion, ServingPool, parse_pool, parse_task, parse_version
from rung.api.version import Lineage
from rung.control.metrics import Metrics
from rung.control.observation import REVIVE, STANDBY, Finished
from rung.control.observe import Signals, build_snapshot, core_version, registered_sha256
from rung.control.pool_statuses import pool_status
from rung.control.publish import Publisher
from rung.control.report import Reporter, Turn
from rung.control.servers import ServerWorker
from rung.control.statuses import Pass, rival_status, task_status
from rung.control.swap import Kind, Outcome, SwapOutcome
from rung.control.turns import LoadTurns
from rung.control.version_statuses import version_status
from rung.control.view import ClusterView, ServerPod
from rung.core.decide import Settings, decide
from rung.core.frontier import Metric
from rung.core.policies.static import Static
from rung.core.snapshot import Sample

NOW = 1_800_000_000.0
POD = ServerPod(
    "n",
    "s1",
    "u1",
    "pi",
    "127.0.0.1",
    {},
    ready=True,
    terminating=False,
    cpu_limit_cores=1.0,
    grpc_port=1,
    agent_port=2,
)


def _made(name: str, spec: dict[str, Any], **status: Any) -> dict[str, Any]:
    metadata = {"namespace": "n", "name": name, "uid": f"uid-{name}", "generation": 4}
    return {"metadata": metadata, "spec": spec, "status": status}


def _version(number: int, throughput: float, accuracy: float, **profiled: str) -> ModelVersion:
    profile = {"hardwareClass": "default", "sloLatency": "400ms", "maxThroughput": throughput, **profiled}
    spec = {
        "taskRef": {"name": "digits"},
        "version": number,
        "artifact": {"uri": "s3://models/m", "sha256": "0" * 64, "bytes": 1},
        "accuracy": {"value": accuracy},
        "profiles": [profile],
    }
    return parse_version(_made(f"digits-{number}", spec))


VERSIONS = (_version(1, 100, 0.9), _version(2, 50, 0.95), _version(3, 20, 1.0), _version(4, 10, 0.99))


class Site:
    """One pool with one task on one server; change what was seen, then make a pass."""

    def __init__(self) -> None:
        self.pool: ServingPool = parse_pool(
            _made("edge", {"serverSelector": {"a": "b"}, "metrics": {"prometheusUrl": "http://p"}})
        )
        self.task: InferenceTask = parse_task(
            _made("digits", {"poolRef": {"name": "edge"}, "slo": {"latency": "400ms"}})
        )
        self.worker = ServerWorker(POD, turns=LoadTurns(), load_deadline_seconds=30)
        self.memory: Any = {}
        self.sees(loaded={"digits": frozenset({2, 3})})

    def sees(self, **changes: Any) -> None:
        states = {v.spec.version: {"state": "Available", "sha256": v.spec.artifact.sha256} for v in VERSIONS}
        inventory = {
            "repository": {"reachable": True},
            "disk": {"budgetBytes": 1},
            "tasks": {"digits": {"config": "c", "versions": states}},
        }
        changes = {"reachable": True, "inventory": Inventory.model_validate(inventory), "message": "", **changes}
        self.worker.observation = replace(self.worker.observation, **changes)

    def look(self, *, versions: tuple[ModelVersion, ...] = VERSIONS, **changes: Any) -> Pass:
        core = {"digits": tuple(core_version(version) for version in versions)}
        sha256 = {"digits": registered_sha256(versions)}
        snapshot = build_snapshot(
            NOW, ClusterView(), self.pool, {"s1": self.worker}, Signals(), [self.task], core, sha256
        )
        server = replace(snapshot.servers[0], utilization=(Sample(NOW, 0.5),), demand={"digits": (Sample(NOW, 8.0),)})
        snapshot = replace(snapshot, servers=(server,))
        policy = Static()
        plan, self.memory = decide(policy, snapshot, self.memory, Settings())
        return Pass(
            pool=self.pool, tasks=(self.task,), versions={"digits": versions}, snapshot=snapshot, plan=plan,
            memory=self.memory, workers={"s1": self.worker}, metric=policy.metric, **changes,
        )  # fmt: skip


@pytest.fixture
async def site() -> Any:
    made = Site()
    yield made
    await made.worker.stop()


def _condition(conditions: tuple[Condition, ...], kind: str) -> tuple[str, str, str]:
    found = next(each for each in conditions if each.type == kind)
    return found.status.value, found.reason, found.message


async def test_a_task_that_is_served(site: Site) -> None:
    status = task_status(site.look(), site.task, site.task.status, None)
    assert (status.active_version, status.target_version, status.recommended_version) == (3, 3, None)
    assert (status.accuracy, status.normalized_accuracy, status.demand) == (1.0, 1.0, 8.0)
    assert status.frontier is not None
    assert (status.frontier.count, status.frontier.best_version, status.frontier.throughput_ratio) == (3, 3, 5.0)
    (server,) = status.servers
    assert (server.active, server.standby, server.phase.value) == (3, (2,), "Serving")
    assert _condition(status.conditions, "Ready")[:2] == ("True", "Static")
    assert _condition(status.conditions, "Degraded") == ("False", "AllWell", "")
    assert status.observed_generation == 4


async def test_a_server_that_hangs_serves_nothing_that_is_known(site: Site) -> None:
    site.sees(reachable=False, message="it did not answer")
    status = task_status(site.look(), site.task, site.task.status, None)
    assert status.active_version is None
    assert (status.servers[0].phase.value, status.servers[0].message) == ("NotReady", "it did not answer")
    assert _condition(status.conditions, "Ready")[:2] == ("False", "NothingAnswers")
    pool = pool_status(site.look(), site.pool.status, None)
    assert pool.ready_servers == 0
    assert _condition(pool.conditions, "Ready")[:2] == ("False", "NoServer")


async def test_files_that_are_missing_are_named(site: Site) -> None:
    inventory = Inventory.model_validate(
        {"repository": {"reachable": False, "message": "S3 is away"}, "disk": {"budgetBytes": 1}}
    )
    site.sees(loaded={}, inventory=inventory)
    status = task_status(site.look(), site.task, site.task.status, None)
    assert status.servers[0].phase.value == "Pending"
    assert "no files of model digits (S3 is away)" in status.servers[0].message


async def test_a_file_that_is_not_the_registered_one_is_named(site: Site) -> None:
    other = {"state": "Available", "sha256": "1a2b3c4d5e6f" + "7" * 52}
    inventory = {
        "repository": {"reachable": True},
        "disk": {"budgetBytes": 1},
        "tasks": {"digits": {"config": "c", "versions": {3: other}}},
    }
    site.sees(loaded={}, inventory=Inventory.model_validate(inventory))
    seen = site.look()
    said = _condition(version_status(seen, site.task, VERSIONS[2], VERSIONS[2].status).conditions, "Available")
    assert said[:2] == ("False", "OtherFile")
    assert "registered with sha256 000000000000..." in said[2]
    assert "s1 has 1a2b3c4d5e6f..." in said[2]
    missing = version_status(seen, site.task, VERSIONS[1], VERSIONS[1].status)
    assert _condition(missing.conditions, "Available") == ("False", "NotMirrored", "on 0 of 1 servers")
    task = task_status(seen, site.task, site.task.status, None)
    assert task.servers[0].message == "versions in the server's mirror: Available (not as registered)"


async def test_a_broken_version_is_told_by_the_task_and_by_the_version(site: Site) -> None:
    site.worker.broken.failed("digits", 4, "no network", NOW)
    seen = site.look()
    status = task_status(seen, site.task, site.task.status, None)
    assert _condition(status.conditions, "Degraded") == ("True", "VersionBroken", "version 4: no network")
    version = version_status(seen, site.task, VERSIONS[3], VERSIONS[3].status)
    assert _condition(version.conditions, "Valid") == ("False", "LoadFailed", "no network")
    assert (version.broken_on[0].server, version.broken_on[0].failures) == ("s1", 1)


async def test_versions_know_their_frontier(site: Site) -> None:
    seen = site.look()
    best = version_status(seen, site.task, VERSIONS[2], VERSIONS[2].status)
    assert (best.on_frontier_for, best.dominated_by) == (("default",), None)
    beaten = version_status(seen, site.task, VERSIONS[3], VERSIONS[3].status)
    assert (beaten.on_frontier_for, beaten.dominated_by) == ((), "digits-3")
    assert _condition(best.conditions, "Available")[:2] == ("True", "Mirrored")


async def test_no_versions_and_profiles_for_slower_answers_are_told(site: Site) -> None:
    none = task_status(site.look(versions=()), site.task, site.task.status, None)
    assert _condition(none.conditions, "VersionsAvailable")[:2] == ("False", "NoModelVersion")
    quick = site.task.spec.model_copy(update={"slo": site.task.spec.slo.model_validate({"latency": "100ms"})})
    site.task = site.task.model_copy(update={"spec": quick})
    status = task_status(site.look(), site.task, site.task.status, None)
    said = _condition(status.conditions, "VersionsAvailable")
    assert said[:2] == ("True", "ProfiledForLongerLatency")
    assert "within 0.4 s and not 0.1 s" in said[2]


async def test_throughputs_that_no_number_can_compare_have_no_ratio(site: Site) -> None:
    # By floating-point operations both are on the ladder.
    extremes = tuple(
        each.model_copy(update={"spec": each.spec.model_copy(update={"lineage": Lineage(flops=each.spec.version)})})
        for each in (_version(1, 1e308, 0.9), _version(2, 1e-300, 0.95))
    )
    seen = replace(site.look(versions=extremes), metric=Metric.FLOPS)
    frontier = task_status(seen, site.task, site.task.status, None).frontier
    assert frontier is not None
    assert (frontier.count, frontier.throughput_ratio) == (2, None)


async def test_a_condition_keeps_its_time_while_it_holds(site: Site) -> None:
    first = task_status(site.look(), site.task, site.task.status, None)
    later = replace(site.look().snapshot, time_seconds=NOW + 60)
    seen = replace(site.look(), snapshot=later)
    second = task_status(seen, site.task, first, None)
    times = [{c.type: c.last_transition_time for c in status.conditions} for status in (first, second)]
    assert times[0] == times[1]


async def test_doubt_and_servers_of_unknown_size_are_told(site: Site) -> None:
    doubted = pool_status(site.look(doubted=frozenset({"s1"})), site.pool.status, None)
    assert _condition(doubted.conditions, "CapacityKnown")[:2] == ("False", "ProfileNotTrusted")
    site.worker.pod = replace(POD, cpu_limit_cores=None)
    unsized = pool_status(site.look(), site.pool.status, None)
    assert _condition(unsized.conditions, "CapacityKnown")[:2] == ("False", "NoCapacity")


@pytest.mark.parametrize("cpu", ["1", "1.0", "1000m"])
async def test_profiles_of_the_same_cpu_are_known_however_it_is_written(site: Site, cpu: str) -> None:
    pool = pool_status(site.look(versions=(_version(1, 100, 0.9, cpu=cpu),)), site.pool.status, None)
    assert _condition(pool.conditions, "CapacityKnown") == ("True", "Profiled", "")


async def test_profiles_of_another_cpu_are_told_and_used(site: Site) -> None:
    site.worker.pod = replace(POD, cpu_limit_cores=2.0)
    seen = site.look(versions=(_version(1, 100, 0.9, cpu="1"), _version(2, 50, 0.95, cpu="500m")))
    said = _condition(pool_status(seen, site.pool.status, None).conditions, "CapacityKnown")
    assert said[:2] == ("False", "ProfiledForOtherCpu")
    assert "s1 has 2, the profiles of its class default hold for 500m and 1" in said[2]
    assert seen.plan.servers[0].expected_utilization is not None, "better a cost of another CPU than none"
    told = pool_status(replace(seen, doubted=frozenset({"s1"})), site.pool.status, None)
    assert _condition(told.conditions, "CapacityKnown")[1] == "ProfileNotTrusted"


async def test_a_task_whose_model_is_taken(site: Site) -> None:
    status = rival_status(site.look(), site.task, site.task.status, "alpha")
    assert _condition(status.conditions, "Ready")[:2] == ("False", "ModelTaken")
    assert "for task alpha" in _condition(status.conditions, "Ready")[2]


# ------------------------------------------------------------------------------------------------- what is reported


class Report:
    """A reporter whose publisher is not running, so that what it would write can be read."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        nobody: Any = None
        cluster: Cluster = nobody
        self.publisher = Publisher(cluster, self.metrics)
        self.reporter = Reporter("n/edge", self.publisher, self.metrics)

    def events(self) -> list[str]:
        reasons = [note.reason for note in self.publisher._notes]
        self.publisher._notes.clear()
        return reasons

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"pool": "n/edge", **labels})


async def test_a_decision_is_told_once_and_one_of_an_earlier_operator_never(site: Site) -> None:
    first = Report()
    first.reporter.report(site.look(), [])
    assert first.events() == ["Static"]
    first.reporter.report(site.look(), [])
    assert first.events() == []
    remembered = site.pool.status.model_copy(update={"policy_memory": site.memory})
    site.pool = site.pool.model_copy(update={"status": remembered})
    second = Report()
    second.reporter.report(site.look(), [])
    assert second.events() == []


async def test_swaps_are_counted_by_kind_and_told(site: Site) -> None:
    report = Report()
    report.reporter.report(site.look(), [])
    report.events()
    good = SwapOutcome(Kind.WARM, Outcome.OK, 3, 2, 0.004, "it answers", 2)
    bad = replace(good, kind=Kind.COLD, outcome=Outcome.LOAD_FAILED)
    swaps = [("warm", good), (STANDBY, good), (REVIVE, good), ("cold", bad)]
    report.reporter.report(site.look(), [Finished("s1", "digits", kind, outcome) for kind, outcome in swaps])
    assert report.events() == ["Swapped", "Revived", "SwapFailed"]
    for kind, outcome in (("warm", "ok"), ("standby", "ok"), ("revive", "ok"), ("cold", "load_failed")):
        assert report.value("rung_swaps_total", task="digits", kind=kind, outcome=outcome) == 1


async def test_gauges_end_with_what_they_measure(site: Site) -> None:
    report = Report()
    report.reporter.report(site.look(), [])
    assert report.value("rung_active_version", task="digits", server="s1") == 3
    assert report.value("rung_observed_utilization", server="s1") == 0.5
    site.sees(loaded={})
    report.reporter.report(site.look(metrics_problem="gone"), [])
    assert report.value("rung_active_version", task="digits", server="s1") is None
    assert report.value("rung_observed_utilization", server="s1") is None


async def test_requests_that_nobody_counts_are_told_and_hide_no_cpu(site: Site) -> None:
    report = Report()
    report.reporter.report(site.look(), [])
    report.events()
    seen = site.look(demand_problem="no request counters of s1")
    report.reporter.report(seen, [])
    assert [(note.reason, note.sentence) for note in report.publisher._notes] == [
        ("MetricsMissing", "no request counters of s1")
    ]
    assert report.value("rung_observed_utilization", server="s1") == 0.5
    status = pool_status(seen, site.pool.status, None)
    assert _condition(status.conditions, "MetricsAvailable") == ("False", "Missing", "no request counters of s1")
    assert status.utilization == 0.5


async def test_missing_metrics_and_dropped_memory_are_told_once(site: Site) -> None:
    report = Report()
    report.reporter.report(site.look(), [])
    report.events()
    for _ in range(2):
        seen = site.look(metrics_problem="gone")
        report.reporter.report(replace(seen, plan=replace(seen.plan, notes=("dropped",))), [])
    assert report.events() == ["MetricsMissing", "PolicyNote"]
    report.reporter.report(site.look(), [])
    assert report.events() == ["MetricsBack"]


async def test_statuses_are_handed_on_only_when_they_changed_and_forgotten_with_their_object(site: Site) -> None:
    report = Report()
    report.reporter.report(site.look(), [])
    kinds = sorted(key.kind for key in report.publisher._wanted)
    assert kinds == ["InferenceTask", *["ModelVersion"] * 4, "ServingPool"]
    report.publisher._waiting.clear()
    report.reporter.report(site.look(), [])
    assert report.publisher._waiting == {}
    report.reporter.report(site.look(versions=VERSIONS[:3]), [])
    assert "digits-4" not in {key.name for key in report.publisher._wanted}


def test_everyone_has_a_turn() -> None:
    names = [f"t{index}" for index in range(7)]
    turn = Turn(3)
    seen = [turn.next(names) for _ in range(3)]
    assert all(len(each) == 3 for each in seen)
    assert frozenset().union(*seen) == set(names)
    assert Turn(3).next(names[:2]) == {"t0", "t1"}
    assert Turn(3).next([]) == frozenset()
