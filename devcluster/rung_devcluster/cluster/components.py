"""The components of a node: their command lines, and how each says that it is ready. Nothing is started here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rung_devcluster.cluster.layout import Layout, NodeLayout
from rung_devcluster.cluster.spec import (
    API_SERVER_PORT,
    CLUSTER_DOMAIN,
    SERVICE_NETWORK,
    ClusterSpec,
    NodeSpec,
)

CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
ETCD_URL = "http://127.0.0.1:2379"


@dataclass(frozen=True, slots=True)
class Component:
    """One long-running program of a node.

    It is ready when `ready_url` answers 200 (HTTPS is checked against the cluster's authority), or when `ready_socket`
    takes a connection. It is started once everything in `after` is ready; "images" stands for the system's images.
    """

    name: str
    command: tuple[str, ...]
    ready_url: str | None = None
    ready_socket: Path | None = None
    after: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def components_of(spec: ClusterSpec, node: NodeSpec, layout: Layout, tools: Mapping[str, str]) -> tuple[Component, ...]:
    """Return the components of one node, in the order in which a person would list them."""
    files = layout.node(node.number)
    first = _control_plane(spec, node, layout, tools) if node.number == 1 else ()
    every = (*first, *_worker(spec, node, files, tools, api_server_here=bool(first)))
    return tuple(
        Component(
            name=component.name,
            command=(*component.command, *spec.extra_arguments.get(component.name, ())),
            ready_url=component.ready_url,
            ready_socket=component.ready_socket,
            after=component.after,
            environment=component.environment,
        )
        for component in every
    )


def _control_plane(
    spec: ClusterSpec, node: NodeSpec, layout: Layout, tools: Mapping[str, str]
) -> tuple[Component, ...]:
    pki, etc = layout.pki, layout.node(node.number).etc
    serving = (f"--tls-cert-file={pki}/loopback.crt", f"--tls-private-key-file={pki}/loopback.key")
    etcd = Component(
        "etcd",
        (
            tools["etcd"],
            "--name=etcd",
            f"--data-dir={layout.node(node.number).var_lib}/etcd",
            f"--listen-client-urls={ETCD_URL}",
            f"--advertise-client-urls={ETCD_URL}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            # The cluster is thrown away with its machine's next hiccup anyway; waiting for the disk only slows it.
            "--unsafe-no-fsync",
        ),
        ready_url=f"{ETCD_URL}/health",
    )
    api_server = Component(
        "kube-apiserver",
        (
            tools["kube-apiserver"],
            f"--etcd-servers={ETCD_URL}",
            f"--advertise-address={node.address}",
            f"--secure-port={API_SERVER_PORT}",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            f"--tls-cert-file={pki}/kube-apiserver.crt",
            f"--tls-private-key-file={pki}/kube-apiserver.key",
            f"--client-ca-file={pki}/ca.crt",
            f"--authentication-config={etc}/authentication.json",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--kubelet-client-certificate={pki}/kubelet-client.crt",
            f"--kubelet-client-key={pki}/kubelet-client.key",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
            f"--service-account-signing-key-file={pki}/service-accounts.key",
            f"--service-account-key-file={pki}/service-accounts.pub",
            f"--requestheader-client-ca-file={pki}/front-proxy/ca.crt",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki}/front-proxy/front-proxy.crt",
            f"--proxy-client-key-file={pki}/front-proxy/front-proxy.key",
        ),
        ready_url=f"https://127.0.0.1:{API_SERVER_PORT}/readyz",
        after=("etcd",),
    )
    controller_manager = Component(
        "kube-controller-manager",
        (
            tools["kube-controller-manager"],
            *_kubeconfigs(etc / "kube-controller-manager.kubeconfig"),
            *serving,
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki}/service-accounts.key",
            f"--root-ca-file={pki}/ca.crt",
            f"--flex-volume-plugin-dir={etc}/volume-plugins",
            # It makes dozens of clients at its start, and nobody else is waiting for this API server.
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            # Each node's pod network is fixed by its number.
            "--allocate-node-cidrs=false",
        ),
        ready_url="https://127.0.0.1:10257/healthz",
        after=("kube-apiserver",),
    )
    scheduler = Component(
        "kube-scheduler",
        (
            tools["kube-scheduler"],
            *_kubeconfigs(etc / "kube-scheduler.kubeconfig"),
            *serving,
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ),
        ready_url="https://127.0.0.1:10259/readyz",
        after=("kube-apiserver",),
    )
    return etcd, api_server, controller_manager, scheduler


def _kubeconfigs(path: Path) -> tuple[str, ...]:
    return (
        f"--kubeconfig={path}",
        f"--authentication-kubeconfig={path}",
        f"--authorization-kubeconfig={path}",
    )


def _worker(
    spec: ClusterSpec, node: NodeSpec, files: NodeLayout, tools: Mapping[str, str], *, api_server_here: bool
) -> tuple[Component, ...]:
    waits = ("kube-apiserver",) if api_server_here else ("network",)
    containerd = Component(
        "containerd",
        (tools["containerd"], "--config", str(files.etc / "containerd.toml")),
        ready_socket=CONTAINERD_SOCKET,
    )
    kubelet = Component(
        "kubelet",
        (
            tools["kubelet"],
            f"--config={files.etc}/kubelet.json",
            f"--kubeconfig={files.etc}/kubelet.kubeconfig",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            f"--node-labels={','.join(f'{key}={value}' for key, value in sorted(node.labels.items()))}",
            "--root-dir=/var/lib/kubelet",
            # cAdvisor's CPU counters then move every second instead of every ten.
            "--housekeeping-interval=1s",
        ),
        ready_url="http://127.0.0.1:10248/healthz",
        after=("containerd", "images", *waits),
    )
    proxy = Component(
        "kube-proxy",
        (tools["kube-proxy"], f"--config={files.etc}/kube-proxy.json", f"--hostname-override={node.name}"),
        ready_url="http://127.0.0.1:10256/healthz",
        after=waits,
    )
    return containerd, kubelet, proxy
