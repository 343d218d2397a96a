"""What is measured on, what for, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as distribution_version
from pathlib import Path

import numpy as np

from rung_loadgen.kserve import TensorSpec
from rung_loadgen.payloads import random_requests, requests_from_file
from rung_porting.profiler.gauges import Gauge
from rung_porting.profiler.search import QUICK, Effort


@dataclass(frozen=True, slots=True)
class Bench:
    """The server that is measured: the gRPC address of its Triton (HOST:PORT) and, if there is one, its gauge."""

    triton: str
    gauge: Gauge | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a profile holds for."""

    hardware_class: str
    slo_seconds: float
    cpu_cores: float | None = None
    effort: Effort = QUICK
    load_deadline_seconds: float = 60.0
    data: Path | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of inputs that the model leaves free, by name."""
    several: bool = False
    """Whether they are for several models: then one that has no such input is not a mistake."""
    batch_sizes: tuple[int, ...] = ()
    """Batch sizes to try; empty for the one that is configured. `instances` likewise."""
    instances: tuple[int, ...] = ()

    def payloads(self, model: str, specs: tuple[TensorSpec, ...]) -> tuple[bytes, ...]:
        """Return the requests to send: of the given data, else made up. Raises ServerError."""
        if self.data is not None:
            return requests_from_file(model, specs, self.data)
        names = {spec.name for spec in specs}
        shapes = {name: shape for name, shape in self.shapes.items() if name in names or not self.several}
        return random_requests(model, specs, np.random.default_rng(1), shapes=shapes)


def tool() -> str:
    """Return what a profile calls the program that measured it."""
    return f"rung-port profile {distribution_version('rung')}"
