"""What a cluster shall be, and the addresses that follow from it. Pure data.

Every cluster lives in network namespaces of its own, so all clusters use the same addresses and never meet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

MAXIMAL_NODES = 3
API_SERVER_PORT = 6443
CLUSTER_DOMAIN = "cluster.local"
POD_NETWORK = "10.88.0.0/16"
NODE_NETWORK_BITS = 24
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVER_SERVICE_ADDRESS = "10.96.0.1"
DNS_SERVICE_ADDRESS = "10.96.0.10"
HARDWARE_CLASS_LABEL = "rung.dev/hardware-class"
DEFAULT_HARDWARE_CLASS = "default"

COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "containerd",
    "kubelet",
    "kube-proxy",
)

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


class SpecError(ValueError):
    """The wanted cluster cannot exist; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node; `number` counts from 1, and node 1 also runs the control plane."""

    number: int
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Its address on the network between the nodes."""
        return f"10.89.0.{self.number}"

    @property
    def pod_network(self) -> str:
        """The addresses of the pods on this node."""
        return f"10.88.{self.number}.0/24"

    @property
    def pod_gateway(self) -> str:
        """The node's own address on its pod network."""
        return f"10.88.{self.number}.1"


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """One cluster: its name, its nodes, and arguments to add to a component's command line."""

    name: str
    nodes: tuple[NodeSpec, ...]
    extra_arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def api_server_url(self) -> str:
        """Where components inside the namespaces find the API server."""
        return f"https://{self.nodes[0].address}:{API_SERVER_PORT}"

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> ClusterSpec:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        return ClusterSpec(
            name=data["name"],
            nodes=tuple(NodeSpec(**node) for node in data["nodes"]),
            extra_arguments={key: tuple(values) for key, values in data["extra_arguments"].items()},
        )


def check_name(name: str) -> str:
    """Return the name when a cluster may have it; raises SpecError."""
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} cannot be a cluster's name: "
            "at most 30 lower-case letters, digits and '-', a letter first and no '-' last"
        )
    return name


def cluster_spec(
    name: str = "rung",
    *,
    nodes: int = 1,
    node_classes: Mapping[str, str] | None = None,
    node_labels: Mapping[str, Mapping[str, str]] | None = None,
    extra_arguments: Mapping[str, tuple[str, ...]] | None = None,
) -> ClusterSpec:
    """Make the spec of a cluster from what a person typed.

    A node is named by its number ("1") or by its full name ("rung-1") in `node_classes` (node to hardware class) and
    `node_labels` (node to labels). `extra_arguments` maps a component to arguments that are appended to its own.

    Raises SpecError for an impossible name, count, node, label or component.
    """
    check_name(name)
    if not 1 <= nodes <= MAXIMAL_NODES:
        raise SpecError(f"a development cluster has 1 to {MAXIMAL_NODES} nodes, not {nodes}")
    names = [f"{name}-{number}" for number in range(1, nodes + 1)]
    labels: dict[str, dict[str, str]] = {node: {HARDWARE_CLASS_LABEL: DEFAULT_HARDWARE_CLASS} for node in names}
    for given, value in (node_classes or {}).items():
        labels[_node(given, names)][HARDWARE_CLASS_LABEL] = _label_value(value)
    for given, more in (node_labels or {}).items():
        for key, value in more.items():
            labels[_node(given, names)][_label_key(key)] = _label_value(value)
    for component in extra_arguments or {}:
        if component not in COMPONENTS:
            raise SpecError(f"there is no component {component!r}; there are {', '.join(COMPONENTS)}")
    return ClusterSpec(
        name=name,
        nodes=tuple(NodeSpec(number, node, labels[node]) for number, node in enumerate(names, start=1)),
        extra_arguments=dict(extra_arguments or {}),
    )


def _node(given: str, names: list[str]) -> str:
    if given in names:
        return given
    if given.isdecimal() and 1 <= int(given) <= len(names):
        return names[int(given) - 1]
    raise SpecError(f"there is no node {given!r}; this cluster's nodes are {', '.join(names)} (or their numbers)")


def _label_key(key: str) -> str:
    # The kubelet may not give itself most labels of these domains (the NodeRestriction rule).
    domain = key.partition("/")[0] if "/" in key else ""
    if not _LABEL_KEY.fullmatch(key) or domain.endswith(("kubernetes.io", "k8s.io")):
        raise SpecError(f"{key!r} cannot be the key of a node's label")
    return key


def _label_value(value: str) -> str:
    if not _LABEL_VALUE.fullmatch(value):
        raise SpecError(f"{value!r} cannot be a label's value: at most 63 letters, digits, '-', '_' and '.'")
    return value
