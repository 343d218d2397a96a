"""Removes what a cluster leaves behind when its processes are gone. Safe to call at any time after that, and twice."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from rung_devcluster.cluster.cgroups import remove_cgroups
from rung_devcluster.cluster.layout import Layout

CGROUP_DEADLINE_SECONDS = 15.0
FILES_DEADLINE_SECONDS = 10.0
POLL_SECONDS = 0.1


class SweepError(RuntimeError):
    """Something could not be removed."""


def sweep(name: str, layout: Layout) -> None:
    """Remove the cluster's cgroups and files; raises SweepError or CgroupError naming what resists."""
    remove_cgroups(name, deadline_seconds=CGROUP_DEADLINE_SECONDS)
    deadline = time.monotonic() + FILES_DEADLINE_SECONDS
    while layout.folder.exists():
        try:
            shutil.rmtree(layout.folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            # Two sweepers at once find each other's gaps; a mount namespace takes a moment to go.
            if time.monotonic() > deadline:
                raise SweepError(f"could not remove {error.filename}: {error.strerror}") from error
            time.sleep(POLL_SECONDS)
    _remove_if_empty(layout.folder.parent)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
