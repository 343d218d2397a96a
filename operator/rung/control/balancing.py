"""One pool and its balancers: where each model's requests go, and which server gets none while it loads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rung.adapters.xds_resources import Backend, ModelRoute, Table, Weighted
from rung.core.drain import refusal

if TYPE_CHECKING:
    # Envoy's messages take their memory: only an operator with balancers has them.
    from rung.adapters.xds import XdsServer
    from rung.control.statuses import Pass

HIGHEST_WEIGHT = 1000
FOLLOW_SECONDS = 2.0
"""A balancer that has not taken a change over by then does not follow."""
WAIT_SECONDS = 15.0
"""So long a server waits for another one to be back, before it loads as it is."""
ASK_SECONDS = 0.02
LONGEST_ANSWER_SECONDS = 2.0
"""Requests that are under way get their service level's time to be answered, and no more than this."""


def table(seen: Pass, drained: Collection[str]) -> Table:
    """Return what a balancer has to know: every ready server, and the servers on which each model answers.

    A plan's weights are followed; without any, all count alike. Pure.
    """
    backends, weights = {}, {}
    plans = {plan.server: plan for plan in seen.plan.servers}
    for server in seen.snapshot.servers:
        pod = seen.workers[server.name].pod
        if server.ready and pod.ip:
            backends[server.name] = Backend(pod.ip, pod.client_grpc_port, pod.client_http_port)
            plan = plans.get(server.name)
            weights[server.name] = plan.weights if plan else {}
    routes = []
    for task in seen.tasks:
        having = [s.name for s in seen.snapshot.servers if s.name in backends and task.name in s.active]
        shares = {name: max(0.0, weights[name].get(task.name, 1.0)) for name in having}
        highest = max(shares.values(), default=0.0)
        servers = tuple(
            Weighted(backends[name], 0 if name in drained else _weight(share, highest))
            for name, share in shares.items()
        )
        routes.append(ModelRoute(task.model, task.spec.slo.latency.seconds, servers))
    return Table(tuple(backends.values()), tuple(routes))


def _weight(share: float, highest: float) -> int:
    return round(HIGHEST_WEIGHT * share / highest) if highest > 0 else 1


class Balancing:
    """The balancers of one pool, told after each pass. Use it in one event loop."""

    def __init__(self, xds: XdsServer, name: str) -> None:
        self._xds = xds
        self._name = name
        self._seen: Pass | None = None
        self._drained: set[str] = set()
        self._back = asyncio.Event()

    @property
    def drained(self) -> frozenset[str]:
        """The servers that get no requests at present."""
        return frozenset(self._drained)

    @property
    def is_there(self) -> bool:
        """Whether any balancer asks for this pool."""
        return bool(self._xds.followers(self._name))

    async def update(self, seen: Pass) -> None:
        """Tell what is true after a pass."""
        self._seen = seen
        await self._publish()

    @asynccontextmanager
    async def aside(self, server: str) -> AsyncIterator[str]:
        """Keep requests away from a server for the length of the block.

        Yields nothing when it gets none, else why it is not drained: then it goes on as it is.
        """
        why = await self._drain(server)
        try:
            yield why
        finally:
            if server in self._drained:
                self._drained.discard(server)
                self._back.set()
                await self._publish()

    async def _drain(self, server: str) -> str:
        ends = time.monotonic() + WAIT_SECONDS
        while True:
            if self._seen is None or not self.is_there:
                return "no balancer asks for this pool"
            found = refusal(self._seen.snapshot, server, self._drained)
            if found is None:
                break
            if not found.passes or time.monotonic() > ends:
                return found.sentence
            self._back.clear()
            try:
                async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                    await self._back.wait()
            except TimeoutError:
                return found.sentence
        self._drained.add(server)
        version = await self._publish()
        if not await self._is_followed(version):
            self._drained.discard(server)
            await self._publish()
            return f"no balancer took it over within {FOLLOW_SECONDS:g} s"
        slo = [task.spec.slo.latency.seconds for task in self._seen.tasks]
        await asyncio.sleep(min(LONGEST_ANSWER_SECONDS, max(slo, default=0.0)))
        return ""

    async def _is_followed(self, version: int) -> bool:
        ends = time.monotonic() + FOLLOW_SECONDS
        while not self._xds.is_followed(self._name, version):
            if time.monotonic() > ends:
                return False
            await asyncio.sleep(ASK_SECONDS)
        return True

    async def _publish(self) -> int:
        if self._seen is None:
            return 0
        return await self._xds.publish(self._name, table(self._seen, self._drained))
