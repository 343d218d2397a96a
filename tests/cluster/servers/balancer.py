"""The chart's balancer on loopback: its own configuration and filter, with the ports of a test."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from servers.envoy import running_envoy
from servers.ports import free_port

FILES = Path(__file__).resolve().parents[3] / "charts" / "rung" / "files"


def bootstrap(xds_port: int, grpc_port: int, http_port: int, admin_port: int) -> dict[str, Any]:
    """Return what the chart's balancer begins with, at these ports of loopback."""
    text = (FILES / "envoy.yaml").read_text().replace("/etc/envoy/model.lua", str(FILES / "model.lua"))
    made: dict[str, Any] = yaml.safe_load(text.replace("OPERATOR", "127.0.0.1"))
    listeners = {each["name"]: each["address"]["socket_address"] for each in made["static_resources"]["listeners"]}
    (cluster,) = made["static_resources"]["clusters"]
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    at = {
        xds_port: endpoint["endpoint"]["address"]["socket_address"],
        grpc_port: listeners["grpc"],
        http_port: listeners["http"],
        admin_port: made["admin"]["address"]["socket_address"],
    }
    for port, address in at.items():
        address.update(address="127.0.0.1", port_value=port)
    return made


@contextlib.contextmanager
def running_balancer(folder: Path, pool: str, xds_port: int) -> Iterator[tuple[int, int, subprocess.Popen[bytes]]]:
    """Run a balancer that asks for a pool's table; gives its ports for gRPC and HTTP, and its process."""
    grpc_port, http_port, admin_port = free_port(), free_port(), free_port()
    flags = ["--service-cluster", pool, "--service-node", f"balancer-{admin_port}"]
    with running_envoy(folder, bootstrap(xds_port, grpc_port, http_port, admin_port), admin_port, flags) as process:
        yield grpc_port, http_port, process
