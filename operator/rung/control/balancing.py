"""One pool and what spreads its requests: where each model is answered, and which server gets none while it loads.

Three things may follow: Envoys (the chart's balancer, `rung.adapters.xds`), a Gateway of the cluster's own
(`rung.control.gateway`), and the readiness gate of the pods, by which Kubernetes takes a pod out of its Services.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from rung.adapters.gateway import Gateways, Parent, Server, Site
from rung.adapters.kubernetes_calls import KubernetesError
from rung.adapters.pods import Pods
from rung.adapters.xds_resources import Backend, ModelRoute, Table, Weighted
from rung.control.gateway import GatewayFollower
from rung.control.view import ServerPod
from rung.core.drain import refusal

if TYPE_CHECKING:
    # Envoy's messages take their memory: only an operator with balancers has them.
    from rung.adapters.xds import XdsServer
    from rung.control.statuses import Pass

logger = logging.getLogger(__name__)

HIGHEST_WEIGHT = 1000
FOLLOW_SECONDS, GATEWAY_SECONDS = 2.0, 10.0
"""A balancer that has not taken a change over by then does not follow; a Gateway is told by way of the API server."""
READINESS_SECONDS = 5.0
"""And a pod whose kubelet has not by then."""
WAIT_SECONDS = 15.0
"""So long a server waits for another one to be back, before it loads as it is."""
ASK_SECONDS = 0.02
LONGEST_ANSWER_SECONDS = 2.0
"""Requests that are under way get their service level's time to be answered, and no more than this."""


Shares = Mapping[str, Mapping[str, float]]
"""By server, by task: its part of the task's requests."""


def table(seen: Pass, drained: Collection[str], shares: Shares) -> Table:
    """Return what a balancer has to know: every server, and the servers on which each model answers.

    By `shares`, those of the last plan; where there are none, all count alike. Pure.
    """
    pods = _pods(seen)
    backends = {name: Backend(pod.ip or "", pod.client_grpc_port, pod.client_http_port) for name, pod in pods.items()}
    weights = _weights(seen, drained, shares)
    routes = tuple(
        ModelRoute(
            task.model,
            task.spec.slo.latency.seconds,
            tuple(Weighted(backends[name], weight) for name, weight in weights[task.model].items()),
        )
        for task in seen.tasks
    )
    return Table(tuple(backends.values()), routes)


def gateway_site(seen: Pass, drained: Collection[str], shares: Shares) -> Site | None:
    """Return what the pool's Gateway has to know; None where its specification names none. Pure."""
    pool, wanted = seen.pool, seen.pool.spec.gateway
    if wanted is None:
        return None
    # Also of those that can't be led to now: the Service of a pod goes with the pod.
    servers = tuple(
        Server(name, worker.pod.uid, worker.pod.ip, worker.pod.client_grpc_port, worker.pod.client_http_port)
        for name, worker in sorted(seen.workers.items())
        if worker.pod.ip
    )
    # Coarser than an Envoy's, as each change is a write to the API server.
    weights = {
        model: {name: max(10, 10 * round(weight / 10)) if weight else 0 for name, weight in mine.items()}
        for model, mine in _weights(seen, drained, shares).items()
    }
    parent = Parent(
        wanted.name, wanted.namespace, wanted.section_name, tuple(wanted.hostnames),
        wanted.grpc_section_name, tuple(wanted.grpc_hostnames),
    )  # fmt: skip
    return Site(pool.namespace, pool.name, pool.uid or "", parent, servers, weights)


def _pods(seen: Pass) -> dict[str, ServerPod]:
    """Return the pods that can be led to, by server.

    Where no server answers the operator, it may be the operator that is cut off: then who is ready for Kubernetes.
    """
    pods = {name: worker.pod for name, worker in seen.workers.items() if worker.pod.ip}
    answering = [server.name for server in seen.snapshot.servers if server.ready and server.name in pods]
    ready = [name for name, pod in pods.items() if pod.ready and not pod.terminating]
    return {name: pods[name] for name in answering or ready}


def _weights(seen: Pass, drained: Collection[str], shares: Shares) -> dict[str, dict[str, int]]:
    """Return by model the weight of each server that answers it; 0 where it is to get nothing.

    Where all who are not drained have no share (the others just ended, or load), they get everything.
    """
    pods = _pods(seen)
    having: dict[str, list[str]] = {}
    for server in seen.snapshot.servers:
        for name in server.active if server.name in pods else ():
            having.setdefault(name, []).append(server.name)
    found = {}
    for task in seen.tasks:
        names = having.get(task.name, ())
        parts = {name: max(0.0, shares.get(name, {}).get(task.name, 1.0)) for name in names if name not in drained}
        highest = max(parts.values(), default=0.0)
        weights = {
            name: round(HIGHEST_WEIGHT * (part / highest if highest > 0 else 1.0)) for name, part in parts.items()
        }
        found[task.model] = dict.fromkeys(names, 0) | weights
    return found


class Balancing:
    """What follows one pool, told after each pass. Use it in one event loop.

    Args:
        name: of the pool, as an Envoy's `node.cluster` has it.
        pods: for the readiness gates; None: they are left alone.
        xds: whom Envoys ask; None: there are none.
        gateways: by which a Gateway of the cluster's is told; None: it can't be.
        count: is told of each load: the server, and whether it was drained for it.
    """

    def __init__(
        self,
        name: str,
        pods: Pods | None,
        xds: XdsServer | None,
        count: Callable[[str, bool], None] = lambda server, drained: None,
        gateways: Gateways | None = None,
    ) -> None:
        self._name = name
        self._count = count
        self._pods = pods
        self._xds = xds
        self._gateway = GatewayFollower(gateways, *name.split("/", 1)) if gateways is not None else None
        self._has_gateway = False
        self._seen: Pass | None = None
        self._shares: dict[str, Mapping[str, float]] = {}
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
        """Whether an Envoy asks for this pool or a Gateway follows it, and so spreads its requests as it is told."""
        return self._has_envoy or (self._has_gateway and self._gateway is not None and self._gateway.spreads)

    @property
    def _has_envoy(self) -> bool:
        return self._xds is not None and bool(self._xds.followers(self._name))

    def condition(self) -> tuple[bool, str, str] | None:
        """Say who spreads the requests: whether someone does, a reason, a sentence; None where nobody is meant to."""
        if self._has_gateway and self._gateway is not None:
            followed = not self._gateway.problem
            return followed, "GatewayFollows" if followed else "GatewayNotFollowing", self._gateway.problem
        if self._xds is None:
            return None
        count = len(self._xds.followers(self._name))
        sentence = f"{count} Envoy{'s' if count > 1 else ''} follow{'s' if count == 1 else ''}"
        return (True, "EnvoyFollows", sentence) if count else (False, "NoEnvoy", "no Envoy asks for this pool")

    def waits(self, server: str) -> str:
        """Say what a server waits for that is to be drained; empty when it is not, or was."""
        return self._waits.get(server, "")

    def spreads(self, server: str) -> bool:
        """Tell whether something would keep requests away from a server."""
        return self.has_balancer or self._gated(server)

    async def update(self, seen: Pass) -> None:
        """Tell what is true after a pass."""
        self._seen = seen
        planned = {plan.server: plan.weights for plan in seen.plan.servers}
        self._shares = {name: planned.get(name, self._shares.get(name, {})) for name in seen.workers}
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
        if self._gateway is not None:
            await self._gateway.close()

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
        is_followed = await self._publish()
        self._set_gate(server)
        seconds = GATEWAY_SECONDS if self._has_gateway else FOLLOW_SECONDS
        if self.has_balancer and not await _within(seconds, is_followed):
            await self._restore(server)
            return f"no balancer took it over within {seconds:g} s"
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

    # ------------------------------------------------------------------------------------------- Envoys and a Gateway

    async def _publish(self) -> Callable[[], bool]:
        """Tell what is true; returns by what to know that all who follow have taken it."""
        checks: list[Callable[[], bool]] = []
        if self._seen is not None and self._xds is not None:
            version = await self._xds.publish(self._name, table(self._seen, self._drained, self._shares))
            if self._has_envoy:
                checks.append(partial(self._xds.is_followed, self._name, version))
        if self._seen is not None and self._gateway is not None:
            site = gateway_site(self._seen, self._drained, self._shares)
            self._has_gateway = site is not None
            number = self._gateway.tell(site)
            if self._has_gateway and self._gateway.spreads:
                checks.append(partial(self._gateway.is_followed, number))
        return lambda: all(check() for check in checks)

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
