"""Brings images into the nodes' containerd from archives, without a registry."""

from __future__ import annotations

import json
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rung_devcluster.cluster.components import CONTAINERD_SOCKET
from rung_devcluster.cluster.layout import NodeLayout

IMPORT_DEADLINE_SECONDS = 300.0


class ImageError(RuntimeError):
    """An archive cannot be read, or containerd refused it."""


def images_in(archive: Path) -> dict[str, str]:
    """Return what a docker-archive holds: image reference to the digest of its configuration; raises ImageError."""
    try:
        with tarfile.open(archive, "r:") as tar:
            member = tar.extractfile("manifest.json")
            if member is None:
                raise ImageError(f"{archive}: manifest.json is not a file")
            manifest = json.load(member)
        found = {tag: entry["Config"] for entry in manifest for tag in entry.get("RepoTags") or ()}
    except (OSError, tarfile.TarError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImageError(
            f"{archive} is not a docker-archive: {error}; make one with `buildah push IMAGE docker-archive:FILE:IMAGE` "
            "or `docker save`"
        ) from error
    if not found:
        raise ImageError(f"{archive} holds no image with a name")
    return found


def import_archive(node_pid: int, files: NodeLayout, archive: Path) -> bool:
    """Import one archive into one node's containerd, unless the very same images are there; return whether it did.

    `node_pid` is the node's first process. Raises ImageError.
    """
    wanted = images_in(archive)
    present = _recorded(files.images)
    if wanted.items() <= present.items():
        return False
    command = [
        *inside(node_pid),
        "ctr",
        f"--address={CONTAINERD_SOCKET}",
        "--namespace=k8s.io",
        "images",
        "import",
        "-",
    ]
    # The node does not see every folder of the machine, so the archive goes in through a pipe.
    with archive.open("rb") as content:
        try:
            done = subprocess.run(
                command, stdin=content, capture_output=True, timeout=IMPORT_DEADLINE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ImageError(f"importing {archive} took longer than {IMPORT_DEADLINE_SECONDS:g} s") from error
    if done.returncode != 0:
        raise ImageError(f"containerd refused {archive}: {done.stderr.decode(errors='replace').strip()[-2000:]}")
    present = {**_recorded(files.images), **wanted}
    temporary = files.images.with_suffix(".new")
    temporary.write_text(json.dumps(present))
    temporary.replace(files.images)
    return True


def import_everywhere(nodes: list[tuple[int, NodeLayout]], archive: Path) -> int:
    """Import one archive into every node at once; return on how many nodes it was new. Raises ImageError."""
    with ThreadPoolExecutor(max_workers=len(nodes)) as threads:
        return sum(threads.map(lambda node: import_archive(node[0], node[1], archive), nodes))


def inside(node_pid: int) -> list[str]:
    """Return the beginning of a command line that runs the rest inside a node."""
    return ["nsenter", f"--target={node_pid}", "--mount", "--net", "--pid", "--uts"]


def _recorded(path: Path) -> dict[str, str]:
    try:
        content: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return content
