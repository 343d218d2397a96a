"""`cifar10`, `cifar100` (downloaded where there is a network) and `image-folder`: any pictures in folders by class."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets
from torchvision.transforms import v2

from rung_porting.errors import PortingError

_SPLITS = ("train", "validation", "test")


def _tensor(shape: tuple[int, ...]) -> list[Any]:
    """Return what makes a picture a float tensor of this shape, from 0 to 1."""
    channels, height, width = shape
    colours = [v2.Grayscale(channels)] if channels in (1, 3) else []
    return [v2.ToImage(), *colours, v2.Resize((height, width), antialias=True), v2.ToDtype(torch.float32, scale=True)]


def _seen_anew(shape: tuple[int, ...]) -> list[Any]:
    """Return the usual augmentation of small pictures: moved by an eighth at most, mirrored."""
    return [v2.RandomCrop(shape[1:], padding=max(1, shape[1] // 8)), v2.RandomHorizontalFlip()]


def _image_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise PortingError(f"data {name}: input must be [1 or 3, height, width], not {list(shape)}")
    return tuple(shape)


class _Images(lightning.LightningDataModule):
    """Loaders over three sets of pictures."""

    def __init__(self, batch_size: int, workers: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.workers = workers
        self.splits: dict[str, Dataset[Any]] = {}

    def _loader(self, split: str, **settings: Any) -> Any:
        return DataLoader(self.splits[split], self.batch_size, num_workers=self.workers, **settings)

    def train_dataloader(self) -> Any:
        """Return shuffled batches; the last one is left out where it is smaller."""
        return self._loader("train", shuffle=True, drop_last=True)

    def val_dataloader(self) -> Any:
        """Return the validation pictures."""
        return self._loader("validation")

    def test_dataloader(self) -> Any:
        """Return the held-out pictures."""
        return self._loader("test")


class Cifar10(_Images):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 pictures for training, of which `validation` are held back; 10,000 for tests.

    Args:
        shape: of an input; [3, 32, 32] leaves the pictures as they are.
        seed: decides what is held back.
        batch_size: pictures in a batch.
        root: where the data is or is downloaded to; `~` is the home folder.
        validation: pictures held back from training.
        augment: whether training sees the pictures moved and mirrored.
        workers: processes that read.
    """

    SOURCE: ClassVar[Callable[..., Any]] = datasets.CIFAR10

    def __init__(
        self,
        *,
        shape: tuple[int, ...] = (3, 32, 32),
        seed: int = 1,
        batch_size: int = 128,
        root: str = "~/.cache/rung/data",
        validation: int = 5000,
        augment: bool = True,
        workers: int = 0,
    ) -> None:
        super().__init__(batch_size, workers)
        self.shape = _image_shape(shape, type(self).__name__.lower())
        self.seed = seed
        self.root = Path(os.path.expandvars(root)).expanduser()
        self.validation = validation
        self.augment = augment
        self.num_classes = 100 if isinstance(self, Cifar100) else 10

    def prepare_data(self) -> None:
        """Download what is not there."""
        name = type(self).__name__.lower()
        for train in (True, False):
            try:
                type(self).SOURCE(self.root, train=train, download=True)
            except Exception as error:  # torchvision's and the network's errors share no base class
                raise PortingError(
                    f"data {name} is not in {self.root} and can't be downloaded: {' '.join(str(error).split())[:200]}; "
                    "put the extracted archive there, or name its folder with data.arguments.root"
                ) from None

    def setup(self, stage: str) -> None:
        """Split it."""
        source = type(self).SOURCE
        plain = v2.Compose(_tensor(self.shape))
        moved = v2.Compose([*_tensor(self.shape), *_seen_anew(self.shape)]) if self.augment else plain
        seen, judged = source(self.root, train=True, transform=moved), source(self.root, train=True, transform=plain)
        order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(self.seed)).tolist()
        self.splits = {
            "train": Subset(seen, order[self.validation :]),
            "validation": Subset(judged, order[: self.validation]),
            "test": source(self.root, train=False, transform=plain),
        }


class Cifar100(Cifar10):
    """CIFAR-100 (Krizhevsky, 2009): as CIFAR-10, with a hundred classes."""

    SOURCE: ClassVar[Callable[..., Any]] = datasets.CIFAR100


class ImageFolders(_Images):
    """Pictures in `ROOT/{train,validation,test}/CLASS/*`; every split must have the same classes.

    Args:
        shape: of an input; pictures are made to fit.
        seed: not used: the folders are the splits.
        batch_size: pictures in a batch.
        root: the folder.
        augment: whether training sees the pictures moved and mirrored.
        workers: processes that read.
    """

    def __init__(
        self,
        *,
        root: str,
        shape: tuple[int, ...],
        seed: int = 1,
        batch_size: int = 64,
        augment: bool = True,
        workers: int = 0,
    ) -> None:
        super().__init__(batch_size, workers)
        self.root = Path(os.path.expandvars(root)).expanduser()
        self.shape = _image_shape(shape, "image-folder")
        self.augment = augment
        self.num_classes = 0

    def setup(self, stage: str) -> None:
        """Find the pictures."""
        plain = v2.Compose(_tensor(self.shape))
        moved = v2.Compose([*_tensor(self.shape), *_seen_anew(self.shape)]) if self.augment else plain
        classes: dict[str, list[str]] = {}
        for split in _SPLITS:
            folder = self.root / split
            if not folder.is_dir():
                raise PortingError(
                    f"data image-folder: there is no {split} split: {folder} is not a folder; pictures belong in "
                    f"{self.root}/{{{','.join(_SPLITS)}}}/CLASS/"
                )
            try:
                found = datasets.ImageFolder(str(folder), transform=moved if split == "train" else plain)
            except FileNotFoundError as error:
                raise PortingError(f"data image-folder: {error}") from None
            self.splits[split], classes[split] = found, found.classes
        if len({tuple(each) for each in classes.values()}) != 1:
            raise PortingError(f"data image-folder: the splits have different classes: {classes}"[:500])
        self.num_classes = len(classes["train"])
