"""Makes fresh namespaces into a machine: mounts, kernel settings, addresses and routes. Runs inside them."""

from __future__ import annotations

from pathlib import Path

from rung_devcluster.cluster.layout import NodeLayout
from rung_devcluster.cluster.spec import NODE_NETWORK_BITS, SERVICE_NETWORK, ClusterSpec, NodeSpec
from rung_devcluster.commands import run

COMMAND_DEADLINE_SECONDS = 10.0
NODES_LINK = "nodes0"

# The kubelet sets these for the whole machine. It gets files of its own instead, with the values that it wants.
MASKED_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def link_name(node: NodeSpec) -> str:
    """The name, on node 1, of the link to another node."""
    return f"node{node.number}"


def prepare_mounts(node: NodeSpec, files: NodeLayout) -> None:
    """Give the node a /run, /var/lib and /var/log of its own, and harmless copies of the machine's kernel settings."""
    _run("mount", "-t", "tmpfs", "-o", "mode=0755", "rung-devcluster", "/run")
    _run("mount", "--bind", str(files.var_lib), "/var/lib")
    _run("mount", "--bind", str(files.var_log), "/var/log")
    for setting, value in MASKED_SETTINGS.items():
        target = Path("/proc/sys") / setting
        if target.exists():
            copy = files.sysctl / setting.replace("/", ".")
            copy.write_text(f"{value}\n")
            _run("mount", "--bind", str(copy), str(target))
    _run("hostname", node.name)
    _run("ip", "link", "set", "lo", "up")


def prepare_network(spec: ClusterSpec, node: NodeSpec) -> None:
    """Join the network between the nodes and route to every pod and Service.

    Node 1 holds the bridge; the links of the others are there already (the supervisor made them).
    """
    if node.number == 1:
        _run("ip", "link", "add", NODES_LINK, "type", "bridge")
        for other in spec.nodes[1:]:
            _run("ip", "link", "set", link_name(other), "master", NODES_LINK, "up")
    _run("ip", "address", "add", f"{node.address}/{NODE_NETWORK_BITS}", "dev", NODES_LINK)
    _run("ip", "link", "set", NODES_LINK, "up")
    # kube-proxy rewrites Services' addresses, but only for packets that have a route to begin with.
    _run("ip", "route", "add", SERVICE_NETWORK, "dev", NODES_LINK)
    for other in spec.nodes:
        if other.number != node.number:
            _run("ip", "route", "add", other.pod_network, "via", other.address)
    _set("net/ipv4/ip_forward", "1")
    if Path("/proc/sys/net/bridge").exists():
        _set("net/bridge/bridge-nf-call-iptables", "1")


def _set(setting: str, value: str) -> None:
    target = Path("/proc/sys") / setting
    if target.read_text().strip() != value:
        target.write_text(value)


def _run(*command: str) -> None:
    run(command, what=f"node: {command[0]}", deadline_seconds=COMMAND_DEADLINE_SECONDS)
