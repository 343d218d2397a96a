"""Where a cluster keeps its files: one folder for each cluster, gone after `down`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# Not below /run, /var/lib or /var/log: each node has its own of those (see node_system.py). Not in memory either:
# unpacked images lie here.
DEFAULT_HOME = Path("/var/cache/rung-devcluster")
HOME_VARIABLE = "RUNG_DEVCLUSTER_HOME"


def home() -> Path:
    """Return the folder of all clusters: `$RUNG_DEVCLUSTER_HOME` or /var/cache/rung-devcluster."""
    return Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).absolute()


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """The files of one node."""

    folder: Path

    @property
    def etc(self) -> Path:
        """Configuration, written before the node starts."""
        return self.folder / "etc"

    @property
    def logs(self) -> Path:
        """One log for each component."""
        return self.folder / "logs"

    @property
    def var_lib(self) -> Path:
        """What the node sees as /var/lib."""
        return self.folder / "var-lib"

    @property
    def var_log(self) -> Path:
        """What the node sees as /var/log."""
        return self.folder / "var-log"

    @property
    def temporary(self) -> Path:
        """What the node's processes use as TMPDIR."""
        return self.folder / "tmp"

    @property
    def sysctl(self) -> Path:
        """Files that stand in for kernel settings of the whole machine."""
        return self.folder / "sysctl"

    @property
    def images(self) -> Path:
        """Which images this node has: a JSON object of reference to image digest."""
        return self.folder / "images.json"

    def log(self, component: str) -> Path:
        """The log of one component."""
        return self.logs / f"{component}.log"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one cluster."""

    folder: Path

    @staticmethod
    def of(name: str) -> Layout:
        """The files of the cluster with this name."""
        return Layout(home() / name)

    @property
    def spec(self) -> Path:
        """The cluster's spec (spec.py) as JSON."""
        return self.folder / "spec.json"

    @property
    def tools(self) -> Path:
        """Program name to path, as JSON."""
        return self.folder / "tools.json"

    @property
    def archives(self) -> Path:
        """Paths of the system's image archives, as JSON."""
        return self.folder / "archives.json"

    @property
    def state(self) -> Path:
        """What runs (state.py), as JSON."""
        return self.folder / "state.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for programs outside the namespaces."""
        return self.folder / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.folder / "pki"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor and the nodes' first processes said."""
        return self.folder / "supervisor.log"

    def node(self, number: int) -> NodeLayout:
        """The files of one node."""
        return NodeLayout(self.folder / f"node-{number}")
