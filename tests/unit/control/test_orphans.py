"""Tasks that no pool looks after are told so, once, and not before a pool had the time to come."""

from __future__ import annotations

from typing import Any

from rung.adapters.kubernetes import Cluster
from rung.api import InferenceTask, parse_pool, parse_task
from rung.control.metrics import Metrics
from rung.control.orphans import Orphans
from rung.control.publish import Publisher, key_of
from rung.control.view import ClusterView


def _task(name: str, pool: str) -> InferenceTask:
    spec = {"poolRef": {"name": pool}, "slo": {"latency": "1s"}}
    return parse_task({"metadata": {"namespace": "n", "name": name, "uid": f"uid-{name}"}, "spec": spec})


LOST, FOUND = _task("lost", "nowhere"), _task("found", "edge")
EDGE = parse_pool(
    {
        "metadata": {"namespace": "n", "name": "edge", "uid": "uid-edge"},
        "spec": {"serverSelector": {"a": "b"}, "metrics": {"prometheusUrl": "http://p"}},
    }
)


def _publisher() -> Publisher:
    nobody: Any = None
    cluster: Cluster = nobody
    return Publisher(cluster, Metrics())


async def test_only_tasks_without_a_pool_are_told_and_their_status_is_written_once() -> None:
    publisher = _publisher()
    view = ClusterView(pools={("n", "edge"): [EDGE]}, tasks={("n", "nowhere"): [LOST], ("n", "edge"): [FOUND]})
    orphans = Orphans(view, publisher)
    orphans.look(1000.0)
    assert not publisher._wanted, "its pool may come just after it"
    orphans.look(1002.0)
    (status,) = publisher._wanted.values()
    assert set(publisher._wanted) == {key_of(LOST)}
    assert {(each["type"], each["status"], each["reason"]) for each in status["conditions"]} == {
        ("Ready", "False", "NoPool"),
        ("Degraded", "True", "NoPool"),
    }
    publisher._waiting.clear()
    orphans.look(1004.0)
    assert not publisher._waiting, "nothing changed"
    publisher.forget(key_of(LOST))
    orphans.look(1006.0)
    assert publisher._waiting.keys() == {key_of(LOST)}, "the loop of the pool that it left had taken it back"


async def test_a_task_whose_pool_is_gone_is_told_and_one_that_is_gone_itself_is_not() -> None:
    publisher = _publisher()
    view = ClusterView(pools={("n", "edge"): [EDGE]}, tasks={("n", "edge"): [FOUND, LOST]})
    view.gone.update({"uid-edge", "uid-lost"})
    orphans = Orphans(view, publisher)
    orphans.look(1000.0)
    orphans.look(1002.0)
    assert set(publisher._wanted) == {key_of(FOUND)}
