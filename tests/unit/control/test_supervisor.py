"""Liveness: what `/healthz` says while loops run, hang, or are none; and what owners of unreadable objects are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from rung.adapters.kubernetes import Cluster
from rung.api import InvalidObject, parse_pool
from rung.control.http import serve_http
from rung.control.metrics import Metrics
from rung.control.supervisor import LONGEST_SILENCE_SECONDS, REFUSALS_KEPT, Supervisor
from rung.control.view import ClusterView

POOL = parse_pool(
    {
        "metadata": {"namespace": "n", "name": "edge"},
        "spec": {"serverSelector": {"a": "b"}, "metrics": {"prometheusUrl": "http://127.0.0.1:9"}, "interval": "50ms"},
    }
)


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    nobody: Any = None
    cluster: Cluster = nobody
    made = Supervisor(ClusterView(pools={("n", "edge"): [POOL]}), cluster, Metrics())
    yield made
    for key in list(made._loops):
        await made.end(key)


async def _get(port: int, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def _serve(supervisor: Supervisor) -> tuple[Any, int]:
    runner = await serve_http("127.0.0.1:0", supervisor)
    return runner, runner.addresses[0][1]


async def test_without_pools_the_operator_is_well(supervisor: Supervisor) -> None:
    runner, port = await _serve(supervisor)
    assert await _get(port, "/healthz") == (200, "every loop runs\n")
    assert (await _get(port, "/readyz"))[0] == 200
    status, page = await _get(port, "/metrics")
    assert status == 200
    assert "rung_loop_duration_seconds" in page
    await runner.cleanup()


async def test_a_loop_that_is_silent_is_named_and_its_interval_is_allowed_for(supervisor: Supervisor) -> None:
    supervisor.ensure(("n", "edge"))
    supervisor.ensure(("n", "edge"))
    ((loop, task),) = supervisor._loops.values()
    runner, port = await _serve(supervisor)
    deadline = time.monotonic() + 10
    while True:
        passes = supervisor.metrics.registry.get_sample_value("rung_loop_duration_seconds_count", {"pool": "n/edge"})
        if passes:
            break
        assert time.monotonic() < deadline, "no pass"
        await asyncio.sleep(0.01)
    assert (await _get(port, "/healthz"))[0] == 200
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    loop.last_pass_monotonic -= LONGEST_SILENCE_SECONDS + 5
    status, text = await _get(port, "/healthz")
    assert status == 503
    assert "pool n/edge: no pass for" in text
    loop.interval_seconds = 60.0
    assert (await _get(port, "/healthz"))[0] == 200
    await runner.cleanup()


async def test_a_pool_that_is_gone_is_forgotten(supervisor: Supervisor) -> None:
    supervisor.ensure(("n", "edge"))
    await supervisor.end(("n", "edge"))
    await supervisor.end(("n", "edge"))
    assert supervisor.silent(lambda: 1e12) == {}


async def test_an_unreadable_object_is_told_once_for_each_fault(supervisor: Supervisor) -> None:
    for field in ("spec.slo", "spec.slo", "spec.mode"):
        supervisor.refuse(InvalidObject("InferenceTask", "n", "digits", field, "is missing"))
    assert [note.reason for note in supervisor.publisher._notes] == ["Invalid", "Invalid"]
    for index in range(REFUSALS_KEPT + 5):
        supervisor.refuse(InvalidObject("InferenceTask", "n", f"t{index}", "spec", "is missing"))
    assert len(supervisor._refused) <= REFUSALS_KEPT
