"""What a cluster is made of: its programs and the images of its own pods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rung_devcluster.images import build_images
from rung_devcluster.progress import Progress
from rung_devcluster.tools import ensure_tools

PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
SYSTEM_IMAGES = ("pause", "coredns")


def tools_of_a_cluster(tell: Progress) -> Mapping[str, Path]:
    """Return every program of a cluster by name, getting what is missing; raises ToolError."""
    return ensure_tools(PROGRAMS, tell)


def system_archives(tell: Progress) -> tuple[Path, ...]:
    """Return archives of the sandbox image and of CoreDNS; raises ImagesError, CommandError, ToolError."""
    return tuple(build_images(SYSTEM_IMAGES, tell).values())
