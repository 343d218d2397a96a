"""The data of the built-in tasks: images of handwritten digits that ship with scikit-learn (1,797 of 8x8 pixels)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rung_porting.plan import CameraPlan, Question, SplitPlan

SIDE = 8
"""Pixels along each side of an image in a request."""
CLASSES: dict[Question, int] = {Question.DIGIT: 10, Question.PARITY: 2}
_LABELS: dict[Question, Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]] = {
    Question.DIGIT: lambda digits: digits,
    Question.PARITY: lambda digits: digits % 2,
}


@dataclass(frozen=True, slots=True)
class Samples:
    """Images (count, 1, 8, 8), float32 from 0 to 1, and their labels (count), int64."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Splits:
    """The three parts; no image is in two of them.

    Training sees `train`, the export check uses `validation`, and every published accuracy comes from `test`.
    """

    train: Samples
    validation: Samples
    test: Samples


def load(question: Question, split: SplitPlan, camera: CameraPlan) -> Splits:
    """Load the images as the camera sees them, with the labels of this question, the same every time.

    Every digit has the same share in each part. Source: `sklearn.datasets.load_digits`, the test part of the UCI
    "Optical Recognition of Handwritten Digits" data (Alpaydin, Kaynak, 1998).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw: Any = load_digits()
    digits = raw.target.astype(np.int64)
    everything = np.arange(len(digits))
    rest, test = train_test_split(everything, test_size=split.test, random_state=split.seed, stratify=digits)
    train, validation = train_test_split(
        rest, test_size=split.validation, random_state=split.seed, stratify=digits[rest]
    )
    images = (raw.images[:, None, :, :] / 16.0).astype(np.float32)
    labels = _LABELS[question](digits)
    rng = np.random.default_rng(camera.seed)

    def seen(part: npt.NDArray[np.int64], views: int) -> Samples:
        return Samples(photograph(np.tile(images[part], (views, 1, 1, 1)), camera, rng), np.tile(labels[part], views))

    return Splits(seen(train, camera.train_views), seen(validation, 1), seen(test, camera.test_views))


def photograph(
    images: npt.NDArray[np.float32], camera: CameraPlan, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return images (count, 1, side, side) moved, partly covered and noisy, still from 0 to 1."""
    seen = np.empty_like(images)
    side = images.shape[-1]
    padded = np.pad(images, ((0, 0), (0, 0), (camera.shift, camera.shift), (camera.shift, camera.shift)))
    for index, image in enumerate(padded):
        top, left = rng.integers(0, 2 * camera.shift + 1, size=2)
        seen[index] = image[:, top : top + side, left : left + side]
        row, column = rng.integers(0, side - camera.dirt + 1, size=2)
        seen[index, :, row : row + camera.dirt, column : column + camera.dirt] = 0.5
    noisy = seen + rng.normal(0.0, camera.noise, size=seen.shape)
    return np.clip(noisy, 0.0, 1.0).astype(np.float32)
