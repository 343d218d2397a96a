"""The mirrored models on disk: what Triton sees, and the agent's own corner beside it.

Triton sees `TASK/config.pbtxt` and `TASK/VERSION/model.onnx`. Everything unfinished lives in `.rung/` on the same
volume, so that publishing is one rename. It is not inside the task's folder, because Triton takes any change of a
stray entry there for a change of every version, and would reload versions that answer.

Plain blocking functions: the caller runs the long ones (`verify`, `hash_partial`, `withdraw`) in a thread.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.agent.placement import VersionKey
from rung.core.repository_layout import CONFIG_FILE, MODEL_FILE, is_task_name, parse_version_number

_HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """What a version's model file has to be."""

    sha256: str
    size_bytes: int


class ModelFolder:
    """The folder that is mounted at `/models`. The agent is its only writer.

    Raises:
        OSError: from any method, when the volume is full, read-only or gone.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        corner = root / ".rung"
        self._partials = corner / "partial"
        self._records = corner / "records"
        self._staging = corner / "staging"
        self._trash = corner / "trash"

    def prepare(self) -> None:
        """Make the agent's corner, and clear what an interrupted run left of it except partial downloads."""
        for path in (self._staging, self._trash):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self._partials, self._records, self._staging, self._trash):
            path.mkdir(parents=True, exist_ok=True)
        for path in self._records.iterdir():
            key = _parse_stem(path.name.removesuffix(".json"))
            if key is None or not self.model_path(key).is_file():
                path.unlink()

    def model_path(self, key: VersionKey) -> Path:
        """Where Triton finds the model of a version."""
        task, number = key
        return self.root / task / str(number) / MODEL_FILE

    def installed(self) -> dict[VersionKey, Record]:
        """Versions that the agent put under the root, with what their files have to be. Not verified."""
        records = {}
        for path in self._records.iterdir():
            key = _parse_stem(path.name.removesuffix(".json"))
            record = _read_record(path)
            if key is not None and record is not None and self.model_path(key).is_file():
                records[key] = record
        return records

    def occupied(self, key: VersionKey) -> bool:
        """Whether anything stands where the version belongs."""
        folder = self.model_path(key).parent
        return folder.is_dir() and any(folder.iterdir())

    def verify(self, key: VersionKey, record: Record, going: Callable[[], bool]) -> str:
        """Compare an installed file with its record. Returns what is wrong, "" if nothing; `going` is asked often."""
        path = self.model_path(key)
        size_bytes = path.stat().st_size
        if size_bytes != record.size_bytes:
            return f"{path} has {size_bytes} bytes, expected {record.size_bytes}"
        sha256 = _digest(path, going).hexdigest()
        return "" if sha256 == record.sha256 else f"{path} has sha256 {sha256}, expected {record.sha256}"

    def adopt(self, key: VersionKey, record: Record) -> None:
        """Take a verified file that somebody else put in place as the agent's own."""
        self._write_record(key, record)

    def publish(self, key: VersionKey, record: Record, partial: Path) -> None:
        """Make a verified download visible to Triton, as a whole folder at once."""
        task, number = key
        staged = self._staging / _stem(key)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        partial.chmod(0o644)
        partial.rename(staged / MODEL_FILE)
        (self.root / task).mkdir(exist_ok=True)
        # The record comes first: a folder without one would be a stranger after a crash between the two.
        self._write_record(key, record)
        staged.rename(self.root / task / str(number))

    def withdraw(self, key: VersionKey) -> None:
        """Take a version away from Triton at once, then delete it."""
        folder = self.model_path(key).parent
        trash = self._trash / _stem(key)
        shutil.rmtree(trash, ignore_errors=True)
        if folder.exists():
            folder.rename(trash)
        self._record_path(key).unlink(missing_ok=True)
        shutil.rmtree(trash, ignore_errors=True)

    def configs(self) -> dict[str, str]:
        """Text of every config.pbtxt that is there, by task."""
        texts = {}
        for path in self.root.glob(f"*/{CONFIG_FILE}"):
            if is_task_name(path.parent.name):
                texts[path.parent.name] = path.read_text(errors="replace")
        return texts

    def write_config(self, task: str, text: str) -> None:
        """Put a task's config.pbtxt in place, in one step."""
        staged = self._staging / f"{task}.config"
        staged.write_text(text)
        (self.root / task).mkdir(exist_ok=True)
        staged.rename(self.root / task / CONFIG_FILE)

    def partial_path(self, key: VersionKey, record: Record) -> Path:
        """Where an unfinished download lies; another content has another name."""
        return self._partials / f"{_stem(key)}.{record.sha256}"

    def partials(self) -> dict[Path, int]:
        """Unfinished downloads and their sizes in bytes."""
        return {path: path.stat().st_size for path in self._partials.iterdir()}

    def hash_partial(self, path: Path, going: Callable[[], bool]) -> Any:
        """A hashlib object that has taken in what is there of an unfinished download."""
        return _digest(path, going) if path.exists() else hashlib.sha256()

    def _record_path(self, key: VersionKey) -> Path:
        return self._records / f"{_stem(key)}.json"

    def _write_record(self, key: VersionKey, record: Record) -> None:
        staged = self._staging / f"{_stem(key)}.json"
        staged.write_text(json.dumps({"sha256": record.sha256, "bytes": record.size_bytes}))
        staged.rename(self._record_path(key))


def _digest(path: Path, going: Callable[[], bool]) -> Any:
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        if not going():
            raise InterruptedError(f"stopped while reading {path}")
        digest.update(chunk)
    return digest


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            yield chunk


def _read_record(path: Path) -> Record | None:
    try:
        document = json.loads(path.read_text())
        return Record(str(document["sha256"]), int(document["bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stem(key: VersionKey) -> str:
    # Names of tasks are DNS labels, so the dot separates for good.
    task, number = key
    return f"{task}.{number}"


def _parse_stem(stem: str) -> VersionKey | None:
    task, _, rest = stem.partition(".")
    number = parse_version_number(rest)
    return (task, number) if number is not None and is_task_name(task) else None
