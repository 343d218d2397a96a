"""The model repository in S3: list, read, download, publish. Nothing in it is ever overwritten.

Every call has a deadline and a bounded number of retries, and raises only `RepositoryError`s, whose messages are for
people. What a bucket holds is not trusted: keys outside the layout are ignored, files have a largest size, YAML is
read without aliases or tags.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from rung.adapters.repository_documents import VersionRecord, parse_version_document, parse_yaml_mapping
from rung.adapters.repository_errors import (
    AlreadyExists,
    Corrupt,
    Denied,
    NotFound,
    RepositoryError,
    Unreachable,
    translated,
)
from rung.core.repository_layout import (
    FileKind,
    RepositoryKey,
    RepositoryUri,
    config_key,
    newest_profiles,
    parse_key,
    parse_repository_uri,
    version_key,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

__all__ = [
    "AlreadyExists",
    "Corrupt",
    "Denied",
    "Listing",
    "ModelRepository",
    "NotFound",
    "ObjectInfo",
    "RepositoryError",
    "Unreachable",
    "VersionRecord",
]

LARGEST_TEXT_BYTES = 1 << 20
"""No config.pbtxt, version.yaml or profile is this big; one that is has been tampered with or is misplaced."""
LARGEST_LISTING = 100_000
CHUNK_BYTES = 1 << 16
"""What has to arrive before a download has moved. Less than this is lost when its time is up, so it is little: at
the default deadlines a line of 3 kB/s gets on."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing. `fingerprint` changes when the object is replaced."""

    size_bytes: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Every file of the layout, and some of the keys that belong to something else. Keys are relative to the prefix."""

    objects: Mapping[str, ObjectInfo]
    """By key."""
    files: Mapping[str, Mapping[str, RepositoryKey]]
    """The same keys taken apart, by task: a repository of thousands is gone through once, not once for each task."""
    ignored: tuple[str, ...] = ()
    """At most a hundred of the keys that are not part of the layout."""

    def tasks(self) -> list[str]:
        """Names of the tasks that have a config or a version, sorted."""
        named_by = (FileKind.CONFIG, FileKind.VERSION)
        return sorted(task for task, files in self.files.items() if any(key.kind in named_by for key in files.values()))

    def versions(self, task: str) -> list[int]:
        """Numbers of the versions of a task that exist (those with a `version.yaml`), ascending."""
        versions = (key for key in self.files.get(task, {}).values() if key.kind is FileKind.VERSION)
        return sorted(key.number for key in versions if key.number is not None)

    def profiles(self, task: str, number: int) -> dict[str, str]:
        """The newest profile of each hardware class of one version: `{class: key}`."""
        return newest_profiles(key for key, file in self.files.get(task, {}).items() if file.number == number)


class ModelRepository:
    """One model repository. Cheap to make: it does no I/O before the first call.

    Args:
        uri: `s3://BUCKET/PREFIX`.
        endpoint: `http(s)://HOST:PORT` of an S3 that is not AWS, path style; else AWS_ENDPOINT_URL, else AWS.
        access_key_id: with `secret_access_key`; else whatever the AWS_* environment gives.
        secret_access_key: see above.
        session_token: for temporary credentials.
        region: else AWS_REGION, else us-east-1.
        anonymous: don't sign requests (public buckets).
        deadline_seconds: for each call but downloads and uploads, retries included.
        stall_seconds: a download or upload that moves nothing for this long is given up.

    Raises:
        ValueError: the URI or the endpoint is malformed.
    """

    def __init__(
        self,
        uri: str,
        *,
        endpoint: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        region: str | None = None,
        anonymous: bool = False,
        deadline_seconds: float = 10.0,
        stall_seconds: float = 15.0,
    ) -> None:
        self.uri: RepositoryUri = parse_repository_uri(uri)
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint is not None and not re.fullmatch(r"https?://[^/\s]+/?", endpoint):
            raise ValueError(f"{endpoint!r} is not an S3 endpoint: give http(s)://HOST:PORT")
        self._deadline_seconds = deadline_seconds
        self._stall_seconds = stall_seconds
        config: S3Config = {"virtual_hosted_style_request": False, "skip_signature": anonymous}
        for name, value in (
            ("aws_endpoint_url_s3", endpoint and endpoint.rstrip("/")),
            ("access_key_id", access_key_id),
            ("secret_access_key", secret_access_key),
            ("session_token", session_token),
            ("region", region),
        ):
            if value:
                config[name] = value  # type: ignore[literal-required]
        retry: RetryConfig = {
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=deadline_seconds),
            "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
        }
        client: ClientConfig = {
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=min(5.0, deadline_seconds)),
        }
        small: ClientConfig = {**client, "timeout": timedelta(seconds=deadline_seconds)}
        # A model may take an hour over a thin line: what is bounded is the time without a single byte.
        large: ClientConfig = {
            **client,
            "read_timeout": timedelta(seconds=stall_seconds),
            "timeout": timedelta(hours=24),
        }
        self._small = S3Store(self.uri.bucket, config=config, client_options=small, retry_config=retry)
        self._large = S3Store(self.uri.bucket, config=config, client_options=large, retry_config=retry)

    async def list_objects(self) -> Listing:
        """List the whole repository: one request for every thousand objects.

        Raises:
            RepositoryError: Unreachable, NotFound (the bucket), Denied, or Corrupt (over 100,000 objects).
        """
        objects: dict[str, ObjectInfo] = {}
        files: dict[str, dict[str, RepositoryKey]] = {}
        ignored: list[str] = []
        prefix = self.uri.prefix
        async with self._errors("", self._deadline_seconds):
            async for chunk in obstore.list(self._small, f"{prefix}/" if prefix else None, chunk_size=1000):
                for meta in chunk:
                    key = meta["path"].removeprefix(f"{prefix}/") if prefix else meta["path"]
                    parsed = parse_key(key)
                    if parsed is not None:
                        files.setdefault(parsed.task, {})[key] = parsed
                        stamp = f"{meta['e_tag']} {meta['size']} {meta['last_modified'].isoformat()}"
                        objects[key] = ObjectInfo(meta["size"], stamp)
                    elif len(ignored) < 100:
                        ignored.append(key)
                if len(objects) > LARGEST_LISTING:
                    raise Corrupt(f"{self.uri} holds over {LARGEST_LISTING} files: give the repository its own prefix")
        return Listing(objects, files, tuple(ignored))

    async def list_tasks(self) -> list[str]:
        """Names of the tasks that have a config or a version, sorted."""
        return (await self.list_objects()).tasks()

    async def list_versions(self, task: str) -> list[int]:
        """Numbers of the versions of a task that exist (those with a `version.yaml`), ascending."""
        return (await self.list_objects()).versions(task)

    async def read_config(self, task: str) -> str:
        """The text of a task's `config.pbtxt`."""
        return await self.read_text(config_key(task))

    async def read_version(self, task: str, number: int, listing: Listing | None = None) -> VersionRecord:
        """Read one version with the newest profile of each hardware class.

        Args:
            task: its folder.
            number: its folder.
            listing: a listing made just now, to save making one.

        Raises:
            RepositoryError: NotFound when there is no `version.yaml`; Corrupt, naming the file, when it or a profile
                can't be read; Unreachable; Denied.
        """
        record = await self.read_version_document(task, number)
        listing = listing or await self.list_objects()
        keys = listing.profiles(task, number).values()
        texts = {key: await self.read_text(key) for key in keys}
        profiles = [await asyncio.to_thread(parse_yaml_mapping, key, text) for key, text in texts.items()]
        return replace(record, spec={**record.spec, "profiles": profiles})

    async def read_version_document(self, task: str, number: int) -> VersionRecord:
        """Read `version.yaml` alone: without the profiles.

        Raises:
            RepositoryError: as `read_version`.
        """
        key = version_key(task, number)
        text = await self.read_text(key)
        return await asyncio.to_thread(parse_version_document, key, task, number, text)

    async def read_text(self, key: str) -> str:
        """Read a small text object.

        Raises:
            RepositoryError: Corrupt when it isn't UTF-8 or is over a mebibyte; Unreachable; NotFound; Denied.
        """
        async with self._errors(key, self._deadline_seconds):
            result = await obstore.get_async(self._small, self.uri.full_key(key))
            if result.meta["size"] > LARGEST_TEXT_BYTES:
                raise Corrupt(f"{key} has {result.meta['size']} bytes: over the limit of {LARGEST_TEXT_BYTES}")
            content = bytes(await result.bytes_async())
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise Corrupt(f"{key} is not UTF-8 text") from None

    async def size_bytes(self, key: str) -> int:
        """The size of one object in bytes.

        Raises:
            RepositoryError: Unreachable, NotFound, Denied.
        """
        async with self._errors(key, self._deadline_seconds):
            return int((await obstore.head_async(self._small, self.uri.full_key(key)))["size"])

    async def download(self, key: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        """Stream one object, from a byte offset below its size on, in chunks of 64 KiB or a little more.

        Raises:
            RepositoryError: Unreachable when nothing arrives for `stall_seconds`, or no whole chunk within that and
                `deadline_seconds` (the chunks before are good: go on from there); NotFound; Denied; Corrupt when the
                offset lies behind the end.
        """
        async with self._errors(key, self._deadline_seconds):
            options: obstore.GetOptions = {"range": {"offset": offset}} if offset else {}
            result = await obstore.get_async(self._large, self.uri.full_key(key), options=options)
        stream = result.stream(min_chunk_size=CHUNK_BYTES)
        while True:
            async with self._errors(key, self._stall_seconds + self._deadline_seconds):
                try:
                    chunk = await anext(stream)
                except StopAsyncIteration:
                    return
            yield bytes(chunk)

    async def put_if_absent(self, key: str, content: bytes | Path) -> bool:
        """Publish an object unless it is there already.

        Args:
            key: relative to the prefix.
            content: the bytes, or the file that holds them (read into memory).

        Returns:
            True when it was written, False when the same content was there.

        Raises:
            RepositoryError: AlreadyExists when other content is there; Unreachable; NotFound (the bucket); Denied.
        """
        data = await asyncio.to_thread(content.read_bytes) if isinstance(content, Path) else content
        if await self._is_there(key, data):
            return False
        # A mebibyte a second is the slowest line that is still taken to move.
        deadline_seconds = self._deadline_seconds + self._stall_seconds + len(data) / (1 << 20)
        try:
            async with self._errors(key, deadline_seconds):
                await obstore.put_async(self._large, self.uri.full_key(key), data, mode="create", use_multipart=False)
        except AlreadyExists:
            # Someone else was quicker.
            if await self._is_there(key, data):
                return False
            raise
        return True

    async def _is_there(self, key: str, data: bytes) -> bool:
        """Whether the object is there with this content. Raises AlreadyExists when it has other content.

        Asked before an upload: a server that refuses one half way cuts the line, and some tunnels don't survive that.
        """
        try:
            size_bytes = await self.size_bytes(key)
        except NotFound:
            return False
        digest = hashlib.sha256()
        if size_bytes == len(data):
            async for chunk in self.download(key):
                digest.update(chunk)
        if size_bytes != len(data) or digest.digest() != hashlib.sha256(data).digest():
            raise AlreadyExists(
                f"{self.uri.uri_of(key)} exists already with other content: nothing is ever overwritten"
            )
        return True

    @asynccontextmanager
    async def _errors(self, key: str, deadline_seconds: float) -> AsyncIterator[None]:
        """A deadline, and every fault as one of ours."""
        what = self.uri.uri_of(key) if key else str(self.uri)
        try:
            async with asyncio.timeout(deadline_seconds):
                yield
        except TimeoutError:
            raise Unreachable(f"{what}: no answer within {deadline_seconds:g} s") from None
        except (BaseError, OSError, ValueError) as error:
            raise translated(what, error) from error
