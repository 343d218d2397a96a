"""What `status` says about a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung_devcluster.cluster.api import ApiClient, ApiError, is_condition_true
from rung_devcluster.cluster.control import RunningCluster


def facts_of(cluster: RunningCluster) -> Mapping[str, Any]:
    """Return what is known of a running cluster as plain data; a silent API server is one of the facts."""
    nodes = {
        node.name: {
            "address": node.address,
            "labels": dict(node.labels),
            "ready": False,
            "components": dict(cluster.state.components.get(node.name, {})),
        }
        for node in cluster.spec.nodes
    }
    answer = "yes"
    try:
        for item in ApiClient(cluster.kubeconfig).get("/api/v1/nodes")["items"]:
            if item["metadata"]["name"] in nodes:
                nodes[item["metadata"]["name"]]["ready"] = is_condition_true(item, "Ready")
    except (ApiError, OSError) as error:
        answer = f"no: {error}"
    return {
        "name": cluster.spec.name,
        "ready": cluster.state.ready,
        "secondsToReady": cluster.state.seconds_to_ready,
        "apiServerAnswers": answer,
        "kubeconfig": str(cluster.kubeconfig),
        "folder": str(cluster.layout.folder),
        "supervisor": cluster.state.supervisor.pid,
        "nodes": nodes,
    }


def as_text(facts: Mapping[str, Any]) -> str:
    """Return the facts as lines for a person."""
    lines = [
        f"{facts['name']}: {'up' if facts['ready'] else 'starting'}",
        f"  API server answers: {facts['apiServerAnswers']}",
        f"  KUBECONFIG={facts['kubeconfig']}",
        f"  logs: {facts['folder']}/node-*/logs",
    ]
    for name, node in facts["nodes"].items():
        labels = ", ".join(f"{key}={value}" for key, value in sorted(node["labels"].items()))
        lines.append(f"  {name} ({node['address']}; {labels}): {'Ready' if node['ready'] else 'not Ready'}")
        lines += [f"    {component}: {last}" for component, last in node["components"].items()]
    return "\n".join(lines)
