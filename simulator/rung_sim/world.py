"""What is simulated: the objects that a user applies with kubectl, and the servers that are to be imagined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rung.api import InferenceTask, InvalidObject, ModelVersion, ServingPool, parse_pool, parse_task, parse_version
from rung.api.version import Profile
from rung.control.observe import core_task, core_version
from rung.core.snapshot import TaskState

DEFAULT_CLASS = "default"
LOAD_SECONDS = 0.5
"""Of a version whose load nobody measured."""
LOAD_CPU_SECONDS = 0.3
_PARSERS = {"ServingPool": parse_pool, "InferenceTask": parse_task, "ModelVersion": parse_version}


class WorldError(ValueError):
    """What was given can't be simulated; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class Service:
    """What a version costs on one server, in CPU time: `fixed + batch * each` a batch; and its load."""

    fixed_seconds: float
    each_seconds: float
    batch_size: int = 1
    load_seconds: float = LOAD_SECONDS
    load_cpu_seconds: float = LOAD_CPU_SECONDS


@dataclass(frozen=True, slots=True)
class SimulatedServer:
    """One server: its name, its hardware class, the cores that its limit allows, and those that others take."""

    name: str
    cores: float
    hardware_class: str = DEFAULT_CLASS
    other_cores: float = 0.0


@dataclass(frozen=True, slots=True)
class SimulatedTask:
    """One task as policies see it, and what each of its versions costs by hardware class and number."""

    state: TaskState
    services: Mapping[str, Mapping[int, Service]]


@dataclass(frozen=True, slots=True)
class World:
    """A pool, its tasks and its servers."""

    pool: ServingPool
    tasks: tuple[SimulatedTask, ...]
    servers: tuple[SimulatedServer, ...]


def service(profile: Profile) -> Service:
    """Return what a profile says of a version's cost.

    The maximal throughput was reached with full batches; where the CPU time of one inference, which was measured at a
    moderate load, is higher than what it needs there, the difference is what a batch costs whatever its size.
    """
    cores = min(profile.cpu.cores if profile.cpu else 1.0, float(profile.instances))
    full = cores / profile.max_throughput
    alone = profile.cpu_seconds_per_inference or full
    batch = profile.batch_size
    fixed = min(max(0.0, (alone - full) / (1.0 - 1.0 / batch)), 0.9 * full * batch) if batch > 1 else 0.0
    return Service(
        fixed_seconds=fixed,
        each_seconds=full - fixed / batch,
        batch_size=batch,
        load_seconds=profile.load_time.seconds if profile.load_time else LOAD_SECONDS,
        load_cpu_seconds=LOAD_CPU_SECONDS if profile.load_cpu_seconds is None else profile.load_cpu_seconds,
    )


def read_world(path: Path, servers: Iterable[SimulatedServer]) -> World:
    """Read the objects of one pool from a file, as they are applied with kubectl.

    Args:
        path: YAML: one ServingPool, its InferenceTasks and their ModelVersions; other kinds are left out.
        servers: what the pool is to run on.

    Raises:
        WorldError: naming the file and the object.
    """
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise WorldError(f"{path}: can't be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise WorldError(f"{path}: is no YAML: {' '.join(str(error).split())[:200]}") from None
    return build_world(str(path), documents, tuple(servers))


def build_world(name: str, documents: Iterable[Any], servers: tuple[SimulatedServer, ...]) -> World:
    """Build a world from parsed YAML documents; `name` is for messages. Raises WorldError."""
    pools: list[ServingPool] = []
    tasks: list[InferenceTask] = []
    versions: list[ModelVersion] = []
    for raw in _objects(documents):
        kind = raw.get("kind")
        if kind not in _PARSERS:
            continue
        metadata = {"namespace": "default", **(raw.get("metadata") or {})}
        try:
            found = _PARSERS[kind]({**raw, "metadata": metadata})
        except InvalidObject as error:
            raise WorldError(f"{name}: {error}") from None
        if isinstance(found, ServingPool):
            pools.append(found)
        elif isinstance(found, InferenceTask):
            tasks.append(found)
        elif isinstance(found, ModelVersion):
            versions.append(found)
    if len(pools) != 1:
        raise WorldError(f"{name}: has {len(pools)} ServingPools; give exactly one, and what belongs to it")
    if not tasks:
        raise WorldError(f"{name}: has no InferenceTask; add those of the pool (kubectl get itask -o yaml)")
    made = [_task(name, task, versions, servers) for task in sorted(tasks, key=lambda task: task.name)]
    return World(pools[0], tuple(made), servers)


def _objects(documents: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    """Yield the objects of some documents, also those inside lists, as `kubectl get -o yaml` writes them."""
    for document in documents:
        if isinstance(document, Mapping):
            items = document.get("items")
            yield from _objects(items) if isinstance(items, list) else (document,)


def _task(
    name: str, task: InferenceTask, versions: Iterable[ModelVersion], servers: tuple[SimulatedServer, ...]
) -> SimulatedTask:
    mine = [version for version in versions if version.spec.task_ref.name == task.name]
    if not mine:
        raise WorldError(f"{name}: has no ModelVersion of {task.name} (kubectl get mver -o yaml)")
    services: dict[str, dict[int, Service]] = {}
    for hardware_class in sorted({server.hardware_class for server in servers}):
        services[hardware_class] = found = {}
        for version in mine:
            profile = next((each for each in version.spec.profiles if each.hardware_class == hardware_class), None)
            if profile is not None:
                found[version.spec.version] = service(profile)
        if not found:
            known = sorted({each.hardware_class for version in mine for each in version.spec.profiles})
            raise WorldError(
                f"{name}: no version of {task.name} has a profile for the hardware class {hardware_class}; "
                f"there are {', '.join(known) or 'none at all'}: say --hardware-class"
            )
    return SimulatedTask(core_task(task, tuple(core_version(version) for version in mine), frozenset()), services)
