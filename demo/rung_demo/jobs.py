"""The Jobs that the demo runs in the cluster: one program of one image, with no rights beyond its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def job(
    name: str,
    image: str,
    command: Sequence[str],
    *,
    container: Mapping[str, Any],
    volumes: Sequence[Mapping[str, Any]],
    tries: int,
    deadline_seconds: int,
) -> dict[str, Any]:
    """Return a Job whose only container runs `command`; `container` has its further fields, which win."""
    whole = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [command[0]],
        "args": list(command[1:]),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **container,
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [whole],
        "volumes": list(volumes),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": tries - 1, "activeDeadlineSeconds": deadline_seconds, "template": {"spec": pod}},
    }
