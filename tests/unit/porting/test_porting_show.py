"""The ladder as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rung.api.version import ModelVersionSpec
from rung_porting.repository.catalogue import ladder
from rung_porting.show.table import ladder_table


def version(accuracy: float, throughput_rps: Mapping[str, float]) -> ModelVersionSpec:
    profiles: Sequence[Mapping[str, Any]] = [
        {"hardwareClass": name, "maxThroughput": rate, "sloLatency": "100ms"} for name, rate in throughput_rps.items()
    ]
    return ModelVersionSpec.model_validate(
        {
            "taskRef": {"name": "digits"},
            "version": int(1_000_000 + accuracy * 100_000),
            "artifact": {"uri": "s3://models/digits/1/model.onnx", "sha256": "0" * 64, "bytes": 1},
            "accuracy": {"metric": "accuracy", "value": accuracy, "samples": 700, "dataset": "test"},
            "lineage": {"method": "base", "flops": 100},
            "profiles": profiles,
        }
    )


def test_the_span_counts_the_frontier_of_each_class_and_nothing_beaten() -> None:
    rows = ladder(
        [
            version(0.9, {"n100": 100.0, "rpi5": 40.0}),
            version(0.8, {"n100": 1000.0, "rpi5": 300.0}),
            version(0.7, {"n100": 50.0, "rpi5": 1.0}),
        ]
    )
    caption = str(ladder_table("digits", rows).caption)
    assert "spans 10.0x in throughput on n100" in caption
    assert "spans 7.5x in throughput on rpi5" in caption


def test_nothing_is_said_where_too_little_was_measured() -> None:
    rows = ladder([version(0.9, {"n100": 100.0}), version(0.8, {})])
    assert ladder_table("digits", rows).caption == ""
