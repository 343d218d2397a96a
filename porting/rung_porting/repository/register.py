"""`rung-port register`: makes a ModelVersion object of every version in the model repository."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from rung.adapters.kubernetes import Cluster, KubernetesError, Registration, Unavailable
from rung.adapters.s3 import ModelRepository
from rung.api import Metadata, ModelVersion, ModelVersionSpec
from rung_porting.repository.catalogue import read_remote

TASK_LABEL = "rung.dev/task"

Say = Callable[[str], None]


@dataclass(slots=True)
class Tally:
    """What happened to the versions of a repository."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    faults: int = 0


def object_of(spec: ModelVersionSpec, namespace: str) -> ModelVersion:
    """Return the object of a version: named `TASK-VERSION`, labelled with its task."""
    task = spec.task_ref.name
    metadata = Metadata(name=f"{task}-{spec.version}", namespace=namespace, labels={TASK_LABEL: task})
    return ModelVersion(metadata=metadata, spec=spec)


async def register(
    repository: ModelRepository, cluster: Cluster, namespace: str, say: Say, tasks: Collection[str] = ()
) -> Tally:
    """Create or update the object of every version, each with the newest profile of each hardware class.

    With `tasks`, only of those; one that is not there is a fault. A version whose files are broken, or whose object the
    API server refuses, is named, and the others go on.

    Raises:
        RepositoryError: the repository can't be listed.
        Unavailable: the API server does not answer.
    """
    tally = Tally()
    catalogue = await read_remote(repository)
    for fault in catalogue.faults:
        if tasks and not any(f"{task}/" in fault for task in tasks):
            continue
        tally.faults += 1
        say(f"refused: {fault}")
    for task in sorted(set(tasks) - set(catalogue.ladders)):
        tally.faults += 1
        say(f"refused: there is no task {task} in {repository.uri}")
    asked = [rows for task, rows in catalogue.ladders.items() if not tasks or task in tasks]
    for row in (row for rows in asked for row in rows):
        version = object_of(row.spec, namespace)
        try:
            outcome = await cluster.register_version(version)
        except Unavailable:
            raise
        except KubernetesError as error:
            tally.faults += 1
            say(f"refused: {error}")
            continue
        tally.created += outcome is Registration.CREATED
        tally.updated += outcome is Registration.UPDATED
        tally.unchanged += outcome is Registration.UNCHANGED
        say(f"{version.name}: {outcome}")
    return tally
