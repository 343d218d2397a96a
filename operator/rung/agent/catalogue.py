"""What the agent knows of every task and version: from the repository, from the disk, from its own attempts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rung.adapters.agent import (
    DiskInventory,
    Inventory,
    MemoryInventory,
    RepositoryInventory,
    TaskInventory,
    VersionInventory,
    VersionState,
)
from rung.adapters.s3 import Corrupt, Denied, Listing, ModelRepository, NotFound, RepositoryError, Unreachable
from rung.adapters.triton import Refused, parse_config
from rung.agent.folder import ModelFolder, Record
from rung.agent.placement import Candidate, VersionKey
from rung.core.repository_layout import config_key, model_key, version_key

log = logging.getLogger(__name__)

T = TypeVar("T")
READERS = 8
"""Small files that are read at the same time: a repository of thousands is known within seconds, over any line."""
MOST_UNANSWERED = 3
"""Small files that may go unanswered before the rest is left for the next time."""


@dataclass
class Version:
    """One version: what its files have to be, where they are, how the last attempt went."""

    record: Record | None = None
    state: VersionState = VersionState.PENDING
    message: str = ""
    installed: bool = False
    listed: bool = False
    suspect: bool = False
    failures: int = 0
    retry_at: float = 0.0
    """On the monotonic clock, in seconds."""
    fault: str = ""
    """Why `version.yaml`, or the model as it is listed, can't be used; it is not tried until they change."""
    fingerprint: str = ""
    """Of the listed `version.yaml` and `model.onnx` that were looked at last."""


@dataclass
class Task:
    """One task's config."""

    config: str = ""
    fault: str = ""
    fingerprint: str = ""


@dataclass
class Catalogue:
    """Everything known. Changed on the event loop only."""

    budget_bytes: int
    memory_limit_bytes: int | None = None
    tasks: dict[str, Task] = field(default_factory=dict)
    versions: dict[VersionKey, Version] = field(default_factory=dict)
    wanted: Mapping[str, Sequence[int]] = field(default_factory=dict)
    reachable: bool = False
    last_contact_seconds: float | None = None
    repository_message: str = "not asked yet"
    ignored: tuple[str, ...] = ()
    memory_used_bytes: int = 0
    memory_measured_monotonic: float | None = None
    bytes_total: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def inventory(self) -> Inventory:
        """The document of `GET /v1/inventory`."""
        measured = self.memory_measured_monotonic
        return Inventory(
            tasks=self._tasks_inventory(),
            repository=RepositoryInventory(
                reachable=self.reachable, last_contact=self.last_contact_seconds, message=self._message()
            ),
            memory=MemoryInventory(
                limit_bytes=self.memory_limit_bytes,
                used_bytes=self.memory_used_bytes,
                age_seconds=None if measured is None else round(time.monotonic() - measured, 3),
            ),
            disk=DiskInventory(budget_bytes=self.budget_bytes, used_bytes=self.used_bytes()),
        )

    def used_bytes(self) -> int:
        """What the versions on the disk take."""
        return sum(
            version.record.size_bytes for version in self.versions.values() if version.installed and version.record
        )

    def candidates(self) -> list[Candidate]:
        """Every version that is on the disk or could be."""
        now = time.monotonic()
        return [
            Candidate(
                key=key,
                size_bytes=version.record.size_bytes,
                installed=version.installed,
                ready=self.reachable
                and version.listed
                and not version.fault
                and version.retry_at <= now
                and bool(self.tasks.get(key[0], Task()).config),
                suspect=version.suspect,
                listed=version.listed or not self.reachable,
            )
            for key, version in self.versions.items()
            if version.record is not None
        ]

    def add_installed(self, records: Mapping[VersionKey, Record], configs: Mapping[str, str]) -> None:
        """Take in what an earlier run left on the disk; its versions are Pending until they are verified again."""
        for key, record in records.items():
            self.versions[key] = Version(record=record, installed=True, message="is being verified")
        for name, config in configs.items():
            self.tasks[name] = Task(config=config)

    def failed(self, key: VersionKey, reason: str, state: VersionState, message: str, retry_seconds: float) -> None:
        """Note a failed attempt; the next one waits `retry_seconds`."""
        version = self.versions[key]
        version.failures += 1
        version.retry_at = time.monotonic() + retry_seconds
        version.state, version.message = state, f"{message}; next attempt in {retry_seconds:.0f} s"
        version.suspect = state is VersionState.CORRUPT
        self.failures[reason] += 1
        log.warning("version %s/%d is %s: %s", *key, state, version.message)

    def _tasks_inventory(self) -> dict[str, TaskInventory]:
        versions: dict[str, dict[int, VersionInventory]] = {name: {} for name in self.tasks}
        for (name, number), version in sorted(self.versions.items()):
            versions.setdefault(name, {})[number] = VersionInventory(
                state=version.state,
                size_bytes=version.record.size_bytes if version.record else 0,
                sha256=version.record.sha256 if version.record else "",
                message=version.message,
            )
        return {
            name: TaskInventory(config=self.tasks.get(name, Task()).config, versions=versions[name])
            for name in sorted(versions)
        }

    def _message(self) -> str:
        faults = [task.fault for task in self.tasks.values() if task.fault]
        if self.ignored:
            faults.append(f"ignored, because it is not part of the layout: {', '.join(self.ignored[:3])}")
        return "; ".join([*([self.repository_message] if self.repository_message else []), *faults[:5]])


class CatalogueReader:
    """Brings a catalogue up to date with the repository."""

    def __init__(self, catalogue: Catalogue, repository: ModelRepository, folder: ModelFolder) -> None:
        self._catalogue = catalogue
        self._repository = repository
        self._folder = folder
        self._readers = asyncio.Semaphore(READERS)
        self._unanswered = 0

    async def refresh(self, beat: Callable[[], None]) -> None:
        """List the repository once and read what is new. What can't be reached leaves everything as it was."""
        catalogue = self._catalogue
        try:
            listing = await self._repository.list_objects()
        except RepositoryError as error:
            if catalogue.reachable or catalogue.repository_message != str(error):
                log.warning("the repository can't be used: %s", error)
            catalogue.reachable, catalogue.repository_message = False, str(error)
            catalogue.failures[reason_of(error)] += 1
            return
        self._note_contact(listing)
        self._forget_unlisted(listing)
        self._unanswered = 0
        await asyncio.gather(*(self._refresh_task(task, listing, beat) for task in listing.tasks()))

    def _note_contact(self, listing: Listing) -> None:
        catalogue = self._catalogue
        if not catalogue.reachable:
            log.info("the repository %s is reachable", self._repository.uri)
            for version in catalogue.versions.values():
                if not version.suspect:
                    version.failures, version.retry_at = 0, 0.0
        if set(listing.ignored) - set(catalogue.ignored):
            log.warning("ignored, because it is not part of the layout: %s", ", ".join(listing.ignored[:10]))
        catalogue.reachable, catalogue.repository_message = True, ""
        catalogue.last_contact_seconds = time.time()
        catalogue.ignored = listing.ignored

    def _forget_unlisted(self, listing: Listing) -> None:
        catalogue = self._catalogue
        for key, version in [*catalogue.versions.items()]:
            version.listed = version_key(*key) in listing.objects
            # One that is being downloaded is still in the mirror's hands: the next listing finds it.
            if not version.listed and not version.installed and version.state is not VersionState.DOWNLOADING:
                del catalogue.versions[key]
            elif not version.listed and version.state is VersionState.AVAILABLE:
                version.message = "no longer in the repository; kept until its room is needed"
        with_versions = {task for task, _ in catalogue.versions}
        for name in [*catalogue.tasks]:
            if name not in with_versions and config_key(name) not in listing.objects:
                del catalogue.tasks[name]

    async def _refresh_task(self, name: str, listing: Listing, beat: Callable[[], None]) -> None:
        task = self._catalogue.tasks.setdefault(name, Task())
        await self._refresh_config(name, task, listing)
        beat()
        await asyncio.gather(*(self._refresh_version((name, number), listing) for number in listing.versions(name)))
        beat()

    async def _refresh_config(self, name: str, task: Task, listing: Listing) -> None:
        key = config_key(name)
        info = listing.objects.get(key)
        if info is None:
            task.fault, task.fingerprint = f"{key} is missing: the task can't be served", ""
            return
        if info.fingerprint == task.fingerprint:
            return
        try:
            text = await self._read(self._repository.read_text, key)
            _check_config(name, text)
            if text != task.config:
                await asyncio.to_thread(self._folder.write_config, name, text)
        except (Corrupt, NotFound, Refused) as error:
            task.fault, task.fingerprint = f"{key}: {error}", info.fingerprint
        except (RepositoryError, OSError) as error:
            task.fault = f"{key}: {error}"
        else:
            task.config, task.fault, task.fingerprint = text, "", info.fingerprint
            return
        self._catalogue.failures["config"] += 1
        log.warning("config of %s not taken over: %s", name, task.fault)

    async def _refresh_version(self, key: VersionKey, listing: Listing) -> None:
        version = self._catalogue.versions.setdefault(key, Version())
        version.listed = True
        if version.state is VersionState.DOWNLOADING:
            return  # what it has to be must not change under the mirror's hands
        model = listing.objects.get(model_key(*key))
        fingerprint = f"{listing.objects[version_key(*key)].fingerprint} {model.fingerprint if model else None}"
        if fingerprint != version.fingerprint:
            await self._reread(key, version, fingerprint, model.size_bytes if model else None)
        self._explain_waiting(key, version)

    async def _reread(self, key: VersionKey, version: Version, fingerprint: str, listed_bytes: int | None) -> None:
        try:
            record = await self._read(self._repository.read_version_document, *key)
        except (Corrupt, NotFound) as error:
            self._unusable(key, version, str(error))
        except RepositoryError as error:
            # Not its own fault, so it is asked for again with the next listing.
            version.message = str(error)
            self._catalogue.failures[reason_of(error)] += 1
            return
        else:
            self._take_over(key, version, Record(record.sha256, record.size_bytes), listed_bytes)
        version.fingerprint = fingerprint

    async def _read(self, read: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Read one file, a few at a time; a repository that stopped answering is not asked for all of them."""
        async with self._readers:
            if self._unanswered >= MOST_UNANSWERED:
                raise Unreachable("the repository stopped answering")
            try:
                return await read(*arguments)
            except Unreachable:
                self._unanswered += 1
                raise

    def _take_over(self, key: VersionKey, version: Version, declared: Record, listed_bytes: int | None) -> None:
        if version.installed and version.record is not None:
            version.message = ""
            if declared != version.record:
                version.message = (
                    f"version.yaml now declares sha256 {declared.sha256}: not followed, because a version "
                    "is never overwritten; publish it under a new number"
                )
            return
        version.record, version.failures, version.retry_at = declared, 0, 0.0
        version.fault, version.state, version.message = "", VersionState.PENDING, ""
        if listed_bytes is None:
            self._unusable(key, version, f"{model_key(*key)} is missing, though version.yaml is there")
        elif listed_bytes != declared.size_bytes:
            self._unusable(
                key, version, f"{model_key(*key)} has {listed_bytes} bytes, version.yaml declares {declared.size_bytes}"
            )

    def _unusable(self, key: VersionKey, version: Version, fault: str) -> None:
        self._catalogue.failures["document"] += 1
        if version.installed:
            version.message = f"{fault}; the verified files here stay"
            return
        version.fault, version.state, version.message = fault, VersionState.CORRUPT, fault
        log.warning("version %s/%d is Corrupt: %s", *key, fault)

    def _explain_waiting(self, key: VersionKey, version: Version) -> None:
        task = self._catalogue.tasks[key[0]]
        if version.state is VersionState.PENDING and not task.config:
            version.message = f"waits for its config: {task.fault}"


def _check_config(name: str, text: str) -> None:
    try:
        config = parse_config(text)
    except RecursionError:
        raise Refused("it is nested too deeply") from None
    if config.name not in ("", name):
        raise Refused(f"it names the model {config.name!r}: it has to be {name!r}, or to name none")


def reason_of(error: RepositoryError) -> str:
    """The `reason` label of a repository's fault."""
    return {Corrupt: "corrupt", Denied: "denied", NotFound: "not_found"}.get(type(error), "unreachable")
