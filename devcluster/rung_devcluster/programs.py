"""Programs of a project that are written in Go, built from their module into the cache: once for each state of it."""

from __future__ import annotations

import os
from pathlib import Path

from rung_devcluster.cache import cache_folder, key_of, making_file
from rung_devcluster.commands import run
from rung_devcluster.progress import Progress, to_stderr
from rung_devcluster.tools.catalogue import go_architecture
from rung_devcluster.tools.gobuild import go_program

BUILD_DEADLINE_SECONDS = 1200.0
FLAGS = ("-trimpath", "-ldflags", "-s -w")
_SOURCES = {".go", ".mod", ".sum"}


def program_sources(module: Path) -> list[Path]:
    """Return the files that a program is made of; its tests are none of them."""
    files = (path for path in module.rglob("*") if path.suffix in _SOURCES and not path.name.endswith("_test.go"))
    return sorted(files)


def ensure_program(module: Path, progress: Progress = to_stderr) -> Path:
    """Return the program of a Go module (its folder's name), built if it is not there; static, for this machine.

    Raises CommandError when the build fails or passes its deadline, NoGoError when there is no Go.
    """
    parts: list[str | Path] = [go_architecture(), *FLAGS]
    for path in program_sources(module):
        parts += [str(path.relative_to(module)), path]
    program = cache_folder() / "programs" / f"{module.name}-{key_of(parts)}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        progress(f"{module.name}: building with Go")
        with making_file(program) as temporary:
            run(
                [go_program(), "build", *FLAGS, "-o", temporary, "."],
                what=f"{module.name}: building with Go",
                deadline_seconds=BUILD_DEADLINE_SECONDS,
                folder=module,
                environment={
                    **os.environ,
                    "CGO_ENABLED": "0",
                    "GOFLAGS": "-buildvcs=false -mod=readonly",
                    "GOTOOLCHAIN": "local",
                    "GOWORK": "off",
                },
            )
            temporary.chmod(0o755)
    return program
