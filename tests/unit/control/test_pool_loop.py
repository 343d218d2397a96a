"""What a pass over a pool does when nothing that it asks answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rung.adapters.kubernetes import Cluster
from rung.api import parse_pool
from rung.control.metrics import Metrics
from rung.control.pool_loop import PoolLoop
from rung.control.publish import Publisher
from rung.control.servers import ServerWorker
from rung.control.view import ClusterView, ServerPod

POD = ServerPod(
    "n", "s1", "u1", None, "127.0.0.1", {"a": "b"}, ready=True, terminating=False, cpu_limit_cores=1.0,
    grpc_port=9, agent_port=9,
)  # fmt: skip
POOL = parse_pool(
    {
        "metadata": {"namespace": "n", "name": "edge"},
        "spec": {"serverSelector": {"a": "b"}, "metrics": {"prometheusUrl": "http://127.0.0.1:9"}},
    }
)


async def test_a_version_that_failed_is_no_longer_suspected_when_the_signals_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[tuple[str, Mapping[str, frozenset[int]]]] = []
    monkeypatch.setattr(ServerWorker, "suspect", lambda worker, failing: said.append((worker.pod.name, failing)))
    nobody: Any = None
    cluster: Cluster = nobody
    metrics = Metrics()
    loop = PoolLoop(("n", "edge"), ClusterView(pods={"n": [POD]}), Publisher(cluster, metrics), metrics)
    try:
        await loop.run_once(POOL)
        await loop.run_once(POOL)
    finally:
        await loop.close()
    assert said == [("s1", {}), ("s1", {})]
