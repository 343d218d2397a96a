"""What shall be ported and how: plain, validated data, so that later it can come from a YAML file of the user.

Everything that changes a result stands here; a stage's place in the store is the digest of its part of the plan.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Question(StrEnum):
    """What is asked of the built-in images."""

    DIGIT = "digit"  # which digit is it, 0 to 9
    PARITY = "parity"  # 0: even, 1: odd


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SplitPlan(_Part):
    """Sizes of the held-out parts, in images, and the seed that chooses them."""

    validation: Annotated[int, Field(ge=10)] = 197
    test: Annotated[int, Field(ge=10)] = 700
    seed: int = 20


class CameraPlan(_Part):
    """How a cheap camera sees the images: what makes the question hard enough for capacity to count."""

    noise: Annotated[float, Field(ge=0)] = 0.2
    """Standard deviation of the noise on each pixel, where white is 1 and black is 0."""
    shift: Annotated[int, Field(ge=0, le=3)] = 1
    """Pixels by which an image may be moved, in each direction."""
    dirt: Annotated[int, Field(ge=0, le=6)] = 2
    """Side of the square that covers a part of the image, in pixels."""
    train_views: Annotated[int, Field(ge=1)] = 2
    """How often each training image is seen, each time differently."""
    test_views: Annotated[int, Field(ge=1)] = 4
    """The same for the images that accuracy is measured on, so that chance counts less."""
    seed: int = 30


class NetworkPlan(_Part):
    """The unpruned network."""

    side: Annotated[int, Field(ge=8)] = 16
    """Pixels along a side of what the convolutions see."""
    margin: Annotated[int, Field(ge=0)] = 2
    """How much larger the image is made, so that crops of it differ."""
    streams: tuple[Annotated[int, Field(ge=1)], ...] = (72, 144)
    """Channels of each stage; each stage after the first halves the image."""
    blocks: Annotated[int, Field(ge=1)] = 4
    """Residual blocks in each stage."""


class TrainingPlan(_Part):
    """How one network is trained."""

    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(ge=2)] = 30


class PruningPlan(_Part):
    """One pruned version: how much is taken out of the base network, and the fine-tuning after it."""

    sparsity: Annotated[float, Field(gt=0, lt=1)]
    training: TrainingPlan


class TaskPlan(_Part):
    """Everything about one task."""

    name: str
    question: Question
    split: SplitPlan = SplitPlan()
    camera: CameraPlan = CameraPlan()
    network: NetworkPlan = NetworkPlan()
    base: TrainingPlan
    pruned: tuple[PruningPlan, ...]
    seed: int = 1
    generation: Annotated[int, Field(ge=1)] = 1
