"""Where tools, wheels and images are kept: one folder outside the tree, safe to delete at any time.

Everything in it is made under a temporary name and renamed when it is complete, so an interrupted run leaves no
half-made thing behind that a later run would trust.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from rung_devcluster.progress import Progress

KEY_LENGTH = 12
LOCK_DEADLINE_SECONDS = 3600.0
TEMPORARY_PREFIX = ".making-"


def cache_folder() -> Path:
    """Return `$RUNG_CACHE`, or `~/.cache/rung` (under `$XDG_CACHE_HOME` when set); it may not exist yet."""
    if chosen := os.environ.get("RUNG_CACHE"):
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rung"


def key_of(parts: Iterable[str | bytes | Path]) -> str:
    """Return a short key of the given texts and files' contents, the same wherever the files lie.

    Each part is hashed with its length, so that no two different lists of parts run together into one.
    """
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()[:KEY_LENGTH]


@contextmanager
def making(final: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside `final`; on success it becomes `final`, on failure it is removed.

    When another process was quicker, its result is kept.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(prefix=TEMPORARY_PREFIX, dir=final.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.rename(final)
        except OSError:
            if not final.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def making_file(final: Path) -> Iterator[Path]:
    """Give the path of a temporary file beside `final`; on success it replaces `final`, on failure it is removed."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{final.name}")
    try:
        yield temporary
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what interrupted runs left in a folder and in the folders in it. Only for whoever holds its lock."""
    for path in [*folder.glob(f"{TEMPORARY_PREFIX}*"), *folder.glob(f"*/{TEMPORARY_PREFIX}*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def only_one(name: str, progress: Progress) -> Iterator[None]:
    """Let one process at a time do this; the others wait, and say so.

    The lock is gone when its process is, however that ended.

    Raises TimeoutError when the other process is not done within LOCK_DEADLINE_SECONDS.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_DEADLINE_SECONDS
    told = False
    with (folder / f".{name}.lock").open("w") as lock:
        while not _locked(lock.fileno()):
            if not told:
                progress(f"{name}: waiting for another process that is at it")
                told = True
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process still holds {lock.name} after {LOCK_DEADLINE_SECONDS:g} s")
            time.sleep(0.2)
        yield


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
