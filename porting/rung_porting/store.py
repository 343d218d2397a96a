"""Results of stages, kept under the digest of everything that made them: what was done once is never done again.

An entry is a folder that appears by one rename, with the SHA-256 of each file in it. An entry that was damaged later
is thrown away and made again, so nothing corrupt ever goes on to the next stage.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung_porting.errors import PortingError, StoreError

Result = Mapping[str, Any]
Build = Callable[[Path, Path], Result]
"""Makes an entry; see `Store.make`."""
ENTRY_FILE = "entry.json"
_LEAST_FREE_BYTES = 1 << 18
"""With less than this, a disk is taken to be full when a stage fails."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished stage: its files are in `folder`, its numbers in `result`."""

    folder: Path
    result: Result


def default_root() -> Path:
    """Return `$RUNG_CACHE/porting`, or `~/.cache/rung/porting`."""
    cache = os.environ.get("RUNG_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "rung") / "porting"


def digest_of(content: Mapping[str, Any]) -> str:
    """Return the digest under which a stage is kept: of its name, its settings, its inputs and its tools."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Missing(Exception):  # noqa: N818 - it names the state of the store
    """A stage was not made yet, and the store only looks things up."""


class Store:
    """A folder of entries. Safe to kill at any moment.

    Args:
        root: made when it isn't there.
        only_look: make nothing; `make` raises Missing instead.
    """

    def __init__(self, root: Path, *, only_look: bool = False) -> None:
        self.root = root
        self.only_look = only_look
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"the store {root} can't be made: {error.strerror}; set RUNG_CACHE") from None

    def get(self, stage: str, digest: str) -> Entry | None:
        """Return an entry, or None when it is missing or was damaged."""
        folder = self._folder(stage, digest)
        try:
            content = json.loads((folder / ENTRY_FILE).read_text(encoding="utf-8"))
            intact = all(file_sha256(folder / name) == sha256 for name, sha256 in content["files"].items())
            return Entry(folder, content["result"]) if intact else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def make(self, stage: str, digest: str, build: Build) -> Entry:
        """Return the entry, building it if need be.

        Args:
            stage: what it is called.
            digest: see `digest_of`.
            build: is given an empty folder for the results and a folder that outlives an interruption, for
                checkpoints; returns JSON-serialisable numbers, to which the `seconds` that it took are added.

        Raises:
            StoreError: the disk is full, or the store can't be written.
        """
        present = self.get(stage, digest)
        if present is not None:
            return present
        if self.only_look:
            raise Missing(f"{stage}-{digest}")
        folder = self._folder(stage, digest)
        try:
            with self._alone(folder):
                return self.get(stage, digest) or self._build(folder, build)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full() from None
            raise StoreError(f"{error.filename or self.root}: {error.strerror}") from None
        except (PortingError, RuntimeError):
            # torch and onnx have words of their own for a file that can't be written.
            if shutil.disk_usage(self.root).free < _LEAST_FREE_BYTES:
                raise self._full() from None
            raise

    def _full(self) -> StoreError:
        return StoreError(f"{self.root}: the disk is full: make room, or set RUNG_CACHE to another one")

    def _build(self, folder: Path, build: Build) -> Entry:
        unfinished = folder.with_suffix(".unfinished")
        unfinished.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=self.root))
        started = time.monotonic()
        try:
            result = {**build(temporary, unfinished), "seconds": round(time.monotonic() - started, 3)}
            files = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
            text = json.dumps({"files": files, "result": result}, indent=1)
            (temporary / ENTRY_FILE).write_text(text, encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(unfinished, ignore_errors=True)
        return Entry(folder, json.loads(text)["result"])

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """Hold the right to make one entry, waiting for who has it; the system frees it when a process ends, however.

        What a killed process left behind is thrown away.
        """
        with folder.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for abandoned in self.root.glob(f"{folder.name}.*.tmp"):
                shutil.rmtree(abandoned, ignore_errors=True)
            yield
            folder.with_suffix(".lock").unlink(missing_ok=True)

    def _folder(self, stage: str, digest: str) -> Path:
        return self.root / f"{stage}-{digest}"
