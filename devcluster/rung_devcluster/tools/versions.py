"""Does a program that is already on this machine fit? The same major and minor version does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rung_devcluster.commands import CommandError, run
from rung_devcluster.tools.catalogue import Tool

VERSION_DEADLINE_SECONDS = 10.0
_VERSION = re.compile(r"(?<![\d.])v?(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Found:
    """A program of the right name on this machine, and whether its version fits."""

    path: Path
    printed: str
    """The version it says it has, or why it could not say."""
    fits: bool


def version_fits(printed: str, wanted: str) -> bool:
    """Say whether the first version in a program's output has the wanted version's major and minor number."""
    match = _VERSION.search(printed)
    return match is not None and [match[1], match[2]] == wanted.split(".")[:2]


def installed(tool: Tool, environment: Mapping[str, str] = os.environ) -> Iterator[Found]:
    """Give every program of that name in KUBEBUILDER_ASSETS and then on PATH, in order, with its version."""
    folders = [environment.get("KUBEBUILDER_ASSETS", ""), *environment.get("PATH", "").split(os.pathsep)]
    for folder in dict.fromkeys(name for name in folders if name):
        path = Path(folder) / tool.name
        if not (path.is_file() and os.access(path, os.X_OK)):
            continue
        try:
            printed = run(
                [path, *tool.version_arguments],
                what=f"{tool.name}: asking for its version",
                deadline_seconds=VERSION_DEADLINE_SECONDS,
            )
        except CommandError as error:
            yield Found(path.absolute(), str(error).splitlines()[0], fits=False)
            continue
        match = _VERSION.search(printed)
        yield Found(path.absolute(), match[0] if match else "of no known version", version_fits(printed, tool.version))
