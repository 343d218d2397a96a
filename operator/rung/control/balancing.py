"""One pool and what spreads its requests: where each model is answered, and which server gets none while it loads.

Two things may follow: Envoys (the chart's balancer, `rung.adapters.xds`), and the readiness gate of the pods, by which
Kubernetes takes a pod out of its Services.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from rung.adapters.kubernetes_calls import KubernetesError
from rung.adapters.pods import Pods
from rung.adapters.xds_resources import Backend, ModelRoute, Table, Weighted
from rung.control.view import ServerPod
from rung.core.drain import refusal

if TYPE_CHECKING:
    # Envoy's messages take their memory: only an operator with balancers has them.
    from rung.adapters.xds import XdsServer
    from rung.control.statuses import Pass

logger = logging.getLogger(__name__)

HIGHEST_WEIGHT = 1000
FOLLOW_SECONDS = 2.0
"""A balancer that has not taken a change over by then does not follow."""
READINESS_SECONDS = 5.0
"""And a pod whose kubelet has not by then."""
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
    """What follows one pool, told after each pass. Use it in one event loop.

    Args:
        name: of the pool, as an Envoy's `node.cluster` has it.
        pods: for the readiness gates; None: they are left alone.
        xds: whom Envoys ask; None: there are none.
        count: is told of each load: the server, and whether it was drained for it.
    """

    def __init__(
        self,
        name: str,
        pods: Pods | None,
        xds: XdsServer | None,
        count: Callable[[str, bool], None] = lambda server, drained: None,
    ) -> None:
        self._name = name
        self._count = count
        self._pods = pods
        self._xds = xds
        self._seen: Pass | None = None
        self._drained: set[str] = set()
        self._waits: dict[str, str] = {}
        self._back = asyncio.Event()
        self._gates: dict[str, asyncio.Task[None]] = {}

    @property
    def drained(self) -> frozenset[str]:
        """The servers that get no requests at present."""
        return frozenset(self._drained)

    @property
    def has_balancer(self) -> bool:
        """Whether any Envoy asks for this pool, and so spreads its requests as it is told."""
        return self._xds is not None and bool(self._xds.followers(self._name))

    def waits(self, server: str) -> str:
        """Say what a server waits for that is to be drained; empty when it is not, or was."""
        return self._waits.get(server, "")

    def spreads(self, server: str) -> bool:
        """Tell whether something would keep requests away from a server."""
        return self.has_balancer or self._gated(server)

    async def update(self, seen: Pass) -> None:
        """Tell what is true after a pass."""
        self._seen = seen
        await self._publish()
        for name in seen.workers:
            self._set_gate(name)
        for name in self._gates.keys() - seen.workers.keys():
            self._gates.pop(name).cancel()

    async def close(self) -> None:
        """Stop telling. What follows keeps what it has."""
        for task in self._gates.values():
            task.cancel()
        await asyncio.gather(*self._gates.values(), return_exceptions=True)
        self._gates.clear()

    @asynccontextmanager
    async def aside(self, server: str) -> AsyncIterator[str]:
        """Keep requests away from a server for the length of the block.

        Yields nothing when it gets none, else why it is not drained: then it goes on as it is.
        """
        try:
            why = await self._drain(server)
        finally:
            self._waits.pop(server, None)
        self._count(server, not why)
        try:
            yield why
        finally:
            if server in self._drained:
                await self._restore(server)

    async def _drain(self, server: str) -> str:
        ends = time.monotonic() + WAIT_SECONDS
        while True:
            if self._seen is None or not self.spreads(server):
                return "no balancer asks for this pool, and its pod has no readiness gate"
            found = refusal(self._seen.snapshot, server, self._drained)
            if found is None:
                break
            if not found.passes or time.monotonic() > ends:
                return found.sentence
            self._waits[server] = found.sentence
            self._back.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                    await self._back.wait()
        self._drained.add(server)
        version = await self._publish()
        self._set_gate(server)
        if self.has_balancer and not await _within(FOLLOW_SECONDS, lambda: self._is_followed(version)):
            await self._restore(server)
            return f"no balancer took it over within {FOLLOW_SECONDS:g} s"
        if self._gated(server) and not await _within(READINESS_SECONDS, lambda: not self._is_ready(server)):
            await self._restore(server)
            return f"its pod was still ready {READINESS_SECONDS:g} s after its condition had said otherwise"
        slo = [task.spec.slo.latency.seconds for task in self._seen.tasks]
        await asyncio.sleep(min(LONGEST_ANSWER_SECONDS, max(slo, default=0.0)))
        return ""

    async def _restore(self, server: str) -> None:
        self._drained.discard(server)
        self._back.set()
        await self._publish()
        self._set_gate(server)

    # -------------------------------------------------------------------------------------------------------- Envoys

    def _is_followed(self, version: int) -> bool:
        return self._xds is not None and self._xds.is_followed(self._name, version)

    async def _publish(self) -> int:
        if self._seen is None or self._xds is None:
            return 0
        return await self._xds.publish(self._name, table(self._seen, self._drained))

    # ----------------------------------------------------------------------------------------------- readiness gates

    def _pod(self, server: str) -> ServerPod | None:
        worker = self._seen.workers.get(server) if self._seen is not None else None
        return worker.pod if worker is not None else None

    def _gated(self, server: str) -> bool:
        pod = self._pod(server)
        return self._pods is not None and pod is not None and pod.gated

    def _is_ready(self, server: str) -> bool:
        pod = self._pod(server)
        return pod is not None and pod.pod_ready

    def _set_gate(self, server: str) -> None:
        """Have the pod's condition be what it should, if it has a gate and it is not: one call at a time."""
        task = self._gates.get(server)
        if self._gated(server) and (task is None or task.done()):
            self._gates[server] = asyncio.create_task(self._write_gate(server), name=f"readiness of {server}")

    async def _write_gate(self, server: str) -> None:
        """Write until it is right. What can't be written is written after the next pass."""
        written: bool | None = None
        while (pod := self._pod(server)) is not None and self._pods is not None:
            serving, why = self._should_serve(server)
            if serving == (pod.serving if written is None else written):
                return
            try:
                await self._pods.set_serving(pod.namespace, pod.name, pod.uid, why, serving=serving)
            except KubernetesError as error:
                logger.warning("The readiness of %s stays as it is: %s", server, error)
                return
            written = serving

    def _should_serve(self, server: str) -> tuple[bool, str]:
        """Tell whether requests may come to a server. One that has nothing loaded would refuse every one."""
        if server in self._drained:
            return False, "a version is being loaded, and the other servers answer meanwhile"
        worker = self._seen.workers[server] if self._seen is not None else None
        if worker is not None and self._seen is not None and self._seen.tasks and not worker.observation.loaded:
            return False, "no version is loaded yet"
        return True, ""


async def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends:
            return False
        await asyncio.sleep(ASK_SECONDS)
    return True
