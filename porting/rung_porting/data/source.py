"""The data that a plan names, and the check that it can be trained, judged and tested on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from rung.api.porting import DataSource
from rung_porting.data.digits import Digits
from rung_porting.data.images import Cifar10, Cifar100, ImageFolders
from rung_porting.errors import PortingError
from rung_porting.importing import construct, find_class, where

BUILT_IN: dict[str, type[lightning.LightningDataModule]] = {
    "digits": Digits,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "image-folder": ImageFolders,
}


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs (count, *shape), float32, and their labels (count), int64."""

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


class Data:
    """The three splits. Training sees `train`; the search judges by `validation`; what is published is measured on
    `test`, which nothing was chosen by."""

    def __init__(self, module: lightning.LightningDataModule, name: str, shape: tuple[int, ...]) -> None:
        self.name = name
        self._module = module
        self._loaders: dict[str, Any] = {}
        self._set_up()
        self._check(shape)

    @property
    def train(self) -> Any:
        """The loader of the training split."""
        return self._loaders["train"]

    def batches(self, split: str) -> Iterator[Samples]:
        """Yield the batches of `train`, `validation` or `test`."""
        for batch in self._loaders[split]:
            inputs, labels = self._pair(split, batch)
            yield Samples(inputs.numpy().astype(np.float32, copy=False), labels.numpy().astype(np.int64, copy=False))

    def first(self, split: str, count: int) -> Samples:
        """Return the first samples of a split, at most `count`."""
        found: list[Samples] = []
        for batch in self.batches(split):
            found.append(batch)
            if sum(len(each.labels) for each in found) >= count:
                break
        inputs, labels = (np.concatenate([getattr(each, name) for each in found]) for name in ("inputs", "labels"))
        return Samples(inputs[:count], labels[:count])

    def classes(self) -> int:
        """Return how many classes there are: what the data says (`num_classes`), else the largest label plus one."""
        said = getattr(self._module, "num_classes", None)
        if isinstance(said, int):
            return said
        return 1 + max(int(batch.labels.max()) for split in ("train", "validation") for batch in self.batches(split))

    def _set_up(self) -> None:
        try:
            self._module.prepare_data()
            self._module.setup("fit")
            self._module.setup("test")
        except PortingError:
            raise
        except Exception as error:  # the user's code: anything
            raise PortingError(f"data {self.name}: it can't be set up: {where(error)}") from None
        why = {
            "train": "there is nothing to train on",
            "validation": "the search judges by it which versions are worth keeping",
            "test": "published accuracy is measured on it, never on data that something was chosen by",
        }
        for split, reason in why.items():
            method = {"validation": "val"}.get(split, split) + "_dataloader"
            try:
                loader = getattr(self._module, method)()
            except MisconfigurationException:
                loader = None
            except Exception as error:  # the user's code: anything
                raise PortingError(f"data {self.name}: {method} fails: {where(error)}") from None
            if isinstance(loader, (list, tuple)) and len(loader) == 1:
                loader = loader[0]
            if loader is None or isinstance(loader, (list, tuple, dict)):
                raise PortingError(f"data {self.name} has no {split} split: {reason}; define {method}, with one loader")
            self._loaders[split] = loader

    def _check(self, shape: tuple[int, ...]) -> None:
        for split, loader in self._loaders.items():
            try:
                batch = next(iter(loader))
            except StopIteration:
                raise PortingError(f"data {self.name}: the {split} split is empty") from None
            except Exception as error:  # the user's code: anything
                raise PortingError(f"data {self.name}: reading the {split} split fails: {where(error)}") from None
            inputs, labels = self._pair(split, batch)
            if tuple(inputs.shape[1:]) != shape:
                raise PortingError(
                    f"data {self.name}: inputs of the {split} split have the shape {list(inputs.shape[1:])}, "
                    f"the plan's input says {list(shape)}"
                )
            if not inputs.is_floating_point():
                raise PortingError(f"data {self.name}: inputs of the {split} split are {inputs.dtype}, not float32")
            if labels.ndim != 1 or labels.is_floating_point():
                raise PortingError(
                    f"data {self.name}: labels of the {split} split must be one whole number for each input, not "
                    f"{labels.dtype} of the shape {list(labels.shape)}"
                )

    def _pair(self, split: str, batch: Any) -> tuple[Tensor, Tensor]:
        if not (isinstance(batch, (list, tuple)) and len(batch) == 2 and all(torch.is_tensor(each) for each in batch)):
            raise PortingError(
                f"data {self.name}: a batch of the {split} split must be (inputs, labels), two tensors, not "
                f"{type(batch).__name__}"
            )
        return batch[0], batch[1]


def load_data(source: DataSource, shape: tuple[int, ...], batch_size: int | None, seed: int) -> Data:
    """Load the data that a plan names. Raises PortingError: it can't be loaded, or can't be used."""
    if source.builtin is not None:
        made = BUILT_IN.get(source.builtin)
        if made is None:
            raise PortingError(f"there is no built-in data {source.builtin!r}: there is {', '.join(BUILT_IN)}")
        arguments = {"shape": shape, "seed": seed, **source.arguments}
        if batch_size is not None:
            arguments["batch_size"] = batch_size
        return Data(construct(made, arguments, "data"), source.builtin, shape)
    assert source.import_ is not None
    if batch_size is not None:
        raise PortingError("training.batchSize is for built-in data: yours sets its own in its loaders")
    found = find_class(source.import_, lightning.LightningDataModule, "data")
    return Data(construct(found, dict(source.arguments), "data"), source.import_, shape)
