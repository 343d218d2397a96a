"""Keeps what one pool's Gateway is told: written when it changed, followed once its controller says so."""

from __future__ import annotations

import asyncio
import logging
import time

from rung.adapters.gateway import ROUTES, Gateways, Key, Manifest, Parent, Site, manifests, why_not_accepted
from rung.adapters.kubernetes_calls import KubernetesError, NotFound, Refused

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 5.0
"""A controller that has not taken what was written by then does not follow."""
ASK_SECONDS = 0.2
AGAIN_SECONDS = 10.0
"""What could not be written, or was not followed, is tried again so often."""
LOOK_SECONDS = 30.0
"""And what was followed is looked at: someone may have changed or removed it."""
AT_A_TIME = 8
"""So many calls are under way at most."""


class GatewayFollower:
    """The Gateway of one pool. Use it in one event loop.

    Args:
        gateways: by which it is told.
        namespace: of the pool.
        pool: its name.
    """

    def __init__(self, gateways: Gateways, namespace: str, pool: str) -> None:
        self.problem = "nothing was written yet"
        """Why it does not follow; empty when it does."""
        self.spreads = True
        """Whether requests go as it was told, as far as is known: not once its controller has not taken it."""
        self._gateways = gateways
        self._namespace, self._pool = namespace, pool
        self._site: Site | None = None
        self._version = 0
        self._followed = -1
        self._written: dict[Key, tuple[Manifest, int]] = {}
        """What is there, as it was written, with its generation."""
        self._waiting: set[Key] = set()
        """Routes that no controller has taken."""
        self._leftovers: set[Key] | None = None
        """An earlier operator's, which nothing else is known of; None: not looked yet."""
        self._task: asyncio.Task[None] | None = None
        self._tried_monotonic = float("-inf")

    def tell(self, site: Site | None) -> int:
        """Say what is true now; None: there is no Gateway (any more). Returns the number by which it is asked for."""
        if site != self._site:
            self._site, self._version = site, self._version + 1
            self._tried_monotonic = float("-inf")
        since = time.monotonic() - self._tried_monotonic
        is_followed = self._followed == self._version
        due = since >= LOOK_SECONDS and site is not None if is_followed else since >= AGAIN_SECONDS
        if due and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._write(look=is_followed), name=f"gateway of {self._pool}")
        return self._version

    def is_followed(self, version: int) -> bool:
        """Tell whether the Gateway's controller has taken what was told then, or later."""
        return self._followed >= version

    async def close(self) -> None:
        """Stop writing. What is written stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write(self, *, look: bool) -> None:
        """Write until what is there is what was told last. With `look`, see first whether it still is."""
        while look or self._followed != self._version:
            version, site = self._version, self._site
            self._tried_monotonic = time.monotonic()
            try:
                if look:
                    await self._look()
                self.problem = await self._bring(site)
                self.spreads = not self.problem
            except NotFound as error:
                self.problem = f"is the Gateway API installed, with GRPCRoute and HTTPRoute? {error}"
                self.spreads = False
            except KubernetesError as error:
                self.problem = str(error)
            look = False
            if self.problem:
                logger.warning("The Gateway of %s/%s does not follow: %s", self._namespace, self._pool, self.problem)
                return
            self._followed = version

    async def _look(self) -> None:
        """Forget of what is written what is not there any more as it was."""
        there = await self._gateways.list(self._namespace, self._pool)
        for key, (_, generation) in [*self._written.items()]:
            if key not in there or there[key]["metadata"].get("generation", 0) != generation:
                del self._written[key]
            elif key[0] in ROUTES:
                self._waiting.add(key)

    async def _bring(self, site: Site | None) -> str:
        """Write what differs, wait for the controller, remove what is not wanted; returns why it does not follow."""
        wanted = {(m["kind"], m["metadata"]["name"]): m for m in (manifests(site) if site is not None else ())}
        if self._leftovers is None:
            try:
                self._leftovers = set(await self._gateways.list(self._namespace, self._pool))
            except Refused:
                if site is not None:
                    raise
                self._leftovers = set()  # who may not look at routes never wrote any
        changed = [m for key, m in wanted.items() if key not in self._written or self._written[key][0] != m]
        # Services first: a route to one that isn't there is no good one.
        faults = await self._apply([m for m in changed if m["kind"] not in ROUTES])
        faults += await self._apply([m for m in changed if m["kind"] in ROUTES])
        self._waiting &= wanted.keys()
        problem = await self._wait(site.parent) if site is not None else ""
        if faults:
            raise faults[0]
        if not problem:
            # Only now does nothing lead there any more.
            await self._remove({*self._written, *self._leftovers} - wanted.keys())
        return problem

    async def _apply(self, changed: list[Manifest]) -> list[KubernetesError]:
        """Write some objects; returns what went wrong with any of them. The others are written all the same."""
        places = asyncio.Semaphore(AT_A_TIME)
        faults: list[KubernetesError] = []

        async def apply(manifest: Manifest) -> None:
            key = manifest["kind"], manifest["metadata"]["name"]
            async with places:
                try:
                    answer = await self._gateways.apply(manifest)
                except KubernetesError as error:
                    faults.append(error)
                    return
            self._written[key] = manifest, answer["metadata"].get("generation", 0)
            if key[0] in ROUTES:
                self._waiting.add(key)

        await asyncio.gather(*map(apply, changed))
        return faults

    async def _wait(self, parent: Parent) -> str:
        """Wait until a controller has taken every route that was changed; returns why not."""
        ends = time.monotonic() + FOLLOW_SECONDS
        while self._waiting:
            there = await self._gateways.list(self._namespace, self._pool, ROUTES)
            why = {key: why_not_accepted(there[key], parent) if key in there else "is gone" for key in self._waiting}
            self._waiting = {key for key in self._waiting if why[key]}
            if self._waiting and time.monotonic() > ends:
                kind, name = key = min(self._waiting)
                return f"no controller took {kind} {name} over within {FOLLOW_SECONDS:g} s: {why[key]}"
            if self._waiting:
                await asyncio.sleep(ASK_SECONDS)
        return ""

    async def _remove(self, keys: set[Key]) -> None:
        try:
            for kind, name in keys:
                await self._gateways.delete(kind, self._namespace, name)
                self._written.pop((kind, name), None)
                if self._leftovers is not None:
                    self._leftovers.discard((kind, name))
        except Refused as error:
            if self._site is not None:
                raise
            # The chart takes the right away in the moment in which the Gateway is not wanted any more.
            logger.warning("What was written for a Gateway stays, as it may not be removed: %s", error)
            self._written.clear()
            self._leftovers = set()
