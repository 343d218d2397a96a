"""Tells every Envoy that asks where to send requests: aggregated discovery, the whole state of each kind at a time.

The protocol is Envoy's own (https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol). Whoever connects is
pushed what changes, and says what it has taken over: so Rung knows when a balancer follows. An Envoy goes on with what
it has when the operator is away. Which table it gets, its `node.cluster` says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2
from google.protobuf.json_format import ParseDict

from rung.adapters.xds_resources import Resource, Table, clusters, endpoints, routes

logger = logging.getLogger(__name__)

# The resources name these by type, so they have to be known.
_KNOWN = (previous_hosts_pb2, http_protocol_options_pb2)
_TYPES = "type.googleapis.com/envoy.config"
CLUSTERS, ENDPOINTS, ROUTES = (
    f"{_TYPES}.cluster.v3.Cluster",
    f"{_TYPES}.endpoint.v3.ClusterLoadAssignment",
    f"{_TYPES}.route.v3.RouteConfiguration",
)
_KINDS: Mapping[str, tuple[Callable[[Table], list[Resource]], Any, str]] = {
    # In this order they are sent, so that nothing is named before it is known.
    CLUSTERS: (clusters, cluster_pb2.Cluster, "name"),
    ENDPOINTS: (endpoints, endpoint_pb2.ClusterLoadAssignment, "cluster_name"),
    ROUTES: (routes, route_pb2.RouteConfiguration, "name"),
}


@dataclass
class _Published:
    """One table, as messages by kind and name, with the number of the publication in which each kind last changed."""

    table: Table = field(default_factory=Table)
    messages: dict[str, dict[str, any_pb2.Any]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)


@dataclass
class Follower:
    """One Envoy that is connected."""

    node: str
    cluster: str
    taken: dict[str, int] = field(default_factory=dict)
    """By kind: the newest version that it has taken over."""


class XdsServer:
    """Serves tables by name. Use it in one event loop."""

    def __init__(self) -> None:
        self._published: dict[str, _Published] = {}
        self._number = 0
        self._changed = asyncio.Condition()
        self._followers: dict[int, Follower] = {}
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str) -> int:
        """Listen at host:port; returns the port. Raises OSError when it can't be had."""
        self._server = grpc.aio.server()
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(_Service(self), self._server)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"can't listen at {address}: {error}") from None
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Let go of every Envoy; they keep what they have."""
        if self._server is not None:
            await self._server.stop(grace=None)

    async def publish(self, name: str, table: Table) -> int:
        """Have everyone who asks for this table get it; returns the version. What did not change is not sent again."""
        published = self._published.setdefault(name, _Published())
        if published.table != table or not published.messages:
            self._number += 1
            published.table = table
            for kind, (make, message, key) in _KINDS.items():
                made = {resource[key]: _packed(resource, message()) for resource in make(table)}
                if made != published.messages.get(kind):
                    published.messages[kind], published.versions[kind] = made, self._number
            await self._wake()
        return max(published.versions.values())

    def followers(self, name: str) -> tuple[Follower, ...]:
        """Return the Envoys that have this table."""
        return tuple(each for each in self._followers.values() if each.cluster == name)

    def is_followed(self, name: str, version: int) -> bool:
        """Tell whether there are Envoys that have this table, and all of them have taken this version over."""
        published, there = self._published.get(name), self.followers(name)
        if published is None or not there:
            return False
        wanted = {kind: min(version, number) for kind, number in published.versions.items()}
        return all(each.taken.get(kind, 0) >= number for each in there for kind, number in wanted.items())

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def serve(
        self, requests: AsyncIterator[discovery_pb2.DiscoveryRequest]
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        """Answer one Envoy for as long as it stays."""
        follower = Follower("", "")
        asked: dict[str, frozenset[str]] = {}
        """By kind: the names that it wants; none: all clusters, and nothing else."""
        sent: dict[str, tuple[int, frozenset[str]]] = {}
        reader = asyncio.create_task(self._read(requests, follower, asked))
        self._followers[id(follower)] = follower
        try:
            while not reader.done():
                for kind, due in self._due(follower, asked, sent):
                    sent[kind] = due
                    version, names = due
                    yield _response(kind, version, names, self._published[follower.cluster].messages[kind])
                async with self._changed:
                    if not reader.done() and not self._due(follower, asked, sent):
                        await self._changed.wait()
        finally:
            del self._followers[id(follower)]
            reader.cancel()
            with suppress(asyncio.CancelledError, grpc.RpcError):
                await reader

    def _due(
        self, follower: Follower, asked: Mapping[str, frozenset[str]], sent: Mapping[str, tuple[int, frozenset[str]]]
    ) -> list[tuple[str, tuple[int, frozenset[str]]]]:
        """Return what an Envoy has to be sent: by kind, the version and the names."""
        published = self._published.get(follower.cluster)
        if published is None:
            return []
        wanted = [(kind, (published.versions[kind], asked[kind])) for kind in _KINDS if kind in asked]
        return [(kind, due) for kind, due in wanted if sent.get(kind) != due]

    async def _read(
        self,
        requests: AsyncIterator[discovery_pb2.DiscoveryRequest],
        follower: Follower,
        asked: dict[str, frozenset[str]],
    ) -> None:
        try:
            async for request in requests:
                if request.node.id:
                    follower.node, follower.cluster = request.node.id, request.node.cluster
                if request.type_url not in _KINDS:
                    continue
                asked[request.type_url] = frozenset(request.resource_names)
                if request.HasField("error_detail"):
                    fault = request.error_detail.message
                    logger.error("The balancer %s refuses its configuration: %s", follower.node, fault)
                elif request.response_nonce and request.version_info.isdigit():
                    follower.taken[request.type_url] = int(request.version_info)
                await self._wake()
        finally:
            await self._wake()


class _Service(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    def __init__(self, server: XdsServer) -> None:
        self._server = server

    async def StreamAggregatedResources(  # noqa: N802 - the protocol's name
        self,
        request_iterator: AsyncIterator[discovery_pb2.DiscoveryRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        async for response in self._server.serve(request_iterator):
            yield response


def _packed(resource: Resource, message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(ParseDict(resource, message), deterministic=True)
    return packed


def _response(
    kind: str, version: int, names: frozenset[str], messages: Mapping[str, any_pb2.Any]
) -> discovery_pb2.DiscoveryResponse:
    everything = kind == CLUSTERS and not names
    found = [message for name, message in messages.items() if everything or name in names]
    return discovery_pb2.DiscoveryResponse(
        version_info=str(version), resources=found, type_url=kind, nonce=f"{version}/{len(names)}"
    )
