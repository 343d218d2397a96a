"""What a cluster is made of: its programs and the images of its own pods."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rung_devcluster.progress import Progress
from rung_devcluster.system import MachineError

PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)


def tools_of_a_cluster(tell: Progress) -> Mapping[str, Path]:
    """Return every program of a cluster by name."""
    folder = Path(os.environ.get("RUNG_DEVCLUSTER_TOOLS", "/nowhere"))
    found = {name: folder / name for name in PROGRAMS}
    for path in found.values():
        if not path.exists():
            raise MachineError(f"{path} is missing")
    tell(f"tools: {folder}")
    return found


def system_archives(tell: Progress) -> tuple[Path, ...]:
    """Return archives of the sandbox image and of CoreDNS."""
    folder = Path(os.environ.get("RUNG_DEVCLUSTER_IMAGES", "/nowhere"))
    tell(f"images: {folder}")
    return (folder / "pause.tar", folder / "coredns.tar")
