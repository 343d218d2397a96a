"""What comes of one recipe: its versions with what was seen of them, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rung_porting.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Made:
    """One version that was made, and what was seen of it.

    `sparsity` is the share of weights that left its parent; `latency_seconds` the CPU time of one answer in ONNX
    Runtime on one thread here, which only compares versions that were measured together; `difference` how far its
    logits are from torch's, relative to the largest (float), or the share of answers that changed (INT8).
    """

    recipe: Recipe
    int8: bool
    model: Path
    validation_accuracy: float
    accuracy: float
    samples: int
    latency_seconds: float
    parameters: int
    flops: int
    epochs: int
    sparsity: float | None
    difference: float

    def method(self) -> str:
        """Return what people call the way it was made."""
        return self.recipe.method() + ("+int8" if self.int8 else "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one recipe: its versions, or why there is none; and what else is worth telling."""

    recipe: Recipe
    versions: tuple[Made, ...]
    failure: str | None = None
    notes: tuple[str, ...] = ()
    spent: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each finished stage took that it came from, whenever it was made; outcomes can share stages."""


def seconds_spent(outcomes: Iterable[Outcome]) -> float:
    """Return what these outcomes took together, no stage counted twice."""
    stages: dict[str, float] = {}
    for outcome in outcomes:
        stages |= outcome.spent
    return sum(stages.values())
