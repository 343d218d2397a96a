"""Writes statuses and events to the API server, behind the loop's back: the loop never waits for it.

Level-triggered: only the newest status of each object counts. An API server that is away makes statuses late, and
nothing else. A status is written at once when something that matters changed, and at most every few seconds when only
numbers moved, so that a quiet pool writes nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from typing import Any

from rung.adapters.kubernetes import Cluster, Conflict, KubernetesError, NotFound, Refused
from rung.api import ServingPool
from rung.api.base import Resource
from rung.control.metrics import Metrics

logger = logging.getLogger(__name__)

NUMBERS_EVERY_SECONDS = 5.0
NUMBERS_A_SECOND = 4.0
"""With many objects, statuses of which only numbers moved wait longer: the API server gets at most so many a second.
Those of pools, which are few, never do."""
RETRY_AFTER_SECONDS = 2.0
EVENTS_KEPT = 500
WRITES_AT_ONCE = 8

_MOVING = frozenset({"utilization", "expectedUtilization", "demand", "reason", "message", "numbers", "policyMemory"})
"""Fields that move all the time: on their own they are worth a write only now and then."""


@dataclass(frozen=True, slots=True)
class ObjectKey:
    """One object whose status is kept."""

    kind: str
    namespace: str
    name: str
    uid: str | None = None


def key_of(resource: Resource) -> ObjectKey:
    """Return the key of an object of Rung's."""
    return ObjectKey(type(resource).__name__, resource.namespace, resource.name, resource.uid)


@dataclass(frozen=True, slots=True)
class Note:
    """One Kubernetes event. `warning` makes it a Warning, else it is Normal."""

    about: ObjectKey
    reason: str
    sentence: str
    warning: bool = False


class Publisher:
    """Keeps what should be written and writes it, with one task for all objects."""

    def __init__(self, cluster: Cluster, metrics: Metrics) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._told: dict[ObjectKey, bytes] = {}
        """What was said last of each object. Of what is written only a digest is kept: objects may be thousands."""
        self._wanted: dict[ObjectKey, Mapping[str, Any]] = {}
        """The statuses that are not written yet."""
        self._waiting: dict[ObjectKey, float] = {}
        """When each of them is to be (monotonic seconds)."""
        self._written: dict[ObjectKey, tuple[float, bytes]] = {}
        """When a status was last written, and the part of it that matters."""
        self._notes: deque[Note] = deque(maxlen=EVENTS_KEPT)
        self._wake = asyncio.Event()
        self._failing = False

    def status(self, key: ObjectKey, status: Mapping[str, Any]) -> None:
        """Say what the status of an object shall be, as JSON."""
        digest = _digest(status)
        if self._told.get(key) == digest:
            return
        self._told[key] = digest
        self._wanted[key] = status
        self._waiting[key] = self._due(key, status)
        self._wake.set()

    def forget(self, key: ObjectKey) -> None:
        """Stop keeping the status of an object that is gone."""
        self._told.pop(key, None)
        self._wanted.pop(key, None)
        self._written.pop(key, None)
        self._waiting.pop(key, None)

    def note(self, note: Note) -> None:
        """Post an event, once, when the API server takes it. The oldest are dropped when too many wait."""
        self._notes.append(note)
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            try:
                pause = min(self._waiting.values(), default=inf) - time.monotonic()
                if not self._notes and pause > 0:
                    self._wake.clear()
                    try:
                        async with asyncio.timeout(min(pause, 60.0)):
                            await self._wake.wait()
                    except TimeoutError:
                        pass
                    continue
                if not await self._write_once():
                    await asyncio.sleep(RETRY_AFTER_SECONDS)
            except Exception:
                logger.exception("Writing statuses failed; it goes on")
                await asyncio.sleep(RETRY_AFTER_SECONDS)

    async def flush(self, deadline_seconds: float) -> None:
        """Write everything that waits, as far as the deadline allows: for a graceful stop."""
        try:
            async with asyncio.timeout(deadline_seconds):
                self._waiting = dict.fromkeys(self._waiting, -inf)
                await self._write_once()
        except TimeoutError:
            logger.warning("Some statuses were not written before the stop")

    def _due(self, key: ObjectKey, status: Mapping[str, Any]) -> float:
        """Return when this status should be written: at once when something that matters changed."""
        if key not in self._written:
            return -inf
        written_at, written = self._written[key]
        if written != _digest(_still(status)):
            return -inf
        crowd = len(self._waiting) if key.kind != ServingPool.NAMES.kind else 0
        return written_at + max(NUMBERS_EVERY_SECONDS, crowd / NUMBERS_A_SECOND)

    async def _write_once(self) -> bool:
        now = time.monotonic()
        due = [key for key, when in self._waiting.items() if when <= now]
        gate = asyncio.Semaphore(WRITES_AT_ONCE)

        async def write(key: ObjectKey) -> bool:
            async with gate:
                return await self._write_status(key)

        worked = all(await asyncio.gather(*(write(key) for key in due)))
        while self._notes and worked:
            note = self._notes.popleft()
            worked = await self._write_note(note)
            if not worked and len(self._notes) < EVENTS_KEPT:
                self._notes.appendleft(note)
        if worked:
            self._failing = False
        return worked

    async def _write_status(self, key: ObjectKey) -> bool:
        status = self._wanted.get(key)
        if status is None:
            return True
        try:
            await self._cluster.patch_status(key.kind, key.namespace, key.name, status, uid=key.uid)
            self._metrics.status_writes.inc()
        except (NotFound, Conflict):
            # Gone, or another object of that name: its own pass will say what its status is.
            self.forget(key)
            return True
        except Refused as error:
            # Trying the same again does not help; a status that changed is tried again.
            self._complain(f"The status of {key.kind} {key.namespace}/{key.name}", error)
            self._is_written(key, status)
            return True
        except KubernetesError as error:
            self._complain(f"The status of {key.kind} {key.namespace}/{key.name}", error)
            return False
        self._is_written(key, status)
        return True

    def _is_written(self, key: ObjectKey, status: Mapping[str, Any]) -> None:
        newest = self._wanted.get(key)
        if newest is None:
            return  # it was let go meanwhile
        self._written[key] = (time.monotonic(), _digest(_still(status)))
        if newest is status:
            del self._wanted[key]
            self._waiting.pop(key, None)
        else:
            self._waiting[key] = self._due(key, newest)

    async def _write_note(self, note: Note) -> bool:
        about = note.about
        try:
            await self._cluster.create_event(
                kind=about.kind,
                namespace=about.namespace,
                name=about.name,
                uid=about.uid,
                reason=note.reason,
                note=note.sentence,
                warning=note.warning,
            )
        except (NotFound, Conflict):
            return True
        except Refused as error:
            self._complain("An event", error)
            return True
        except KubernetesError as error:
            self._complain("An event", error)
            return False
        return True

    def _complain(self, what: str, error: KubernetesError) -> None:
        self._metrics.status_failures.inc()
        if not self._failing:
            then = "it is left out until it changes" if isinstance(error, Refused) else "it is tried again"
            logger.warning("%s could not be written, %s: %s", what, then, error)
        self._failing = True


def _digest(value: Any) -> bytes:
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).digest()


def _still(value: Any) -> Any:
    """The part of a status whose change is worth a write at once."""
    if isinstance(value, Mapping):
        return {key: _still(part) for key, part in value.items() if key not in _MOVING}
    if isinstance(value, list | tuple):
        return [_still(part) for part in value]
    return value
