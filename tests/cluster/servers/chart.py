"""What the chart says, read from its golden: the rendered templates, which `charts/check` keeps true."""

from __future__ import annotations

from pathlib import Path

import yaml

GOLDEN = Path(__file__).resolve().parents[3] / "charts" / "goldens" / "default.golden.yaml"


def annotated_port() -> tuple[str, str]:
    """What the annotations of a Triton pod tell Prometheus to scrape: the name of the port, and the path."""
    (template,) = (
        document["spec"]["template"]
        for document in yaml.safe_load_all(GOLDEN.read_text())
        if document and document["kind"] == "DaemonSet"
    )
    annotations = template["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    ports = [port for container in template["spec"]["containers"] for port in container["ports"]]
    (name,) = (port["name"] for port in ports if str(port["containerPort"]) == annotations["prometheus.io/port"])
    return name, annotations["prometheus.io/path"]
