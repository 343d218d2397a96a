"""What the machine itself has to bring: root, namespaces, and packages of the distribution."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from rung_devcluster.commands import run
from rung_devcluster.progress import Progress, silent

PACKAGES: Mapping[str, str] = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "mount": "mount",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "hostname": "hostname",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}
"""Program to the Debian or Ubuntu package that has it."""

CNI_PACKAGE = "containernetworking-plugins"
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
CNI_PROGRAMS = ("bridge", "host-local", "loopback", "portmap")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INSTALL_DEADLINE_SECONDS = 600.0

NOT_ROOT = (
    "The embedded cluster needs root (it makes namespaces and cgroups): run this with sudo, or set KUBECONFIG to any "
    "cluster that you have (k3s, kind) and load the images there."
)


class MachineError(RuntimeError):
    """The machine lacks something; the message says what to do about it."""


def require_root() -> None:
    """Raise MachineError with one sentence and the alternative unless this is root."""
    if os.geteuid() != 0:
        raise MachineError(NOT_ROOT)


def program(name: str) -> Path:
    """Return the path of a program of the distribution; raises MachineError."""
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        raise MachineError(f"{name} is missing: apt-get install {PACKAGES.get(name, name)}")
    return Path(found)


def cni_folder() -> Path:
    """Return the folder of the CNI plugins; raises MachineError."""
    for folder in CNI_FOLDERS:
        if all((folder / name).exists() for name in CNI_PROGRAMS):
            return folder
    raise MachineError(f"the CNI plugins are missing: apt-get install {CNI_PACKAGE}")


def missing_packages() -> tuple[str, ...]:
    """Return the packages whose programs are not there, each once."""
    missing = {package for name, package in PACKAGES.items() if shutil.which(name, path=SYSTEM_PATH) is None}
    try:
        cni_folder()
    except MachineError:
        missing.add(CNI_PACKAGE)
    return tuple(sorted(missing))


def ensure_packages(tell: Progress = silent) -> None:
    """Install the packages that are missing when this is root on Debian or Ubuntu; raises MachineError otherwise."""
    missing = missing_packages()
    if not missing:
        return
    line = f"apt-get install --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MachineError(f"packages are missing: {line}")
    tell(f"installing packages: {line}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(("apt-get", "update"), what="packages", deadline_seconds=INSTALL_DEADLINE_SECONDS, environment=environment)
    run(
        ("apt-get", "install", "--yes", "--no-install-recommends", *missing),
        what="packages",
        deadline_seconds=INSTALL_DEADLINE_SECONDS,
        environment=environment,
    )
    if still := missing_packages():
        raise MachineError(f"packages are still missing after `{line}`: {', '.join(still)}")


def snapshotter(folder: Path) -> str:
    """Return with what containerd shall unpack images below `folder`: overlays cannot lie on an overlay."""
    best, kind = Path("/"), ""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, what, *_ = line.split()
        mounted = Path(where.replace("\\040", " "))
        if folder.resolve().is_relative_to(mounted) and mounted.is_relative_to(best):
            best, kind = mounted, what
    return "native" if kind == "overlay" else "overlayfs"
