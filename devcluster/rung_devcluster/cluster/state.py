"""What is known of a cluster's processes, in a file beside its other files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rung_devcluster.cluster.linux import ProcessIdentity


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The processes that keep a cluster alive.

    `nodes` maps each node's name to its first process, `components` each node's name to its components and what each
    last did ("ready", or how it ended).
    """

    guard: ProcessIdentity
    supervisor: ProcessIdentity
    nodes: Mapping[str, ProcessIdentity] = field(default_factory=dict)
    components: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ready: bool = False
    seconds_to_ready: float | None = None


def write_state(path: Path, state: ClusterState) -> None:
    """Replace the file at once, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(state)))
    temporary.replace(path)


def read_state(path: Path) -> ClusterState | None:
    """Return what was written, or None when there is nothing that can be read."""
    try:
        data = json.loads(path.read_text())
        return ClusterState(
            guard=ProcessIdentity(**data["guard"]),
            supervisor=ProcessIdentity(**data["supervisor"]),
            nodes={name: ProcessIdentity(**node) for name, node in data["nodes"].items()},
            components=data["components"],
            ready=data["ready"],
            seconds_to_ready=data["seconds_to_ready"],
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
