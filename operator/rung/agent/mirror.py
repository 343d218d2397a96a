"""Keeps the disk as close to the repository as the budget allows: one download at a time, most wanted first."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.adapters.agent import VersionState
from rung.adapters.s3 import Corrupt, ModelRepository, RepositoryError
from rung.agent.catalogue import Catalogue, reason_of
from rung.agent.folder import ModelFolder, Record
from rung.agent.placement import Placement, VersionKey, place
from rung.core.repository_layout import model_key

log = logging.getLogger(__name__)

LoadedVersions = Callable[[], Awaitable[frozenset[VersionKey] | None]]
"""Asks Triton which versions it has loaded, or is loading or unloading; None when it doesn't answer."""


@dataclass(frozen=True, slots=True)
class RetryDelays:
    """How long to wait after a failed attempt: `first_seconds`, doubled each time, up to `longest_seconds`."""

    first_seconds: float = 5.0
    longest_seconds: float = 300.0

    def after(self, failures: int) -> float:
        """Seconds to wait after that many failures in a row."""
        return min(self.first_seconds * 2.0 ** min(failures, 30), self.longest_seconds)


class Preempted(Exception):  # noqa: N818 - not an error
    """Something more wanted came up; what was downloaded so far stays for later."""


class Mirror:
    """Downloads, verifies, publishes and evicts. The only one that changes what is installed."""

    def __init__(
        self,
        catalogue: Catalogue,
        repository: ModelRepository,
        folder: ModelFolder,
        loaded_versions: LoadedVersions,
        retry: RetryDelays,
    ) -> None:
        self._catalogue = catalogue
        self._repository = repository
        self._folder = folder
        self._loaded_versions = loaded_versions
        self._retry = retry
        self._stopping = False
        self.changed = asyncio.Event()
        """Set it when the catalogue or what is wanted changed."""
        self.doubtful = asyncio.Event()
        """Set when the repository failed during a download, so that it is asked at once whether it is still there."""

    def stop(self) -> None:
        """Make hashing threads end soon; the tasks themselves are cancelled by their owner."""
        self._stopping = True

    async def take_stock(self, beat: Callable[[], None]) -> None:
        """Verify what an earlier run left on the disk; files that changed since are taken away."""
        for key, version in sorted(self._catalogue.versions.items()):
            if not version.installed or version.record is None:
                continue
            try:
                fault = await asyncio.to_thread(self._folder.verify, key, version.record, self._going(beat))
            except OSError as error:
                fault = str(error)
            if self._stopping:
                return
            if fault:
                version.installed = False
                await asyncio.to_thread(self._folder.withdraw, key)
                self._fail(key, "corrupt_on_disk", VersionState.CORRUPT, f"{fault}; taken away, to be fetched again")
            else:
                version.state, version.message = VersionState.AVAILABLE, ""
        if verified := self._available():
            log.info("%d versions on the disk are verified", len(verified))

    async def step(self, beat: Callable[[], None]) -> bool:
        """Do the one most useful thing. Returns False when there is nothing to do until something changes."""
        placement = await self._place()
        for key in placement.evict:
            beat()
            await self._evict(key)
        self._explain_no_room(placement)
        if placement.download is None:
            return False
        await self._fetch(placement.download, beat)
        return True

    async def _place(self) -> Placement:
        catalogue = self._catalogue
        candidates = catalogue.candidates()
        installed = frozenset(candidate.key for candidate in candidates if candidate.installed)
        # Nothing may go unless Triton itself says that it isn't using it, so first see whether anything has to.
        careful = place(candidates, catalogue.wanted, installed, catalogue.budget_bytes)
        if not careful.no_room and catalogue.used_bytes() <= catalogue.budget_bytes:
            return careful
        loaded = await self._loaded_versions()
        if loaded is None:
            return careful
        return place(catalogue.candidates(), catalogue.wanted, loaded, catalogue.budget_bytes)

    async def _evict(self, key: VersionKey) -> None:
        version = self._catalogue.versions[key]
        version.installed = False
        version.state, version.message = VersionState.EVICTED, "its room was needed for what is wanted more"
        log.info("version %s/%d is evicted", *key)
        await asyncio.to_thread(self._folder.withdraw, key)

    def _explain_no_room(self, placement: Placement) -> None:
        used_bytes = self._catalogue.used_bytes()
        for key in placement.no_room:
            version = self._catalogue.versions[key]
            if version.record is not None and version.state in (VersionState.PENDING, VersionState.EVICTED):
                version.message = (
                    f"no room: it takes {version.record.size_bytes} bytes, {used_bytes} of "
                    f"{self._catalogue.budget_bytes} are taken by what is wanted more or loaded"
                )

    async def _fetch(self, key: VersionKey, beat: Callable[[], None]) -> None:
        version = self._catalogue.versions[key]
        record = version.record
        assert record is not None
        version.state, version.message = VersionState.DOWNLOADING, ""
        try:
            if await asyncio.to_thread(self._folder.occupied, key):
                await self._adopt(key, record, beat)
            else:
                await self._download(key, record, beat)
        except Preempted:
            version.state, version.message = VersionState.PENDING, "put off for what is wanted more"
        except Corrupt as error:
            self._fail(key, "corrupt", VersionState.CORRUPT, str(error))
        except RepositoryError as error:
            self._fail(key, reason_of(error), VersionState.PENDING, str(error))
            self.doubtful.set()
        except OSError as error:
            await self._disk_failed(key, record, error)
        else:
            version.installed = True
            version.state, version.message = VersionState.AVAILABLE, ""
            version.failures, version.suspect = 0, False
            log.info("version %s/%d is Available (%d bytes)", *key, record.size_bytes)
        finally:
            if version.state is VersionState.DOWNLOADING:
                version.state = VersionState.PENDING

    async def _adopt(self, key: VersionKey, record: Record, beat: Callable[[], None]) -> None:
        """Something stands where the version belongs, and the agent has no record of it."""
        if await asyncio.to_thread(lambda: self._folder.model_path(key).is_file()):
            fault = await asyncio.to_thread(self._folder.verify, key, record, self._going(beat))
        else:
            fault = f"{self._folder.model_path(key).parent} holds other files"
        if fault:
            raise Corrupt(f"{fault}; the agent did not put it there: remove it by hand")
        await asyncio.to_thread(self._folder.adopt, key, record)

    async def _download(self, key: VersionKey, record: Record, beat: Callable[[], None]) -> None:
        partial = self._folder.partial_path(key, record)
        await asyncio.to_thread(self._make_room, partial, record)
        sha256, resumed = await self._stream(key, record, partial, beat)
        if sha256 != record.sha256 and resumed:
            # The part from before may be what is bad: once more, from the start, before anyone is blamed.
            await asyncio.to_thread(partial.unlink)
            sha256, _ = await self._stream(key, record, partial, beat)
        if sha256 != record.sha256:
            await asyncio.to_thread(partial.unlink)
            raise Corrupt(f"{model_key(*key)} has sha256 {sha256}, expected {record.sha256}")
        await asyncio.to_thread(self._folder.publish, key, record, partial)

    def _make_room(self, partial: Path, record: Record) -> None:
        """Drop other unfinished downloads if they'd pass the budget together, and one that can't be right."""
        others = {path: size for path, size in self._folder.partials().items() if path != partial}
        free_bytes = self._catalogue.budget_bytes - self._catalogue.used_bytes() - record.size_bytes
        for path, size in sorted(others.items(), key=lambda item: item[0].stat().st_mtime):
            if sum(others.values()) <= free_bytes:
                break
            path.unlink()
            others[path] -= size
        if partial.exists() and partial.stat().st_size >= record.size_bytes:
            partial.unlink()

    async def _stream(
        self, key: VersionKey, record: Record, partial: Path, beat: Callable[[], None]
    ) -> tuple[str, bool]:
        """Download what is missing. Returns the sha256 of the whole and whether a part was there before."""
        digest = await asyncio.to_thread(self._folder.hash_partial, partial, self._going(beat))
        version = self._catalogue.versions[key]
        # Unbuffered, so that a full volume is met in the thread that writes, and at the byte where it happened.
        with await asyncio.to_thread(partial.open, "ab", buffering=0) as file:
            offset = done = file.tell()
            async for chunk in self._repository.download(model_key(*key), offset=offset):
                beat()
                done += len(chunk)
                if done > record.size_bytes:
                    break
                await asyncio.to_thread(_append, file, digest, chunk)
                self._catalogue.bytes_total += len(chunk)
                version.message = f"{done} of {record.size_bytes} bytes"
                self._let_others_pass(key)
        if done != record.size_bytes:
            await asyncio.to_thread(partial.unlink)
            raise Corrupt(f"{model_key(*key)} gave {done} bytes, version.yaml declares {record.size_bytes}")
        return digest.hexdigest(), offset > 0

    def _let_others_pass(self, key: VersionKey) -> None:
        if not self.changed.is_set():
            return
        self.changed.clear()
        catalogue = self._catalogue
        candidates = catalogue.candidates()
        installed = frozenset(candidate.key for candidate in candidates if candidate.installed)
        first = place(candidates, catalogue.wanted, installed, catalogue.budget_bytes).download
        if first != key:
            self.changed.set()
            raise Preempted

    async def _disk_failed(self, key: VersionKey, record: Record, error: OSError) -> None:
        if isinstance(error, InterruptedError):
            return
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full:
            # What is half there only keeps others from their room.
            await asyncio.to_thread(self._folder.partial_path(key, record).unlink, missing_ok=True)
        what = "the volume is full" if full else "the volume can't be used"
        self._fail(key, "disk_full" if full else "disk", VersionState.PENDING, f"{what}: {error}")

    def _fail(self, key: VersionKey, reason: str, state: VersionState, message: str) -> None:
        delay = self._retry.after(self._catalogue.versions[key].failures)
        self._catalogue.failed(key, reason, state, message, delay)

    def _available(self) -> list[VersionKey]:
        return [key for key, version in self._catalogue.versions.items() if version.state is VersionState.AVAILABLE]

    def _going(self, beat: Callable[[], None]) -> Callable[[], bool]:
        def going() -> bool:
            beat()
            return not self._stopping

        return going

    def seconds_to_next_retry(self, longest_seconds: float) -> float:
        """How long nothing will become ready by itself, at most `longest_seconds`."""
        now = time.monotonic()
        waits = [version.retry_at - now for version in self._catalogue.versions.values() if version.retry_at > now]
        return max(0.05, min([longest_seconds, *waits]))


def _append(file: Any, digest: Any, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]
    digest.update(chunk)
