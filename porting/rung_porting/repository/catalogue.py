"""Published versions as `show` and `publish` see them, from a folder or from S3: one row each, with who beats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rung.adapters.repository_documents import parse_yaml_mapping
from rung.adapters.repository_errors import Corrupt, RepositoryError
from rung.adapters.s3 import ModelRepository
from rung.api.version import ModelVersionSpec
from rung.core.repository_layout import newest_profiles
from rung_porting.errors import PortingError
from rung_porting.repository.folder import LocalVersion, read_folder
from rung_porting.repository.ladder import Rung, dominators


@dataclass(frozen=True, slots=True)
class Row:
    """One version of a ladder. `beaten_by` is None on the frontier; throughput is in inferences per second."""

    spec: ModelVersionSpec
    beaten_by: int | None
    throughput_rps: Mapping[str, float]

    @property
    def number(self) -> int:
        """The version's number."""
        return self.spec.version


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Ladders by task, versions ascending, and what is wrong with the versions that are not in them.

    `documents` holds the newest profile of each hardware class as its file has it, by version name (`TASK-VERSION`) and
    class: there may be more in it than the API's fields, and nothing of that was checked.
    """

    ladders: Mapping[str, tuple[Row, ...]]
    faults: tuple[str, ...]
    documents: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)


def parse_spec(key: str, spec: Mapping[str, Any]) -> ModelVersionSpec:
    """Read the `spec` of a ModelVersion.

    Raises:
        PortingError: it isn't one; the message names the file and the field.
    """
    try:
        return ModelVersionSpec.model_validate(dict(spec))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in faults[:5])
        raise PortingError(f"{key}: {told}") from None


def ladder(specs: Sequence[ModelVersionSpec]) -> tuple[Row, ...]:
    """Find the frontier of one task.

    By measured throughput when every version was profiled on one hardware class that all share; else by floating-point
    operations, INT8 versions among themselves, as an operation costs them less; else (no version says them) by the size
    of the file.
    """
    beaten: dict[int, int] = {}
    for group in _comparable(specs):
        beaten |= dominators([Rung(spec.version, spec.accuracy.value, cost) for spec, cost in group])
    rows = [
        Row(
            spec,
            beaten.get(spec.version),
            {profile.hardware_class: profile.max_throughput for profile in spec.profiles},
        )
        for spec in specs
    ]
    return tuple(sorted(rows, key=lambda row: row.number))


def read_local(root: Path) -> Catalogue:
    """Read the ladders of a folder. Raises PortingError when there is no task in it."""
    ladders: dict[str, tuple[Row, ...]] = {}
    faults: list[str] = []
    documents: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for task in read_folder(root):
        faults += task.faults
        specs = []
        for version in task.versions:
            try:
                profiles = _local_profiles(version)
                specs.append(_local_spec(version, profiles))
                documents[f"{task.name}-{version.number}"] = _by_class(profiles)
            except PortingError as error:
                faults.append(str(error))
        ladders[task.name] = ladder(specs)
    return Catalogue(ladders, tuple(faults), documents)


def local_spec(version: LocalVersion) -> ModelVersionSpec:
    """Read a version of a folder with its newest profiles. Raises PortingError."""
    return _local_spec(version, _local_profiles(version))


def _local_profiles(version: LocalVersion) -> list[Mapping[str, Any]]:
    profiles = []
    for path in _newest(version):
        try:
            profiles.append(parse_yaml_mapping(str(path), path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, Corrupt, yaml.YAMLError) as error:
            raise PortingError(f"{path}: {error}") from None
    return profiles


def _by_class(profiles: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    return {str(profile.get("hardwareClass")): profile for profile in profiles}


def _local_spec(version: LocalVersion, profiles: Sequence[Mapping[str, Any]]) -> ModelVersionSpec:
    return spec_in_folder(str(version.folder / "version.yaml"), version.spec, profiles)


def spec_in_folder(where: str, spec: Mapping[str, Any], profiles: Sequence[Mapping[str, Any]] = ()) -> ModelVersionSpec:
    """Read what a version.yaml in a folder holds, with these profiles. Raises PortingError naming `where`."""
    # In a folder the uri is a bare file name, which is no address yet.
    uri = f"s3://not-published/{spec['taskRef']['name']}/{spec['version']}/model.onnx"
    return parse_spec(where, {**spec, "artifact": {**spec["artifact"], "uri": uri}, "profiles": list(profiles)})


async def read_remote(repository: ModelRepository) -> Catalogue:
    """Read the ladders of a repository; one broken version never hides the others. Raises RepositoryError."""
    listing = await repository.list_objects()
    ladders: dict[str, tuple[Row, ...]] = {}
    faults: list[str] = []
    documents: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for task in listing.tasks():
        specs = []
        for number in listing.versions(task):
            try:
                record = await repository.read_version(task, number, listing)
                spec = parse_spec(f"{task}/{number}/version.yaml", record.spec)
                if spec.task_ref.name == task:
                    specs.append(spec)
                    documents[f"{task}-{number}"] = _by_class(record.spec["profiles"])
                else:
                    faults.append(f"{task}/{number}/version.yaml is of task {spec.task_ref.name!r}: wrong folder")
            except (Corrupt, PortingError) as error:
                faults.append(str(error))
            except RepositoryError as error:
                faults.append(f"{task}/{number}: {error}")
        ladders[task] = ladder(specs)
    return Catalogue(ladders, tuple(faults), documents)


def _newest(version: LocalVersion) -> list[Path]:
    """Return the newest profile of each hardware class."""
    keys = newest_profiles(f"{version.task}/{version.number}/profiles/{path.name}" for path in version.profiles())
    return [version.folder / "profiles" / key.rsplit("/", 1)[1] for key in keys.values()]


def _comparable(specs: Sequence[ModelVersionSpec]) -> list[list[tuple[ModelVersionSpec, float]]]:
    """Return groups of versions with their costs, each group in a unit of its own."""
    classes = [{profile.hardware_class for profile in spec.profiles} for spec in specs]
    shared = sorted(set.intersection(*classes)) if classes else []
    if shared:
        by_class = [{profile.hardware_class: profile.max_throughput for profile in spec.profiles} for spec in specs]
        return [[(spec, -found[shared[0]]) for spec, found in zip(specs, by_class, strict=True)]]
    if any(spec.lineage.flops is None for spec in specs):
        return [[(spec, float(spec.artifact.bytes)) for spec in specs]]
    int8 = [spec for spec in specs if "int8" in spec.lineage.method]
    whole = [spec for spec in specs if "int8" not in spec.lineage.method]
    return [[(spec, float(spec.lineage.flops or 0)) for spec in group] for group in (whole, int8)]
