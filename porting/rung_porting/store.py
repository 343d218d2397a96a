"""Results of stages, kept under the digest of everything that made them: what was done once is never done again.

An entry is a folder that appears by one rename, with the SHA-256 of each file in it. An entry that was damaged later
is thrown away and made again, so nothing corrupt ever goes on to the next stage.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung_porting.errors import PortingError

Result = Mapping[str, Any]
_ENTRY_FILE = "entry.json"


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


class Store:
    """A folder of entries. Safe to kill at any moment.

    Args:
        root: made when it isn't there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PortingError(f"the store {root} can't be made: {error.strerror}; set RUNG_CACHE") from None

    def get(self, stage: str, digest: str) -> Entry | None:
        """Return an entry, or None when it is missing or was damaged."""
        folder = self._folder(stage, digest)
        try:
            content = json.loads((folder / _ENTRY_FILE).read_text(encoding="utf-8"))
            intact = all(file_sha256(folder / name) == sha256 for name, sha256 in content["files"].items())
            return Entry(folder, content["result"]) if intact else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def make(self, stage: str, digest: str, build: Callable[[Path, Path], Result]) -> Entry:
        """Return the entry, building it if need be.

        Args:
            stage: what it is called.
            digest: see `digest_of`.
            build: is given an empty folder for the results and a folder that outlives an interruption, for
                checkpoints; returns JSON-serialisable numbers.
        """
        present = self.get(stage, digest)
        if present is not None:
            return present
        folder = self._folder(stage, digest)
        unfinished = folder.with_suffix(".unfinished")
        unfinished.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=self.root))
        try:
            result = build(temporary, unfinished)
            files = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
            text = json.dumps({"files": files, "result": result}, indent=1)
            (temporary / _ENTRY_FILE).write_text(text, encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(unfinished, ignore_errors=True)
        return Entry(folder, json.loads(text)["result"])

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the right to work under this name; the system frees it when the process ends, however it ends.

        Raises:
            PortingError: another process holds it.
        """
        with (self.root / f"{name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PortingError(f"another rung-port is at work on {name!r} in {self.root}: wait for it") from None
            for abandoned in self.root.glob(f"{name}-*.tmp"):
                shutil.rmtree(abandoned, ignore_errors=True)
            yield

    def _folder(self, stage: str, digest: str) -> Path:
        return self.root / f"{stage}-{digest}"
