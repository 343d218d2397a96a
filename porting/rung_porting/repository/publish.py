"""`rung-port publish`: uploads a folder into the model repository. Nothing is ever overwritten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from rung.adapters.s3 import AlreadyExists, ModelRepository
from rung.adapters.triton import TritonClient
from rung.core.repository_layout import PROFILES_FOLDER, card_key, config_key, model_key, version_key
from rung_porting.errors import PortingError
from rung_porting.repository.catalogue import ladder, local_spec
from rung_porting.repository.check import check_on_server
from rung_porting.repository.folder import LocalTask, LocalVersion, read_folder, yaml_text

Say = Callable[[str], None]


@dataclass(slots=True)
class Tally:
    """What happened to the versions of a folder."""

    published: int = 0
    present: int = 0
    dominated: int = 0
    faults: int = 0
    there: set[tuple[str, int]] = field(default_factory=set)
    """Task and number of those that the repository holds now: published, or there already."""


async def publish(
    root: Path,
    repository: ModelRepository,
    say: Say,
    *,
    everything: bool = False,
    server: TritonClient | None = None,
) -> Tally:
    """Publish every sound version of every task; `version.yaml` goes last, so half a version does not exist.

    Args:
        root: a folder as `rung-port run` writes it.
        repository: where to.
        say: is told what happens to each version, and every fault.
        everything: publish versions too that another one beats in accuracy and cost.
        server: a Triton that each version has to load on, and answer, before it is published.

    Raises:
        PortingError: the folder holds no task, or that Triton does not answer.
        RepositoryError: the repository can't be reached or refuses (what is up already stays, run it again).
    """
    tally = Tally()
    for task in read_folder(root):
        for fault in task.faults:
            tally.faults += 1
            say(f"refused: {fault}")
        refused = await check_on_server(task, server) if server is not None else {}
        for number, why in refused.items():
            tally.faults += 1
            say(f"refused: {task.name}-{number}: {why}")
        if refused and len(refused) == len(task.versions):
            continue
        try:
            await repository.put_if_absent(config_key(task.name), task.config)
        except AlreadyExists as error:
            tally.faults += 1
            say(f"refused: {error}; the versions of {task.name} were not published")
            continue
        sound = tuple(version for version in task.versions if version.number not in refused)
        await _publish_versions(replace(task, versions=sound), repository, say, tally, everything)
    return tally


async def _publish_versions(
    task: LocalTask, repository: ModelRepository, say: Say, tally: Tally, everything: bool
) -> None:
    specs = {}
    for version in task.versions:
        try:
            specs[version.number] = local_spec(version)
        except PortingError as error:
            tally.faults += 1
            say(f"refused: {error}")
    beaten = {row.number: row.beaten_by for row in ladder(list(specs.values())) if row.beaten_by is not None}
    for version in task.versions:
        if version.number not in specs:
            continue
        name = f"{version.task}-{version.number}"
        if version.number in beaten and not everything:
            tally.dominated += 1
            say(f"{name}: left out, {task.name}-{beaten[version.number]} is at least as accurate and cheaper (--all)")
            continue
        try:
            new = await _publish_version(version, repository, say)
        except AlreadyExists as error:
            tally.faults += 1
            say(f"refused: {name}: {error}; raise the generation (rung-port run --generation)")
            continue
        tally.published += new
        tally.present += not new
        tally.there.add((version.task, version.number))
        say(f"{name}: {'published' if new else 'was there already'}")


async def _publish_version(version: LocalVersion, repository: ModelRepository, say: Say) -> bool:
    """Upload one version. Returns whether anything was new."""
    key = model_key(version.task, version.number)
    new = await repository.put_if_absent(key, version.model)
    for path in version.profiles():
        profile = f"{version.task}/{version.number}/{PROFILES_FOLDER}/{path.name}"
        new = await repository.put_if_absent(profile, path) or new
    if version.card is not None:
        try:
            new = await repository.put_if_absent(card_key(version.task, version.number), version.card) or new
        except AlreadyExists:
            # The same network from another plan: its first card stays, and that is no reason not to publish.
            say(f"{version.task}-{version.number}: another model card is there, and stays")
    spec = {**version.spec, "artifact": {**version.spec["artifact"], "uri": repository.uri.uri_of(key)}}
    text = yaml_text(spec).encode()
    return await repository.put_if_absent(version_key(version.task, version.number), text) or new
