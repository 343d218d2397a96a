"""Ladders on disk for tests of what people look at: versions as `run` writes them, profiles as a profiler would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rung.api.porting import PortingPlan
from rung.api.version import Profile
from rung.core.repository_layout import profile_key
from rung_porting.repository.folder import TensorShapes, config_text, write_config, write_version, yaml_text

SHAPES = TensorShapes("image", (1, 8, 8), "logits", (10,))
SLO_SECONDS = 0.1
Row = tuple[float, str, int, float, int | None]
"""Accuracy, method, floating-point operations, seconds of one answer, place of the parent in the ladder."""

LADDER: Sequence[Row] = (
    (0.9871, "base", 98_000_000, 0.0100, None),
    (0.9864, "taylor+distilled", 42_000_000, 0.0047, 0),
    (0.9857, "base+int8", 98_000_000, 0.0041, 0),
    (0.9850, "l1", 40_000_000, 0.0049, 0),
    (0.9832, "taylor+distilled+int8", 42_000_000, 0.0021, 1),
    (0.9790, "taylor", 15_000_000, 0.0018, 1),
    (0.9744, "l1+distilled", 8_200_000, 0.0012, 1),
    (0.9715, "resnet8", 9_100_000, 0.0016, None),
    (0.9640, "fpgm+distilled", 3_900_000, 0.00071, 6),
    (0.9521, "l1+distilled+int8", 8_200_000, 0.00064, 6),
    (0.9310, "taylor+distilled", 1_100_000, 0.00042, 8),
)

PLAN = PortingPlan.model_validate(
    {
        "task": "digits",
        "model": {"builtin": "residual", "arguments": {"streams": [8, 16]}},
        "data": {"builtin": "digits", "arguments": {"question": "digit"}},
        "input": [1, 8, 8],
        "budget": {"trials": 4, "time": "20m"},
    }
)


def number_of(row: Row) -> int:
    return 1_000_000 + round(row[0] * 100_000)


def version_document(task: str, ladder: Sequence[Row], place: int, content: bytes, **lineage: Any) -> dict[str, Any]:
    accuracy, method, flops, _, parent = ladder[place]
    made: dict[str, Any] = {"method": method, "epochs": 4, "parameters": flops // 90, "flops": flops, **lineage}
    if parent is not None:
        made |= {"parent": f"{task}-{number_of(ladder[parent])}", "sparsity": 0.4}
    return {
        "taskRef": {"name": task},
        "version": number_of(ladder[place]),
        "artifact": {"uri": "model.onnx", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)},
        "accuracy": {"metric": "accuracy", "value": accuracy, "samples": 2800, "dataset": f"{task}, test split"},
        "lineage": made,
    }


def write_ladder(root: Path, task: str = "digits", ladder: Sequence[Row] = LADDER, card: str | None = None) -> Path:
    """Write versions without profiles."""
    write_config(root, task, config_text(task, SHAPES))
    for place, row in enumerate(ladder):
        content = f"network {row}".encode() * 50
        source = root / f".{task}.onnx"
        source.write_bytes(content)
        write_version(root, task, number_of(row), source, version_document(task, ladder, place, content), card)
        source.unlink()
    return root


def profile_document(seconds: float, hardware_class: str = "n100", *, curve: bool = True) -> dict[str, Any]:
    """Return a profile as its file has it: the API's fields, and those of the profiler beside them."""
    most = 0.86 / seconds
    profile = Profile.model_validate(
        {
            "hardwareClass": hardware_class,
            "cpu": "1",
            "sloLatency": f"{SLO_SECONDS * 1000:g}ms",
            "maxThroughput": most,
            "latency": {
                "p50": f"{1400 * seconds:.3f}ms",
                "p95": f"{3100 * seconds:.3f}ms",
                "p99": f"{4400 * seconds:.3f}ms",
            },
            "cpuSecondsPerInference": seconds,
            "memoryBytes": 48 << 20,
            "loadTime": "180ms",
            "profiledAt": datetime(2026, 3, 1, tzinfo=UTC),
            "tool": "rung-port 0.1.0",
        }
    )
    document = profile.to_json()
    document["throughputInterval"] = {"low": most * 0.97, "high": most * 1.02}
    if curve:
        document["curve"] = [_point(seconds, share) for share in (0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.05)]
    return document


def _point(seconds: float, share: float) -> dict[str, Any]:
    """Return latencies that grow with the load as a queue's do; past saturation they are bounded by the deadline."""
    busy = min(0.86 * share, 0.985)
    waits = [seconds * (1 + factor * busy / (1 - busy)) for factor in (0.5, 1.9, 3.1)]
    p50, p95, p99 = (min(wait, 1.0) for wait in waits)
    late = max(0.0, (p99 - SLO_SECONDS) / p99) * 0.4
    return {
        "rate": share * 0.86 / seconds, "p50Seconds": p50, "p95Seconds": p95, "p99Seconds": p99,
        "lateShare": late, "requests": 4000,
    }  # fmt: skip


def write_profile(root: Path, task: str, number: int, document: Mapping[str, Any]) -> Path:
    time = datetime(2026, 3, 1, tzinfo=UTC)
    path = root / profile_key(task, number, str(document["hardwareClass"]), time)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(document)), encoding="utf-8")
    return path


def write_profiles(root: Path, task: str = "digits", ladder: Sequence[Row] = LADDER, **slower: float) -> None:
    """Write a profile of every version for each class, `class=factor` by which it is slower."""
    for name, factor in slower.items():
        for row in ladder:
            write_profile(root, task, number_of(row), profile_document(row[3] * factor, name))


def tried(accuracy: float, flops: int, verdict: str, number: int | None = None, method: str = "l1") -> dict[str, Any]:
    return {
        "number": number, "verdict": verdict, "method": method, "int8": "int8" in method, "accuracy": accuracy,
        "validationAccuracy": accuracy, "latencySeconds": flops * 1.1e-10 + 2e-5, "parameters": 10, "flops": flops,
        "epochs": 2,
    }  # fmt: skip


def write_record(root: Path, task: str = "digits", ladder: Sequence[Row] = LADDER) -> Path:
    """Write the record of a search in which this ladder survived, and seven others did not."""
    made = [tried(row[0], row[2], "survived", number_of(row), row[1]) for row in ladder]
    lost = [
        tried(0.981 - 0.008 * place, 60_000_000 // 2**place, "beaten by l1+distilled: better at fewer operations")
        for place in range(7)
    ]
    trials: list[dict[str, Any]] = [
        {
            "trial": index, "recipe": {}, "sentence": f"#0; 4{index % 10}% out (L1), 4 epochs x1.3", "seconds": 12.5,
            "failure": None, "notes": ["INT8 is 0.68x as fast here, below 1.1x: it does not pay"], "versions": [each],
        }
        for index, each in enumerate([*made, *lost])
    ]  # fmt: skip
    trials.append({"trial": 99, "sentence": "#0; 98% out", "failure": "NaN loss", "notes": [], "versions": []})
    record = {"task": task, "plan": PLAN.to_json(), "over": "18 of 18 trials are made", "trials": trials}
    path = root / f"{task}.search.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def write_plan(root: Path, task: str = "digits") -> Path:
    path = root / f"{task}.plan.yaml"
    path.write_text(yaml_text(PLAN.to_json()), encoding="utf-8")
    return path
