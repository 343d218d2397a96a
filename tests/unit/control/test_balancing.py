"""What a pool tells its balancers, and when a server is drained: with the real server of Envoy's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from rung.adapters.agent import Inventory
from rung.adapters.xds import CLUSTERS, ENDPOINTS, ROUTES, XdsServer
from rung.adapters.xds_resources import Backend, Table, Weighted
from rung.api import parse_pool, parse_task
from rung.control import balancing
from rung.control.balancing import Balancing, gateway_site, table
from rung.control.servers import ServerWorker
from rung.control.statuses import Pass
from rung.control.turns import LoadTurns
from rung.control.view import ServerPod
from rung.core.frontier import Metric
from rung.core.plan import Plan, ServerPlan
from rung.core.snapshot import PoolSnapshot, Profile, Sample, ServerState, TaskState, Version

NOW = 1000.0
VERSION = Version(1, 0.9, {"default": Profile(100.0, None, 0.01)})
NAME = "n/edge"


def pod(name: str, last: int) -> ServerPod:
    return ServerPod(
        "n", name, name, None, f"10.0.0.{last}", {}, ready=True, terminating=False, client_grpc_port=8101,
        client_http_port=8100,
    )  # fmt: skip


def seen(weights: Mapping[str, Mapping[str, float]] | None = None, **changes: Mapping[str, Any]) -> Pass:
    """Return a pass over servers a, b and c, of which a and b answer digits; changes are by server."""
    metadata = {"namespace": "n", "name": "edge"}
    spec = {"serverSelector": {"a": "b"}, "metrics": {"prometheusUrl": "http://p"}}
    task = {"poolRef": {"name": "edge"}, "slo": {"latency": "50ms"}, "model": "mnist"}
    states = []
    workers = {}
    for last, name in enumerate("abc"):
        state = ServerState(
            name, "default", 1.0, demand={"digits": (Sample(NOW, 5.0),)},
            active={"digits": 1} if name in "ab" else {}, loaded={"digits": frozenset({1})} if name in "ab" else {},
        )  # fmt: skip
        states.append(replace(state, **changes.get(name, {})))
        workers[name] = ServerWorker(pod(name, last), turns=LoadTurns(), load_deadline_seconds=30)
    plans = tuple(ServerPlan(name, {}, weights=each) for name, each in (weights or {}).items())
    return Pass(
        pool=parse_pool({"metadata": metadata, "spec": spec}),
        tasks=(parse_task({"metadata": {"namespace": "n", "name": "digits"}, "spec": task}),),
        versions={}, snapshot=PoolSnapshot(NOW, tuple(states), (TaskState("digits", (VERSION,), 0.05),)),
        plan=Plan(plans, ()), memory={}, workers=workers, metric=Metric.INVERSE_THROUGHPUT,
    )  # fmt: skip


def weights_of(found: Table) -> dict[str, int]:
    (route,) = found.routes
    assert (route.model, route.slo_latency_seconds) == ("mnist", 0.05)
    return {each.backend.host: each.weight for each in route.servers}


async def test_requests_go_to_who_answers_by_the_plans_weights() -> None:
    found = table(seen(), (), {})
    assert found.backends == tuple(Backend(f"10.0.0.{last}", 8101, 8100) for last in range(3))
    assert weights_of(found) == {"10.0.0.0": 1000, "10.0.0.1": 1000}
    shares = {"a": {"digits": 3.0}, "b": {"digits": 1.0}}
    assert weights_of(table(seen(), (), shares)) == {"10.0.0.0": 1000, "10.0.0.1": 333}
    assert weights_of(table(seen(), {"b"}, {})) == {"10.0.0.0": 1000, "10.0.0.1": 0}
    assert weights_of(table(seen(b={"ready": False}), (), {})) == {"10.0.0.0": 1000}


async def test_who_stands_by_answers_when_the_others_load_or_are_gone() -> None:
    parked = {"a": {"digits": 1.0}, "b": {"digits": 0.0}}
    assert weights_of(table(seen(), (), parked)) == {"10.0.0.0": 1000, "10.0.0.1": 0}
    assert weights_of(table(seen(), {"a"}, parked)) == {"10.0.0.0": 0, "10.0.0.1": 1000}
    assert weights_of(table(seen(a={"ready": False}), (), parked)) == {"10.0.0.1": 1000}


async def test_an_operator_that_reaches_no_server_takes_none_away() -> None:
    cut_off: dict[str, Any] = {name: {"ready": False} for name in "abc"}
    shares = {"a": {"digits": 0.8}, "b": {"digits": 0.2}}
    assert weights_of(table(seen(**cut_off), (), shares)) == {"10.0.0.0": 1000, "10.0.0.1": 250}


async def test_a_gateways_weights_are_coarse_and_never_nothing_by_rounding() -> None:
    found = seen()
    wanted = replace_gateway(found, {"name": "gate", "grpcSectionName": "grpc"})
    site = gateway_site(wanted, (), {"a": {"digits": 0.999}, "b": {"digits": 0.003}})
    assert site is not None
    assert site.weights == {"mnist": {"a": 1000, "b": 10}}
    assert [server.name for server in site.servers] == ["a", "b", "c"]
    assert site.parent.grpc_section == "grpc"
    lost = gateway_site(replace_gateway(seen(b={"ready": False}), {"name": "gate"}), (), {})
    assert lost is not None
    assert len(lost.servers) == 3, "the Service of a pod goes with the pod"
    assert lost.weights == {"mnist": {"a": 1000}}


def replace_gateway(found: Pass, gateway: Mapping[str, Any]) -> Pass:
    spec = {"serverSelector": {"a": "b"}, "metrics": {"prometheusUrl": "http://p"}, "gateway": gateway}
    return replace(found, pool=parse_pool({"metadata": {"namespace": "n", "name": "edge"}, "spec": spec}))


@dataclass
class Follower:
    """A client that speaks Envoy's protocol, and takes over what it is told when it is let."""

    call: Any
    obeys: bool = True

    async def follow(self) -> None:
        for kind, names in ((CLUSTERS, []), (ENDPOINTS, ["grpc/mnist", "http/mnist"]), (ROUTES, ["grpc", "http"])):
            node = {"id": "test", "cluster": NAME}
            await self.call.write(discovery_pb2.DiscoveryRequest(node=node, type_url=kind, resource_names=names))
        async for response in self.call:
            names = {ENDPOINTS: ["grpc/mnist", "http/mnist"], ROUTES: ["grpc", "http"]}.get(response.type_url, [])
            if self.obeys:
                await self.call.write(
                    discovery_pb2.DiscoveryRequest(
                        type_url=response.type_url, version_info=response.version_info, response_nonce=response.nonce,
                        resource_names=names,
                    )
                )  # fmt: skip


@pytest.fixture
async def xds() -> AsyncIterator[XdsServer]:
    server = XdsServer()
    server.port = await server.start("127.0.0.1:0")  # type: ignore[attr-defined]
    yield server
    await server.stop()


@pytest.fixture
async def follower(xds: XdsServer) -> AsyncIterator[Follower]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{xds.port}") as channel:  # type: ignore[attr-defined]
        made = Follower(ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources())
        following = asyncio.create_task(made.follow())
        async with asyncio.timeout(5):
            while not xds.followers(NAME):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        yield made
        following.cancel()


async def test_a_server_is_drained_once_the_balancer_has_taken_it_over(xds: XdsServer, follower: Follower) -> None:
    balanced = Balancing(NAME, None, xds)
    await balanced.update(seen())
    async with balanced.aside("a") as why:
        assert why == ""
        assert balanced.drained == {"a"}
        async with balanced.aside("c") as other:
            assert other == "", "it answers nothing"
    assert balanced.drained == frozenset()


async def test_one_waits_for_the_other(xds: XdsServer, follower: Follower) -> None:
    balanced = Balancing(NAME, None, xds)
    await balanced.update(seen())
    order: list[str] = []
    waits: list[str] = []

    async def load(server: str, other: str) -> None:
        async with balanced.aside(server) as why:
            assert why == ""
            assert len(balanced.drained) == 1
            order.append(server)
            await asyncio.sleep(0.05)
            waits.append(balanced.waits(other))

    await asyncio.gather(load("a", "b"), load("b", "a"))
    assert sorted(order) == ["a", "b"]
    assert waits == ["a, which also has digits, is drained", ""]


async def test_without_a_balancer_that_follows_it_goes_on_answering(xds: XdsServer) -> None:
    balanced = Balancing(NAME, None, xds)
    await balanced.update(seen())
    async with balanced.aside("a") as why:
        assert why == "no balancer asks for this pool, and its pod has no readiness gate"
    assert not balanced.spreads("a")


async def test_one_that_does_not_follow_is_given_up(
    xds: XdsServer, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balancing, "FOLLOW_SECONDS", 0.2)
    balanced = Balancing(NAME, None, xds)
    await balanced.update(seen())
    follower.obeys = False
    async with balanced.aside("a") as why:
        assert "no balancer took it over" in why
        assert balanced.drained == frozenset()


async def test_a_refusal_says_why(xds: XdsServer, follower: Follower) -> None:
    balanced = Balancing(NAME, None, xds)
    await balanced.update(seen(b={"active": {}}))
    async with balanced.aside("a") as why:
        assert why == "no other server answers digits"
    assert Weighted(Backend("h", 1, 2)).weight == 1


async def test_nobody_is_drained_for_a_standby_that_waits_until_the_memory_is_known() -> None:
    inventory = Inventory.model_validate(
        {
            "repository": {"reachable": True}, "disk": {"budgetBytes": 1},
            "memory": {"limitBytes": 100, "usedBytes": 10, "ageSeconds": 2.0},
        }
    )  # fmt: skip
    worker = ServerWorker(pod("a", 1), turns=LoadTurns(), load_deadline_seconds=30, wall_clock=lambda: NOW)
    assert worker._memory_is_known(), "there is no limit"
    worker.observation = replace(worker.observation, inventory=inventory, inventory_time_seconds=NOW)
    assert worker._memory_is_known(), "nothing changed since it was measured"
    worker._changed_seconds = NOW - 1
    assert not worker._memory_is_known(), "measured two seconds ago, and changed since"
    worker.observation = replace(worker.observation, inventory_message="the agent is away")
    assert worker._memory_is_known(), "nobody will measure it"
    await worker.stop()
