"""Builds images with buildah, in a storage of its own inside the cache, so that nothing else on the machine changes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rung_devcluster.cache import cache_folder
from rung_devcluster.commands import CommandError, run

BUILD_DEADLINE_SECONDS = 1800.0
QUICK_DEADLINE_SECONDS = 300.0


def build(context: Path, containerfile: Path, reference: str, arguments: Mapping[str, str], what: str) -> None:
    """Build a Containerfile as `reference`; unchanged layers are taken from the storage.

    Raises CommandError.
    """
    given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    flags = ["--isolation=chroot", "--layers", "--format=docker", "--pull-never", *given]
    _run(["bud", *flags, "--tag", reference, "--file", str(containerfile), str(context)], what, BUILD_DEADLINE_SECONDS)


def import_root(archive: Path, reference: str, what: str) -> None:
    """Make an image with one layer, the root file system in a tar archive.

    Raises CommandError.
    """
    container = _run(["from", "--pull-never", "scratch"], what, QUICK_DEADLINE_SECONDS).strip()
    try:
        _run(["add", "--quiet", container, str(archive), "/"], what, QUICK_DEADLINE_SECONDS)
        _run(["config", "--cmd", "/bin/sh", container], what, QUICK_DEADLINE_SECONDS)
        _run(["commit", "--quiet", "--format=docker", container, reference], what, QUICK_DEADLINE_SECONDS)
    finally:
        _run(["rm", container], what, QUICK_DEADLINE_SECONDS)


def save(reference: str, archive: Path, what: str) -> None:
    """Write an image as a docker-archive.

    Raises CommandError.
    """
    _run(["push", "--quiet", reference, f"docker-archive:{archive}:{reference}"], what, QUICK_DEADLINE_SECONDS)


def exists(reference: str, what: str) -> bool:
    """Say whether the storage has an image of that name."""
    listed = _run(["images", "--format", "{{.Name}}:{{.Tag}}"], what, QUICK_DEADLINE_SECONDS)
    return reference in listed.split()


def prune(what: str, older_than_seconds: float) -> None:
    """Remove old images without a name: what earlier builds left. Younger ones are kept, they spare work as layers.

    (`buildah rmi --prune` would remove all of them: a stage that is only copied from is no parent of anything.)
    """
    listed = json.loads(_run(["images", "--all", "--json"], what, QUICK_DEADLINE_SECONDS) or "null") or []
    for image in listed:
        if not image.get("names") and time.time() - image["created"] > older_than_seconds:
            # One that others are made from can't be removed, and needn't be.
            with suppress(CommandError):
                _run(["rmi", image["id"]], what, QUICK_DEADLINE_SECONDS)


def remove_containers(what: str) -> None:
    """Remove the working containers of interrupted builds; those that someone gave a name of their own stay."""
    listed = _run(["containers", "--format", "{{.ContainerName}}"], what, QUICK_DEADLINE_SECONDS)
    if left := [name for name in listed.split() if "-working-container" in name]:
        _run(["rm", *left], what, QUICK_DEADLINE_SECONDS)


def command(arguments: Sequence[str]) -> list[str]:
    """Return a whole command line for buildah with our storage.

    It runs in a mount namespace of its own: the storage's mounts are gone when it ends, however it ends.
    """
    storage = cache_folder() / "buildah"
    state = ["--root", str(storage / "root"), "--runroot", str(storage / "run")]
    return ["unshare", "--mount", "--propagation=private", "buildah", *state, *arguments]


def _run(arguments: Sequence[str], what: str, deadline_seconds: float) -> str:
    return run(command(arguments), what=what, deadline_seconds=deadline_seconds)
