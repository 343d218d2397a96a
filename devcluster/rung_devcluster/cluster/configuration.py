"""The cluster's files: certificates, kubeconfigs and configurations of the components; written before the start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rung_devcluster.cluster.components import CONTAINERD_SOCKET
from rung_devcluster.cluster.kubeconfig import write_kubeconfig
from rung_devcluster.cluster.layout import Layout, NodeLayout
from rung_devcluster.cluster.pki import Authority, KeyPair, write_signing_keys
from rung_devcluster.cluster.spec import (
    API_SERVER_SERVICE_ADDRESS,
    CLUSTER_DOMAIN,
    DNS_SERVICE_ADDRESS,
    POD_NETWORK,
    ClusterSpec,
    NodeSpec,
)

PAUSE_IMAGE = "localhost/rung-devcluster/pause:1"


def write_configuration(
    spec: ClusterSpec,
    layout: Layout,
    *,
    host_port: int,
    cgroup_root: str,
    cni_programs: Path,
    snapshotter: str,
) -> None:
    """Write every certificate and configuration file of the cluster, the administrator's kubeconfig among them.

    `host_port` is where the API server is found on the machine's own loopback, `cgroup_root` the cluster's cgroup as
    seen from the root of each hierarchy, `snapshotter` what containerd unpacks images with.
    """
    authority = Authority(layout.pki)
    front_proxy = Authority(layout.pki / "front-proxy")
    front_proxy.issue("front-proxy", "front-proxy")
    write_signing_keys(layout.pki / "service-accounts.key", layout.pki / "service-accounts.pub")
    first = spec.nodes[0]
    authority.issue(
        "kube-apiserver",
        "kube-apiserver",
        server_names=(
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
            "127.0.0.1",
            first.address,
            API_SERVER_SERVICE_ADDRESS,
        ),
    )
    authority.issue("kubelet-client", "kube-apiserver-kubelet-client", groups=("system:masters",))
    authority.issue("loopback", "loopback", server_names=("localhost", "127.0.0.1"))
    administrator = authority.issue("administrator", "kubernetes-admin", groups=("system:masters",))
    write_kubeconfig(
        layout.kubeconfig,
        cluster=spec.name,
        server=f"https://127.0.0.1:{host_port}",
        authority=authority.certificate,
        client=administrator,
    )

    def kubeconfig(path: Path, client: KeyPair) -> None:
        write_kubeconfig(
            path, cluster=spec.name, server=spec.api_server_url, authority=authority.certificate, client=client
        )

    for node in spec.nodes:
        files = layout.node(node.number)
        for folder in (files.etc, files.logs, files.var_lib, files.var_log, files.temporary, files.sysctl):
            folder.mkdir(parents=True)
        pair = authority.issue(
            f"kubelet-{node.number}",
            f"system:node:{node.name}",
            groups=("system:nodes",),
            server_names=(node.name, node.address, "127.0.0.1"),
        )
        kubeconfig(files.etc / "kubelet.kubeconfig", pair)
        kubeconfig(
            files.etc / "kube-proxy.kubeconfig", authority.issue(f"kube-proxy-{node.number}", "system:kube-proxy")
        )
        _write_json(files.etc / "kubelet.json", _kubelet(node, layout, pair, cgroup_root))
        _write_json(files.etc / "kube-proxy.json", _kube_proxy(node, files))
        _write_json(files.etc / "cni" / "10-rung.conflist", _cni(node))
        (files.etc / "resolv.conf").write_text("# The cluster has no way out.\n")
        (files.etc / "containerd.toml").write_text(_containerd(files, cni_programs, snapshotter))
    etc = layout.node(first.number).etc
    for name in ("kube-controller-manager", "kube-scheduler"):
        kubeconfig(etc / f"{name}.kubeconfig", authority.issue(name, f"system:{name}"))
    _write_json(etc / "authentication.json", _authentication())


def _authentication() -> Mapping[str, object]:
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": True, "conditions": [{"path": path} for path in ("/livez", "/readyz", "/healthz")]},
    }


def _kubelet(node: NodeSpec, layout: Layout, pair: KeyPair, cgroup_root: str) -> Mapping[str, object]:
    files = layout.node(node.number)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pair.certificate),
        "tlsPrivateKeyFile": str(pair.key),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"{cgroup_root}/node-{node.number}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [DNS_SERVICE_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(files.etc / "resolv.conf"),
        "volumePluginDir": str(files.etc / "volume-plugins"),
        # Lowering the score takes a capability that root does not have everywhere.
        "oomScoreAdj": 0,
        # The disk belongs to a person: how full it is says nothing about this cluster. Images were loaded by hand,
        # so collecting them would lose them.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
    }


def _kube_proxy(node: NodeSpec, files: NodeLayout) -> Mapping[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": POD_NETWORK,
        "clientConnection": {"kubeconfig": str(files.etc / "kube-proxy.kubeconfig")},
        "oomScoreAdj": 0,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": f"{node.address}:10249",
        # Zero leaves the kernel's limits alone: they belong to the whole machine.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
            "udpTimeout": "0s",
            "udpStreamTimeout": "0s",
        },
    }


def _cni(node: NodeSpec) -> Mapping[str, object]:
    return {
        "cniVersion": "0.4.0",
        "name": "rung",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods0",
                "isDefaultGateway": True,
                # Every node has a route to every pod, and there is no way out: nothing needs another address.
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": node.pod_network, "gateway": node.pod_gateway}]]},
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _containerd(files: NodeLayout, cni_programs: Path, snapshotter: str) -> str:
    # AppArmor off: loading its profile would outlive the cluster.
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_programs}"
    conf_dir = "{files.etc / "cni"}"
"""


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
