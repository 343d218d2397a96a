"""The output folder: the layout of the model repository, on disk. Reading it back trusts nothing.

In a folder, `artifact.uri` is the bare file name `model.onnx`; publishing puts the address in the bucket there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rung.adapters.repository_documents import parse_version_document
from rung.adapters.repository_errors import Corrupt
from rung.core.repository_layout import (
    CARD_FILE,
    CONFIG_FILE,
    MODEL_FILE,
    PROFILES_FOLDER,
    VERSION_FILE,
    config_key,
    is_task_name,
    parse_key,
    parse_version_number,
)
from rung_porting.errors import PortingError
from rung_porting.store import file_sha256


@dataclass(frozen=True, slots=True)
class TensorShapes:
    """Names and dimensions, without the batch, of what a task takes and gives."""

    input_name: str
    input_dims: tuple[int, ...]
    output_name: str
    output_dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LocalVersion:
    """One version in a folder: checked against its own checksum. `spec` is what its version.yaml holds."""

    task: str
    number: int
    folder: Path
    spec: Mapping[str, Any]

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.folder / MODEL_FILE

    @property
    def card(self) -> Path | None:
        """Its model card, if it has one."""
        path = self.folder / CARD_FILE
        return path if path.is_file() else None

    def profiles(self) -> list[Path]:
        """Return the files of its profiles, sorted; other files are ignored."""
        found = sorted((self.folder / PROFILES_FOLDER).glob("*.yaml"))
        return [path for path in found if parse_key(f"{self.task}/{self.number}/{PROFILES_FOLDER}/{path.name}")]


@dataclass(frozen=True, slots=True)
class LocalTask:
    """One task in a folder, with its sound versions (ascending) and what is wrong with the others."""

    name: str
    config: Path
    versions: tuple[LocalVersion, ...]
    faults: tuple[str, ...]


def config_text(task: str, shapes: TensorShapes, largest_batch: int = 8) -> str:
    """Return the config.pbtxt of a task, for any Triton with an onnxruntime backend."""
    return f"""name: "{task}"
backend: "onnxruntime"
max_batch_size: {largest_batch}
input [ {{ name: "{shapes.input_name}" data_type: TYPE_FP32 dims: [ {_listed(shapes.input_dims)} ] }} ]
output [ {{ name: "{shapes.output_name}" data_type: TYPE_FP32 dims: [ {_listed(shapes.output_dims)} ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""


def yaml_text(content: Mapping[str, Any]) -> str:
    """Write a mapping as YAML, always the same text for the same content."""
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120)


def write_config(root: Path, task: str, text: str) -> bool:
    """Write a task's config.pbtxt. Returns False when the same was there. Raises PortingError when another was."""
    path = root / config_key(task)
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise PortingError(f"{path} exists with other content: choose another output folder")
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return True


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole, by one rename. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_version(
    root: Path, task: str, number: int, model: Path, spec: Mapping[str, Any], card: str | None = None
) -> bool:
    """Write one version's folder, which appears by one rename.

    A card that is there already stays: it tells of the plan that made the version, and may be published.

    Args:
        root: the output folder.
        task: the version's task.
        number: the version's number.
        model: its ONNX file, which is copied.
        spec: what its version.yaml holds.
        card: the text of its model card.

    Returns:
        False when the same version was there already.

    Raises:
        PortingError: another version has that number there.
    """
    folder = root / task / str(number)
    if folder.exists():
        present = _read_version(folder, task, number)
        if present.spec != spec:
            raise PortingError(f"{folder} holds another version: choose another output folder or raise the generation")
        if card is not None and present.card is None:
            write_text(folder / CARD_FILE, card)
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{number}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp's folders are their owner's only
        shutil.copyfile(model, temporary / MODEL_FILE)
        (temporary / VERSION_FILE).write_text(yaml_text(spec), encoding="utf-8")
        if card is not None:
            (temporary / CARD_FILE).write_text(card, encoding="utf-8")
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return True


def read_folder(root: Path) -> list[LocalTask]:
    """Read every task of a folder, sorted by name. Folders whose name is no task's, or no number, are ignored.

    Raises:
        PortingError: there is no such folder, or no task in it.
    """
    if not root.is_dir():
        raise PortingError(f"{root} is not a folder")
    tasks = [
        _read_task(path)
        for path in sorted(root.iterdir())
        if path.is_dir() and is_task_name(path.name) and (path / CONFIG_FILE).is_file()
    ]
    if not tasks:
        raise PortingError(
            f"{root} holds no task: a task is a folder with {CONFIG_FILE} in it : rung-port run makes some"
        )
    return tasks


def version_numbers(path: Path) -> list[int]:
    """Return the numbers of the versions in a task's folder, ascending."""
    numbers = (parse_version_number(each.name) for each in path.iterdir() if each.is_dir())
    return sorted(number for number in numbers if number is not None)


def _read_task(path: Path) -> LocalTask:
    versions: list[LocalVersion] = []
    faults: list[str] = []
    for number in version_numbers(path):
        try:
            versions.append(_read_version(path / str(number), path.name, number))
        except PortingError as error:
            faults.append(str(error))
    return LocalTask(path.name, path / CONFIG_FILE, tuple(versions), tuple(faults))


def _read_version(folder: Path, task: str, number: int) -> LocalVersion:
    document, model = folder / VERSION_FILE, folder / MODEL_FILE
    try:
        record = parse_version_document(str(document), task, number, document.read_text(encoding="utf-8"))
        size_bytes = model.stat().st_size
    except (Corrupt, UnicodeDecodeError) as error:
        raise PortingError(f"{document}: {error}") from None
    except OSError as error:
        raise PortingError(f"{error.filename}: {error.strerror}") from None
    named = record.spec.get("taskRef", {}).get("name")
    if named != task:
        raise PortingError(f"{document} is of task {named!r}: it lies in the wrong folder")
    if size_bytes != record.size_bytes:
        raise PortingError(f"{model} has {size_bytes} bytes, {VERSION_FILE} says {record.size_bytes}: it is damaged")
    if file_sha256(model) != record.sha256:
        raise PortingError(f"{model} has another SHA-256 than {VERSION_FILE} says: it is damaged")
    return LocalVersion(task, number, folder, record.spec)


def _listed(dims: Sequence[int]) -> str:
    return ", ".join(map(str, dims))
