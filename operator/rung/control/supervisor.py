"""One loop for each ServingPool: started when a pool appears, ended when it goes, and watched over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rung.adapters.kubernetes import Cluster
from rung.api import InvalidObject
from rung.control.metrics import Metrics
from rung.control.orphans import Orphans
from rung.control.pool_loop import PoolLoop
from rung.control.porting_loop import PortingLoop
from rung.control.porting_manifests import Templates
from rung.control.publish import Note, ObjectKey, Publisher
from rung.control.sweep import sweep
from rung.control.view import ClusterView, Namespaced

if TYPE_CHECKING:
    from rung.adapters.xds import XdsServer

logger = logging.getLogger(__name__)

LONGEST_SILENCE_SECONDS = 30.0
"""Beyond the pool's interval: a loop that is silent for longer hangs."""
FLUSH_SECONDS = 3.0
SWEEP_EVERY_SECONDS = 60.0
ORPHANS_EVERY_SECONDS = 2.0
REFUSALS_KEPT = 1000


class Supervisor:
    """The running loops of one operator."""

    def __init__(
        self,
        view: ClusterView,
        cluster: Cluster,
        metrics: Metrics,
        templates: Templates | None = None,
        xds: XdsServer | None = None,
    ) -> None:
        self.view = view
        self.metrics = metrics
        self.publisher = Publisher(cluster, metrics)
        self._cluster = cluster
        self._xds = xds
        self._porting = PortingLoop(view, cluster, self.publisher, templates)
        self._loops: dict[Namespaced, tuple[PoolLoop, asyncio.Task[None]]] = {}
        self._background: list[asyncio.Task[None]] = []
        self._listed = asyncio.Event()
        self._indexed = asyncio.Event()
        self._refused: dict[tuple[str, str, str], str] = {}

    def start(self) -> None:
        """Begin to write statuses, and to look for objects that are gone and for tasks without a pool.

        Call inside the running event loop.
        """
        self._background = [
            asyncio.create_task(self.publisher.run(), name="statuses"),
            asyncio.create_task(self._sweep(), name="sweep"),
            asyncio.create_task(self._look_for_orphans(), name="orphans"),
            asyncio.create_task(self._port(), name="porting"),
        ]

    async def pool_seen(self, key: Namespaced, event: str | None) -> None:
        """Take note of a watch event about a pool, after the index did; without a type, it is from a list."""
        if event is None:
            # Lists come at the start and after a watch that was lost: time to look for what is gone.
            self._listed.set()
        if event == "DELETED":
            await self.end(key)
        # A new pool of the name may have been seen before the end of the old one.
        if event != "DELETED" or self.view.pool(key) is not None:
            self.ensure(key)

    def task_seen(self, event: str | None) -> None:
        """Take note of a watch event about a task. From the first one on, all that there is was indexed."""
        self._indexed.set()
        if event is None:
            self._listed.set()

    def ensure(self, key: Namespaced) -> None:
        """Have a loop for this pool."""
        if key not in self._loops:
            cluster = self._cluster
            loop = PoolLoop(
                key, self.view, self.publisher, self.metrics, pods=cluster.pods, xds=self._xds,
                gateways=cluster.gateways,
            )  # fmt: skip
            self._loops[key] = (loop, asyncio.create_task(loop.run(), name=f"pool {loop.label}"))

    async def end(self, key: Namespaced) -> None:
        """End the loop of a pool that is gone. Its servers keep what they have."""
        found = self._loops.get(key)
        if found is not None:
            found[1].cancel()
            await asyncio.gather(found[1], return_exceptions=True)
            # Only now: a successor of that name must not begin before its servers were left alone.
            if self._loops.get(key) is found:
                del self._loops[key]

    async def _sweep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_EVERY_SECONDS):
                    await self._listed.wait()
            self._listed.clear()
            try:
                await sweep(self.view, self._cluster)
                for key in [key for key in self._loops if self.view.pool(key) is None]:
                    await self.end(key)
                    if self.view.pool(key) is not None:
                        self.ensure(key)
            except Exception:
                logger.exception("Looking for objects that are gone failed; it goes on")

    async def _look_for_orphans(self) -> None:
        await self._indexed.wait()
        orphans = Orphans(self.view, self.publisher)
        while True:
            try:
                orphans.look(time.time())
            except Exception:
                logger.exception("Looking for tasks without a pool failed; it goes on")
            await asyncio.sleep(ORPHANS_EVERY_SECONDS)

    async def _port(self) -> None:
        await self._indexed.wait()
        await self._porting.run()

    def refuse(self, error: InvalidObject) -> None:
        """Tell the owner of an object that can't be read, once for each fault: the others go on."""
        key = (error.kind, error.namespace, error.name)
        if self._refused.get(key) == str(error):
            return
        if len(self._refused) >= REFUSALS_KEPT:
            self._refused.clear()
        self._refused[key] = str(error)
        logger.warning("Not followed until it is mended: %s", error, extra={"kind": error.kind})
        self.metrics.invalid_objects.labels(error.kind).inc()
        about = ObjectKey(error.kind, error.namespace, error.name)
        self.publisher.note(
            Note(about, "Invalid", f"not followed until it is mended: {error.field}: {error.sentence}", warning=True)
        )

    async def stop(self) -> None:
        """End every loop and write what waits."""
        await asyncio.gather(*(self.end(key) for key in list(self._loops)))
        if self._background:
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
            await self.publisher.flush(FLUSH_SECONDS)

    def silent(self, clock: Callable[[], float] = time.monotonic) -> dict[str, float]:
        """Return the pools whose loop ended no pass for too long, with the seconds since."""
        loops = [loop for loop, _ in self._loops.values()]
        ages = {loop.label: clock() - loop.last_pass_monotonic - loop.interval_seconds for loop in loops}
        return {label: age for label, age in ages.items() if age > LONGEST_SILENCE_SECONDS}
