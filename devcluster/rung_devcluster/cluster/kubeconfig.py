"""Kubeconfig files: for the components inside, and for people and programs outside."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from rung_devcluster.cluster.pki import KeyPair


def write_kubeconfig(path: Path, *, cluster: str, server: str, authority: Path, client: KeyPair) -> None:
    """Write a kubeconfig (JSON, which is YAML too) that only root can read, with the certificates inside it."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": _encoded(authority)}}
        ],
        "users": [
            {
                "name": cluster,
                "user": {
                    "client-certificate-data": _encoded(client.certificate),
                    "client-key-data": _encoded(client.key),
                },
            }
        ],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
        "current-context": cluster,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=2) + "\n")


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
