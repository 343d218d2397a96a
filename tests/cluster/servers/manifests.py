"""The smallest valid object of each kind, and a way to make it different."""

from __future__ import annotations

import copy
from typing import Any

SHA256 = "0123456789abcdef" * 4

_SPECS: dict[str, dict[str, Any]] = {
    "InferenceTask": {"poolRef": {"name": "edge"}, "slo": {"latency": "400ms"}},
    "ModelVersion": {
        "taskRef": {"name": "digits"},
        "version": 1_098_820,
        "artifact": {"uri": "s3://models/rung/digits/1098820/model.onnx", "sha256": SHA256, "bytes": 1000},
        "accuracy": {"value": 0.9882},
    },
    "PortingJob": {
        "task": "digits",
        "model": {"builtin": "residual"},
        "data": {"builtin": "digits"},
        "input": [1, 8, 8],
    },
    "ServingPool": {
        "serverSelector": {"rung.dev/pool": "edge"},
        "metrics": {"prometheusUrl": "http://prometheus:9090"},
    },
}

ABSENT = object()
"""Given as a value: the field is removed."""


def manifest(kind: str, namespace: str, name: str = "one", **changes: Any) -> dict[str, Any]:
    """Return a valid object; each change is a path in the spec, its dots written as two underscores, and a value."""
    spec = copy.deepcopy(_SPECS[kind])
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = spec
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is ABSENT:
            place.pop(last, None)
        else:
            place[last] = value
    return {
        "apiVersion": "rung.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
