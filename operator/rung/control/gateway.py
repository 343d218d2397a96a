"""Keeps what one pool's Gateway is told: written when it changed, followed once its controller says so."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from rung.adapters.gateway import Gateways, Manifest, Site, is_accepted, manifests
from rung.adapters.kubernetes_calls import KubernetesError, NotFound

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 5.0
"""A controller that has not taken what was written by then does not follow."""
ASK_SECONDS = 0.2
AGAIN_SECONDS = 10.0
"""What could not be written, or was not followed, is tried again so often."""
Key = tuple[str, str]
"""Kind and name."""


class GatewayFollower:
    """The Gateway of one pool. Use it in one event loop."""

    def __init__(self, gateways: Gateways) -> None:
        self.problem = "nothing was written yet"
        """Why it does not follow; empty when it does."""
        self._gateways = gateways
        self._site: Site | None = None
        self._version = 0
        self._followed = -1
        self._written: dict[Key, Manifest] = {}
        self._cleared = False
        self._task: asyncio.Task[None] | None = None
        self._tried_monotonic = float("-inf")

    def tell(self, site: Site | None) -> int:
        """Say what is true now; None: there is no Gateway (any more). Returns the number by which it is asked for."""
        if site is None and self._site is None:
            return self._version
        if site != self._site:
            self._site, self._version = site, self._version + 1
            self._tried_monotonic = float("-inf")
        idle = self._task is None or self._task.done()
        if idle and self._followed != self._version and time.monotonic() - self._tried_monotonic >= AGAIN_SECONDS:
            self._task = asyncio.create_task(self._write(), name="gateway")
        return self._version

    def is_followed(self, version: int) -> bool:
        """Tell whether the Gateway's controller has taken what was told then, or later."""
        return self._followed >= version

    async def close(self) -> None:
        """Stop writing. What is written stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write(self) -> None:
        """Write until what is there is what was told last."""
        while self._followed != self._version:
            version, site = self._version, self._site
            self._tried_monotonic = time.monotonic()
            try:
                self.problem = await self._bring(site)
            except NotFound as error:
                self.problem = f"is the Gateway API installed, with GRPCRoute and HTTPRoute? {error}"
            except KubernetesError as error:
                self.problem = str(error)
            if self.problem:
                logger.warning("The Gateway does not follow: %s", self.problem)
                return
            self._followed = version

    async def _bring(self, site: Site | None) -> str:
        """Write what differs and wait for the controller; returns why it does not follow."""
        wanted = {(m["kind"], m["metadata"]["name"]): m for m in (manifests(site) if site is not None else ())}
        if site is not None and not self._cleared:
            # An earlier operator's, of which nothing is remembered.
            for kind, name in await self._gateways.list_names(site.namespace, site.pool) - wanted.keys():
                await self._gateways.delete(kind, site.namespace, name)
            self._cleared = True
        waiting: set[Key] = set()
        for key, manifest in wanted.items():
            if self._written.get(key) != manifest:
                answer = await self._gateways.apply(manifest)
                self._written[key] = manifest
                if key[0].endswith("Route") and not is_accepted(answer):
                    waiting.add(key)
        for kind, name in [key for key in self._written if key not in wanted]:
            await self._gateways.delete(kind, self._written[kind, name]["metadata"]["namespace"], name)
            del self._written[kind, name]
        return await self._wait(waiting)

    async def _wait(self, routes: set[Key]) -> str:
        """Wait until a controller has taken these; returns why not."""
        ends = time.monotonic() + FOLLOW_SECONDS
        while True:
            for kind, name in sorted(routes):
                with suppress(KubernetesError):
                    namespace = self._written[kind, name]["metadata"]["namespace"]
                    if is_accepted(await self._gateways.read(kind, namespace, name)):
                        routes.discard((kind, name))
            if not routes:
                return ""
            if time.monotonic() > ends:
                for key in routes:  # they are looked at again the next time
                    del self._written[key]
                kind, name = min(routes)
                return f"no controller took {kind} {name} over within {FOLLOW_SECONDS:g} s: does the Gateway exist?"
            await asyncio.sleep(ASK_SECONDS)
