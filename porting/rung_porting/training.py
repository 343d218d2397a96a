"""Training and fine-tuning, with Lightning: one thread, fixed seeds, and a checkpoint after every epoch.

A run that was killed goes on from its last finished epoch and ends with the very weights it would have had: the order
of the samples depends on the seed and the epoch only, and optimiser and schedule are in the checkpoint.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler, TensorDataset

from rung_porting.datasets import Samples
from rung_porting.networks import Network
from rung_porting.plan import TrainingPlan

Progress = Callable[[float], None]
"""Is told the share of the training that is done, 0 to 1."""


def train(
    network: Network, samples: Samples, plan: TrainingPlan, *, seed: int, checkpoints: Path, progress: Progress
) -> Network:
    """Train in place, under a one-cycle schedule, and return the network in evaluation mode.

    Args:
        network: starts from the weights it has.
        samples: the training split.
        plan: epochs, highest learning rate, batch size.
        seed: decides the order of the samples and their crops.
        checkpoints: a folder for the checkpoint of an unfinished run; a checkpoint that is there is continued.
        progress: called after every batch.
    """
    network.train()  # Lightning keeps the mode it finds, and a network from the store comes in evaluation mode
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # two tasks are ported at once, one on each core; and sums stay in one order
    dataset = TensorDataset(torch.from_numpy(samples.images), torch.from_numpy(samples.labels))
    order = _Order(len(dataset), seed)
    loader = DataLoader(dataset, batch_size=plan.batch_size, sampler=order, drop_last=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning counsels more workers and a logger
        trainer = lightning.Trainer(
            max_epochs=plan.epochs,
            accelerator="cpu",
            devices=1,
            deterministic=True,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                _Steps(plan, order, len(loader), progress),
                ModelCheckpoint(checkpoints, save_last=True, save_top_k=0),
            ],
        )
        last = checkpoints / "last.ckpt"
        module = _Module(network, plan, order, len(loader))
        trainer.fit(module, loader, ckpt_path=last if last.exists() else None)
    settle_statistics(network, samples)
    return network


def settle_statistics(network: Network, samples: Samples) -> None:
    """Take the statistics of batch normalisation anew from the training images, for the weights as they are now.

    The running averages lag behind weights that changed quickly; after a few epochs of fine-tuning that costs more
    accuracy than the pruning did. Leaves the network in evaluation mode.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
    network.train()
    with torch.no_grad():
        for images in torch.from_numpy(samples.images).split(100):
            large = network.enlarge(images)
            network.body(network.crop(large, network.margin // 2, network.margin // 2))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


class _Order(Sampler[int]):
    """A new order of the samples in each epoch, from the seed and the epoch alone."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.count, generator=self.generator(0)).tolist())

    def __len__(self) -> int:
        return self.count

    def generator(self, step: int) -> torch.Generator:
        """Return the source of chance for this step of this epoch (0: the order itself)."""
        return torch.Generator().manual_seed((self.seed * 10_007 + self.epoch) * 100_003 + step)


class _Steps(Callback):
    """Sets the order of each epoch, and reports progress."""

    def __init__(self, plan: TrainingPlan, order: _Order, batches: int, progress: Progress) -> None:
        self.order = order
        self.batches = batches
        self.total = plan.epochs * batches
        self.progress = progress

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.order.epoch = trainer.current_epoch

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.progress((trainer.current_epoch * self.batches + batch_idx + 1) / self.total)


class _Module(lightning.LightningModule):
    """The network with its loss, optimiser and schedule."""

    def __init__(self, network: Network, plan: TrainingPlan, order: _Order, batches: int) -> None:
        super().__init__()
        self.network = network
        self.plan = plan
        self.order = order
        self.batches = batches

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        generator = self.order.generator(batch_idx + 1)
        top, left = torch.randint(self.network.margin + 1, (2,), generator=generator).tolist()
        return functional.cross_entropy(
            self.network.body(self.network.crop(self.network.enlarge(images), top, left)), labels
        )

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.plan.learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.plan.learning_rate, total_steps=self.plan.epochs * self.batches, pct_start=0.25
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
