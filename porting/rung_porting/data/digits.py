"""`digits`: bursts of images of the handwritten digits that ship with scikit-learn (1,797 of 8x8 pixels)."""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, TensorDataset

from rung_porting.errors import PortingError

SIDE = 8
QUESTIONS = {"digit": 10, "parity": 2}
"""What may be asked of an image, and how many answers there are: which digit, or 0 for even and 1 for odd."""


class Digits(lightning.LightningDataModule):
    """Bursts of frames of a digit as a cheap camera sees it; with the defaults, one frame of a perfect one.

    Every digit has the same share in each split, and no image is in two of them. Source:
    `sklearn.datasets.load_digits`, the test part of the UCI "Optical Recognition of Handwritten Digits" data (Alpaydin,
    Kaynak, 1998).

    Args:
        shape: of an input: (frames, 8, 8). Each frame is another photograph of the same digit.
        seed: decides splits and what the camera does.
        batch_size: of the training loader.
        question: `digit` or `parity`.
        noise: standard deviation of the noise on each pixel, where white is 1 and black is 0.
        shift: pixels by which an image may be moved, in each direction.
        dirt: side of the square that covers a part of the image, in pixels.
        train_views: how often each training image is seen, each time differently.
        test_views: the same for the held-out images, so that chance counts less.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...] = (1, SIDE, SIDE),
        seed: int = 1,
        batch_size: int = 32,
        question: str = "digit",
        noise: float = 0.0,
        shift: int = 0,
        dirt: int = 0,
        train_views: int = 1,
        test_views: int = 1,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or tuple(shape[1:]) != (SIDE, SIDE):
            raise PortingError(f"data digits: input must be [frames, {SIDE}, {SIDE}], not {list(shape)}")
        if question not in QUESTIONS:
            raise PortingError(f"data digits: question must be one of {', '.join(QUESTIONS)}, not {question!r}")
        if noise < 0 or not 0 <= shift <= 3 or not 0 <= dirt <= 6 or min(train_views, test_views) < 1:
            raise PortingError("data digits: noise >= 0, shift 0 to 3, dirt 0 to 6, views >= 1")
        self.seed = seed
        self.batch_size = batch_size
        self.question = question
        self.num_classes = QUESTIONS[question]
        self.frames = shape[0]
        self.camera = (noise, shift, dirt)
        self.views = (train_views, test_views)
        self.splits: dict[str, TensorDataset] = {}

    def setup(self, stage: str) -> None:
        """Read the images and photograph them, the same every time."""
        if self.splits:
            return
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        raw: Any = load_digits()
        digits = raw.target.astype(np.int64)
        everything = np.arange(len(digits))
        rest, test = train_test_split(everything, test_size=700, random_state=self.seed, stratify=digits)
        train, validation = train_test_split(rest, test_size=197, random_state=self.seed, stratify=digits[rest])
        images = (raw.images[:, None, :, :] / 16.0).astype(np.float32)
        labels = digits % 2 if self.question == "parity" else digits
        rng = np.random.default_rng(self.seed)
        train_views, test_views = self.views
        for name, part, views in (
            ("train", train, train_views),
            ("validation", validation, test_views),
            ("test", test, test_views),
        ):
            asked = np.tile(part, views)
            seen = photograph(np.repeat(images[asked], self.frames, axis=0), *self.camera, rng)
            bursts = torch.from_numpy(seen.reshape(len(asked), self.frames, SIDE, SIDE))
            self.splits[name] = TensorDataset(bursts, torch.from_numpy(labels[asked]))

    def train_dataloader(self) -> Any:
        """Return shuffled batches; the last one is left out where it is smaller."""
        return DataLoader(self.splits["train"], self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> Any:
        """Return the validation images."""
        return DataLoader(self.splits["validation"], 200)

    def test_dataloader(self) -> Any:
        """Return the held-out images."""
        return DataLoader(self.splits["test"], 200)


def photograph(
    images: npt.NDArray[np.float32], noise: float, shift: int, dirt: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return images (count, 1, side, side) moved, partly covered and noisy, still from 0 to 1."""
    seen = np.empty_like(images)
    side = images.shape[-1]
    padded = np.pad(images, ((0, 0), (0, 0), (shift, shift), (shift, shift)))
    for index, image in enumerate(padded):
        top, left = rng.integers(0, 2 * shift + 1, size=2)
        seen[index] = image[:, top : top + side, left : left + side]
        row, column = rng.integers(0, side - dirt + 1, size=2)
        seen[index, :, row : row + dirt, column : column + dirt] = 0.5
    noisy = seen + rng.normal(0.0, noise, size=seen.shape)
    return np.clip(noisy, 0.0, 1.0).astype(np.float32)
