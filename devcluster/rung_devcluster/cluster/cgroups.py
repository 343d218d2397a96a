"""The cluster's cgroups: made before the kubelet starts, since it wants its root to exist; removed at the end.

Namespaces do not take cgroup folders with them: these are the only traces of a cluster that outlive its processes.
Version 1 (one hierarchy for each controller) and version 2 (one for all) are told apart by what is mounted.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids", "hugetlb")
NEEDED_CONTROLLERS = frozenset({"cpuset", "cpu", "memory", "pids"})
POLL_SECONDS = 0.05


class CgroupError(RuntimeError):
    """The machine's cgroups cannot hold a cluster; the message says what is missing."""


def cgroup_root(name: str) -> str:
    """Return the cluster's cgroup as a path from the root of every hierarchy."""
    return f"/rung-devcluster-{name}"


def hierarchies(root: Path = CGROUPS) -> tuple[Path, ...]:
    """Return the folder of every mounted hierarchy below `root`, without the same one twice."""
    if (root / "cgroup.controllers").exists():
        return (root,)
    found: dict[tuple[int, int], Path] = {}
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        # cpu and cpuacct are often two names of one hierarchy.
        if folder.is_dir() and (folder / "cgroup.procs").exists():
            status = folder.stat()
            found.setdefault((status.st_dev, status.st_ino), folder)
    return tuple(found.values())


def is_version_2(root: Path = CGROUPS) -> bool:
    """Whether one hierarchy holds all controllers."""
    return (root / "cgroup.controllers").exists()


def make_cgroups(name: str, nodes: int, root: Path = CGROUPS) -> None:
    """Make the cluster's cgroup with one folder for each node in it; raises CgroupError."""
    every = hierarchies(root)
    if not every:
        raise CgroupError(f"no cgroups are mounted at {root}: a container runtime cannot work without them")
    for hierarchy in every:
        cluster = hierarchy / cgroup_root(name).lstrip("/")
        try:
            if is_version_2(root):
                _give_controllers(hierarchy)
            _make(hierarchy, cluster)
            for number in range(1, nodes + 1):
                _make(cluster, cluster / f"node-{number}")
        except OSError as error:
            raise CgroupError(
                f"could not make the cgroup {cluster}: {error.strerror}; inside a container, run it privileged "
                "and with a cgroup namespace whose root is writable"
            ) from error


def _make(parent: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for setting in ("cpuset.cpus", "cpuset.mems"):
        # Version 1 starts them empty, and nothing may run in an empty set.
        if (folder / setting).exists() and not is_version_2(folder):
            (folder / setting).write_text((parent / setting).read_text())
    if (folder / "cgroup.controllers").exists():
        _give_controllers(folder)


def _give_controllers(folder: Path) -> None:
    """Let the children of a version 2 cgroup use the controllers that the cgroup has itself."""
    available = set((folder / "cgroup.controllers").read_text().split())
    # On a machine with version 1, a version 2 hierarchy without controllers is often mounted beside it.
    if not available & NEEDED_CONTROLLERS:
        return
    if missing := NEEDED_CONTROLLERS - available:
        raise CgroupError(f"the cgroup {folder} lacks the controllers {', '.join(sorted(missing))}")
    given = set((folder / "cgroup.subtree_control").read_text().split())
    for controller in CONTROLLERS:
        if controller in available - given:
            try:
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError as error:
                raise CgroupError(
                    f"could not give the children of {folder} the controller {controller}: {error.strerror}; "
                    "processes directly in that cgroup are the usual reason (move them to a child of it first)"
                ) from error


def remove_cgroups(name: str, *, deadline_seconds: float, root: Path = CGROUPS) -> None:
    """Kill what is left in the cluster's cgroups and remove them; does nothing when there are none.

    Raises CgroupError when a folder cannot be removed by the deadline.
    """
    deadline = time.monotonic() + deadline_seconds
    for hierarchy in hierarchies(root):
        cluster = hierarchy / cgroup_root(name).lstrip("/")
        while cluster.exists():
            try:
                for folder in _depth_first(cluster):
                    with suppress(FileNotFoundError):
                        folder.rmdir()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise CgroupError(f"could not remove the cgroup {error.filename}: {error.strerror}") from error
                _kill_inside(cluster)
                time.sleep(POLL_SECONDS)


def _depth_first(folder: Path) -> Iterator[Path]:
    for parent, _, _ in os.walk(folder, topdown=False):
        yield Path(parent)


def _kill_inside(cluster: Path) -> None:
    for folder in _depth_first(cluster):
        with suppress(FileNotFoundError):
            for line in (folder / "cgroup.procs").read_text().split():
                # 0 stands for a process of another pid namespace.
                if int(line) > 0:
                    with suppress(ProcessLookupError):
                        os.kill(int(line), signal.SIGKILL)
