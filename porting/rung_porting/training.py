"""Training and fine-tuning of any LightningModule, with Lightning: fixed seeds, and a checkpoint after every epoch.

A run that was killed goes on from its last finished epoch and ends with the very weights it would have had: at the
beginning of each epoch chance starts anew from the seed and the epoch, and optimisers and schedules are in the
checkpoint.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor, nn

from rung_porting.data.source import Data
from rung_porting.errors import PortingError
from rung_porting.importing import where
from rung_porting.methods.distill import Teacher

Progress = Callable[[float], None]
"""Is told the share of the training that is done, 0 to 1."""
_ACCURACY = "rung_validation_accuracy"
_SETTLING_SAMPLES = 2000
"""Enough for the mean and variance of every channel; a whole large data set would only take time."""
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one network is trained.

    `patience`: judge by the validation split after every epoch, stop after so many in which its accuracy did not rise,
    and keep the best epoch's weights; None: the last epoch's weights count, which suits schedules that end low.
    `learning_rate_scale` multiplies every learning rate that the module's optimisers ask for.
    """

    epochs: int
    patience: int | None = None
    learning_rate_scale: float = 1.0


def fit(
    module: lightning.LightningModule,
    data: Data,
    schedule: Schedule,
    *,
    seed: int,
    checkpoints: Path,
    progress: Progress,
    teacher: Teacher | None = None,
) -> int:
    """Train a module in place; it ends in evaluation mode.

    Args:
        module: starts from the weights it has.
        data: its training split is trained on.
        schedule: how long and how fast.
        seed: decides everything that chance decides.
        checkpoints: a folder for the checkpoints of an unfinished run; one that is there is continued.
        progress: called after every batch.
        teacher: whose answers the module follows, too.

    Returns:
        The epochs that it took.

    Raises:
        PortingError: the loss is not a number, or the module's own code fails.
    """
    module.train()  # Lightning keeps the mode it finds
    torch.use_deterministic_algorithms(True, warn_only=True)
    watch = _Watch(data, schedule, seed, progress)
    if schedule.patience is None:
        best = ModelCheckpoint(checkpoints, filename="newest", save_last=True, enable_version_counter=False)
    else:
        best = ModelCheckpoint(
            checkpoints, filename="best", monitor=_ACCURACY, mode="max", save_last=True, enable_version_counter=False
        )
    callbacks: list[Callback] = [watch, best]
    if schedule.patience is not None:
        callbacks.append(
            EarlyStopping(_ACCURACY, patience=schedule.patience, mode="max", check_on_train_epoch_end=True)
        )
    with _quiet(), teacher.teaching(module) if teacher is not None else _nobody():
        trainer = lightning.Trainer(
            max_epochs=schedule.epochs,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,  # `_Watch` judges: nothing of the module's own is needed for it
            num_sanity_val_steps=0,
            callbacks=callbacks,
        )
        try:
            trainer.fit(module, data.train, ckpt_path=_newest_whole(checkpoints), weights_only=False)
        except PortingError:
            raise
        except Exception as error:  # the user's code: anything
            raise PortingError(f"training fails: {where(error)}") from None
    if schedule.patience is not None and Path(best.best_model_path).is_file():
        module.load_state_dict(torch.load(best.best_model_path, weights_only=False)["state_dict"])
    settle_statistics(module, data)
    return int(trainer.current_epoch)


def _newest_whole(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint that can be read. Two are written one after the other, so that a process killed
    while it writes one leaves the other whole."""
    found = sorted(checkpoints.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in found:
        try:
            torch.load(path, weights_only=False)
        except Exception:  # noqa: S112 - whatever half a file makes of the unpickler
            continue
        return path
    return None


def settle_statistics(module: nn.Module, data: Data) -> None:
    """Take the statistics of batch normalisation anew from the training split, for the weights as they are now.

    The running averages lag behind weights that changed quickly; after a few epochs of fine-tuning that costs more
    accuracy than the pruning did. Leaves the module in evaluation mode.
    """
    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over all batches
        module.train()
        torch.manual_seed(0)
        with torch.no_grad():
            count = 0
            for batch in data.batches("train"):
                module(torch.from_numpy(batch.inputs))
                count += len(batch.labels)
                if count >= _SETTLING_SAMPLES:
                    break
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    module.eval()


def accuracy_of(module: nn.Module, data: Data) -> float:
    """Return the share of right answers on the validation split, in evaluation mode; the module's mode is as before."""
    was_training = module.training
    module.eval()
    right = count = 0
    with torch.no_grad():
        for batch in data.batches("validation"):
            answers = module(torch.from_numpy(batch.inputs)).argmax(dim=1).numpy()
            right += int((answers == batch.labels).sum())
            count += len(batch.labels)
    module.train(was_training)
    return right / count


class _Watch(Callback):
    """Starts chance anew at each epoch, scales learning rates, judges after each epoch, and looks at every loss."""

    def __init__(self, data: Data, schedule: Schedule, seed: int, progress: Progress) -> None:
        self.data = data
        self.schedule = schedule
        self.seed = seed
        self.progress = progress
        self.batches = max(1, len(data.train))

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.ckpt_path is None:  # else the checkpoint holds the rates as they were
            scale = self.schedule.learning_rate_scale
            for optimizer in trainer.optimizers:
                for group in optimizer.param_groups:
                    group.update({name: group[name] * scale for name in _RATES if name in group})
            for config in trainer.lr_scheduler_configs:
                if hasattr(config.scheduler, "base_lrs"):
                    config.scheduler.base_lrs = [rate * scale for rate in config.scheduler.base_lrs]

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        lightning.seed_everything(self.seed * 10_007 + trainer.current_epoch, verbose=False)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and not math.isfinite(float(loss)):
            raise PortingError(
                f"the loss became {float(loss)} in epoch {trainer.current_epoch + 1}, batch {batch_idx + 1}: lower the "
                "learning rate, or look for inputs that are not finite"
            )
        done = trainer.current_epoch * self.batches + batch_idx + 1
        self.progress(min(1.0, done / (self.schedule.epochs * self.batches)))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.schedule.patience is not None:
            pl_module.log(_ACCURACY, accuracy_of(pl_module, self.data))


@contextmanager
def _quiet() -> Iterator[None]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning counsels more workers and a logger
        yield


@contextmanager
def _nobody() -> Iterator[None]:
    yield
