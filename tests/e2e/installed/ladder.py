"""Small real versions in the cluster's own S3, published and registered with the code that `rung-port` runs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import yaml

from installed.cluster import Namespace
from rung.adapters.kubernetes import connect
from rung.adapters.s3 import ModelRepository
from rung.core.repository_layout import profile_key
from rung_demo.environment import BUCKET_URI, S3_ENV, S3_PORT
from rung_porting.repository.folder import write_config, write_version
from rung_porting.repository.publish import publish
from rung_porting.repository.register import register
from servers.models import config_text, version_model

CHEAPEST, MIDDLE, BEST = 1_080_000, 1_085_000, 1_090_000
LAYERS = {CHEAPEST: 1, MIDDLE: 4, BEST: 16}
"""What each version costs; its accuracy is in its number."""


def write_ladder(folder: Path, task: str, layers: Mapping[int, int] = LAYERS, *, one_matrix: bool = False) -> Path:
    """Write versions as `rung-port run` does; each answers with its own number."""
    write_config(folder / "models", task, config_text(task))
    for number, count in layers.items():
        content = version_model(number, layers=count, one_matrix=one_matrix)
        source = folder / "source.onnx"
        source.write_bytes(content)
        spec = {
            "taskRef": {"name": task},
            "version": number,
            "artifact": {
                "uri": "model.onnx",
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
            },
            "accuracy": {"metric": "top1", "value": number % 1_000_000 / 100_000, "samples": 100, "dataset": "made"},
            "lineage": {"method": "base", "flops": count},
        }
        write_version(folder / "models", task, number, source, spec)
    return folder / "models"


def serve_ladder(namespace: Namespace, folder: Path, *tasks: str) -> None:
    """Publish a ladder for each task into the namespace's S3 and register it, through a port-forward as a user does."""
    for task in tasks:
        write_ladder(folder, task)
    with namespace.kubernetes.forwarded("service/s3", S3_PORT) as address:
        asyncio.run(_publish(namespace, folder / "models", f"http://{address}", tasks))


async def _publish(namespace: Namespace, models: Path, endpoint: str, tasks: tuple[str, ...]) -> None:
    repository = ModelRepository(
        BUCKET_URI,
        endpoint=endpoint,
        access_key_id=S3_ENV["AWS_ACCESS_KEY_ID"],
        secret_access_key=S3_ENV["AWS_SECRET_ACCESS_KEY"],
    )
    said: list[str] = []
    published = await publish(models, repository, said.append)
    assert (published.published, published.faults) == (len(tasks) * len(LAYERS), 0), said
    for task in tasks:
        for number, layers in LAYERS.items():
            await repository.put_if_absent(
                profile_key(task, number, "default", datetime.now(UTC)), _profile(1000.0 / layers)
            )
    async with connect(namespace.kubernetes.kubeconfig) as cluster:
        registered = await register(repository, cluster, namespace.name, said.append)
    assert (registered.created, registered.faults) == (len(tasks) * len(LAYERS), 0), said


def _profile(throughput_rps: float) -> bytes:
    profile = {
        "hardwareClass": "default",
        "sloLatency": "400ms",
        "maxThroughput": throughput_rps,
        "cpuSecondsPerInference": 1.0 / throughput_rps,
    }
    return yaml.safe_dump(profile).encode()
