"""The base image, made from Debian packages where there is no registry to pull one from.

It stands in for `docker.io/library/python:3.11-slim`, the default of every Containerfile: the same Debian release with
Python 3.11, `venv` and the libraries that wheels rely on.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from rung_devcluster.cache import TEMPORARY_PREFIX, cache_folder, key_of, making_file
from rung_devcluster.commands import run
from rung_devcluster.progress import Progress
from rung_devcluster.tools.catalogue import go_architecture

BASE_REFERENCE = "localhost/rung-devcluster/base:bookworm"
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "libgcc-s1", "libpython3.11", "libstdc++6", "python3", "python3-venv", "zlib1g")
DEBOOTSTRAP_DEADLINE_SECONDS = 900.0

_NOT_NEEDED = (
    "usr/share/doc",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log",
)


def base_key() -> str:
    """Return a key of everything that the base image is made of."""
    return key_of([SUITE, *PACKAGES, *_NOT_NEEDED, go_architecture()])


def ensure_base_archive(progress: Progress) -> Path:
    """Return a tar archive of the base's root file system, making it first if the cache has none.

    Raises CommandError when debootstrap or tar fails.
    """
    archive = cache_folder() / "base" / f"{SUITE}-{base_key()}.tar"
    if archive.exists():
        return archive
    progress(f"images: base: debootstrap {SUITE}, a minute or two")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=archive.parent) as folder, making_file(archive) as temporary:
        root = Path(folder) / "root"
        # debootstrap mounts /proc inside its target; in a mount namespace of its own that goes away with it, whatever
        # happens.
        include = "--include=" + ",".join(PACKAGES)
        run(
            [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "debootstrap",
                "--variant=minbase",
                include,
                SUITE,
                root,
            ],
            what="images: base",
            deadline_seconds=DEBOOTSTRAP_DEADLINE_SECONDS,
        )
        for name in _NOT_NEEDED:
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir(parents=True)
        run(
            ["tar", "--create", "--file", temporary, "--numeric-owner", "--sort=name", "--directory", root, "."],
            what="images: base: packing",
            deadline_seconds=DEBOOTSTRAP_DEADLINE_SECONDS,
        )
    return archive
