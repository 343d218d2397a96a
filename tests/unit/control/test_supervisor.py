"""Liveness: what `/healthz` says while loops run, hang, or are none; and what owners of unreadable objects are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from rung.adapters.kubernetes import Cluster
from rung.api import InvalidObject, ServingPool, parse_pool
from rung.control.http import serve_http
from rung.control.metrics import Metrics
from rung.control.publish import ObjectKey
from rung.control.supervisor import LONGEST_SILENCE_SECONDS, REFUSALS_KEPT, Supervisor
from rung.control.view import ClusterView


def _pool(name: str = "edge", url: str = "http://127.0.0.1:9") -> ServingPool:
    return parse_pool(
        {
            "metadata": {"namespace": "n", "name": name},
            "spec": {"serverSelector": {"a": "b"}, "metrics": {"prometheusUrl": url}, "interval": "50ms"},
        }
    )


POOL = _pool()


class Faulty(dict[Any, Any]):
    """Tasks in which looking for those of one pool is a fault of the operator."""

    def get(self, key: Any, default: Any = None) -> Any:
        if key == ("n", "odd"):
            raise ZeroDivisionError("nobody thought of this")
        return super().get(key, default)


def _supervise(view: ClusterView) -> Supervisor:
    nobody: Any = SimpleNamespace(pods=None, gateways=None)
    cluster: Cluster = nobody
    return Supervisor(view, cluster, Metrics())


async def _end(supervisor: Supervisor) -> None:
    for key in list(supervisor._loops):
        await supervisor.end(key)


async def _until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    made = _supervise(ClusterView(pools={("n", "edge"): [POOL]}))
    yield made
    await _end(made)


async def _get(port: int, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def _serve(supervisor: Supervisor) -> tuple[Any, int]:
    runner = await serve_http("127.0.0.1:0", supervisor)
    return runner, runner.addresses[0][1]


def _value(supervisor: Supervisor, metric: str, pool: str) -> float | None:
    return supervisor.metrics.registry.get_sample_value(metric, {"pool": f"n/{pool}"})


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
    await _until(lambda: _value(supervisor, "rung_loop_duration_seconds_count", "edge"), "a pass")
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


async def test_a_pool_whose_passes_all_fail_is_counted_and_the_others_go_on() -> None:
    pools = {("n", name): [_pool(name)] for name in ("edge", "odd")}
    supervisor = _supervise(ClusterView(pools=pools, tasks=Faulty()))
    for key in pools:
        supervisor.ensure(key)
    runner, port = await _serve(supervisor)
    try:
        # As if both had been silent for long: the next pass of each, good or bad, ends that.
        for loop, _ in supervisor._loops.values():
            loop.last_pass_monotonic -= LONGEST_SILENCE_SECONDS + 5
        await _until(lambda: (_value(supervisor, "rung_passes_failed_total", "odd") or 0) >= 2, "passes that fail")
        await _until(lambda: (_value(supervisor, "rung_loop_duration_seconds_count", "edge") or 0) >= 2, "good ones")
        assert await _get(port, "/healthz") == (200, "every loop runs\n")
        assert _value(supervisor, "rung_passes_failed_total", "edge") is None
        assert _value(supervisor, "rung_last_pass_timestamp_seconds", "odd") is None
    finally:
        await _end(supervisor)
        await runner.cleanup()


@pytest.mark.parametrize(("url", "fault"), [("http://:9090", "name a host"), ("http://[::1", "Invalid IPv6 URL")])
async def test_an_address_of_prometheus_that_makes_no_sense_is_told(url: str, fault: str) -> None:
    supervisor = _supervise(ClusterView(pools={("n", "edge"): [_pool(url=url)]}))
    supervisor.ensure(("n", "edge"))
    key = ObjectKey("ServingPool", "n", "edge")
    try:
        await _until(lambda: key in supervisor.publisher._wanted, "a status")
        conditions = {each["type"]: each for each in supervisor.publisher._wanted[key]["conditions"]}
        assert conditions["MetricsAvailable"]["status"] == "False"
        assert "spec.metrics.prometheusUrl can't be used" in conditions["MetricsAvailable"]["message"]
        assert fault in conditions["MetricsAvailable"]["message"]
        assert _value(supervisor, "rung_passes_failed_total", "edge") is None
    finally:
        await _end(supervisor)


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
