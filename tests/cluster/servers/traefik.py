"""A real controller of the Gateway API on loopback: Traefik, which k3s brings along, following a real API server."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from rung_devcluster.tools import ensure_tools
from rung_devcluster.tools.catalogue import GOTOOLS
from rung_devcluster.tools.gobuild import go_program
from servers.apiserver import ApiServer
from servers.ports import free_port
from servers.site import Process

START_SECONDS = 60.0
GATEWAY = "edge"


def gateway_crds() -> Path:
    """Return the folder of the Gateway API's definitions, of the version that Traefik is built with."""
    command = [str(go_program()), "mod", "download", "-json", "sigs.k8s.io/gateway-api"]
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off"}
    done = subprocess.run(
        command, cwd=GOTOOLS / "traefik", env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return Path(json.loads(done.stdout)["Dir"]) / "config" / "crd" / "standard"


@contextlib.contextmanager
def running_traefik(folder: Path, api: ApiServer, namespace: str) -> Iterator[int]:
    """Run Traefik with a Gateway in a namespace, and give the port at which it takes HTTP and gRPC."""
    port, admin = free_port(), free_port()
    gateway_class = {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "traefik"},
        "spec": {"controllerName": "traefik.io/gateway-controller"},
    }  # fmt: skip
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": GATEWAY, "namespace": namespace},
        "spec": {
            "gatewayClassName": "traefik", "listeners": [{"name": "web", "protocol": "HTTP", "port": port}],
        },
    }  # fmt: skip
    api.kubectl("apply", "-f", "-", manifest=[gateway_class, gateway])
    folder.mkdir(parents=True, exist_ok=True)
    process = Process(
        "traefik",
        [
            str(ensure_tools(["traefik"])["traefik"]), f"--entrypoints.web.address=127.0.0.1:{port}",
            f"--entrypoints.traefik.address=127.0.0.1:{admin}", "--ping=true", "--providers.kubernetesgateway=true",
            "--providers.providersthrottleduration=100ms", "--global.checknewversion=false",
            "--global.sendanonymoususage=false", "--log.level=INFO",
        ],
        folder, {"KUBECONFIG": str(api.kubeconfig)},
    )  # fmt: skip
    process.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{admin}/ping", timeout=1):
                break
            if time.monotonic() > deadline:
                raise RuntimeError("Traefik does not answer; its log is in " + str(folder))
            time.sleep(0.1)
        yield port
    finally:
        process.end()
