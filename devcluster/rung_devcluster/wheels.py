"""The wheels that images are made of, downloaded outside of the build and checked against their pinned hashes."""

from __future__ import annotations

import platform
from pathlib import Path

from rung_devcluster.cache import cache_folder, key_of, making
from rung_devcluster.commands import run
from rung_devcluster.pip import own_pip
from rung_devcluster.progress import Progress

PYTHON_VERSION = "3.11"
"""The Python of the images, not the one that runs this."""
NEWEST_GLIBC_MINOR = 36
"""Debian bookworm's glibc is 2.36."""
DOWNLOAD_DEADLINE_SECONDS = 1200.0


def ensure_wheels(requirements: Path, progress: Progress) -> Path:
    """Return a folder with every wheel of a requirements file, downloading them first if the cache has none.

    The file must be complete and have hashes; wheels only, so nothing is run while they are fetched.

    Raises CommandError when pip can't get one or a hash differs.
    """
    folder = cache_folder() / "wheels" / f"{requirements.stem}-{key_of([requirements, platform.machine()])}"
    if folder.exists():
        return folder
    progress(f"images: downloading the wheels of {requirements.name}")
    platforms = [f"manylinux_2_{minor}_{platform.machine()}" for minor in range(NEWEST_GLIBC_MINOR, 4, -1)]
    platforms += [f"manylinux2014_{platform.machine()}", f"linux_{platform.machine()}"]
    with making(folder) as temporary:
        run(
            [
                *own_pip(),
                "download",
                "--quiet",
                "--no-deps",
                "--require-hashes",
                "--only-binary=:all:",
                f"--python-version={PYTHON_VERSION}",
                "--implementation=cp",
                *(f"--abi={abi}" for abi in ("cp311", "abi3", "none")),
                *(f"--platform={each}" for each in platforms),
                "--requirement",
                requirements,
                "--dest",
                temporary,
            ],
            what=f"images: wheels of {requirements.name}",
            deadline_seconds=DOWNLOAD_DEADLINE_SECONDS,
        )
    return folder
