"""The LightningModule around the built-in networks: cross entropy, AdamW, one cycle of the learning rate."""

from __future__ import annotations

from typing import Any, ClassVar

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional


class Classifier(lightning.LightningModule):
    """Trains a network to name the class of an input.

    The schedule is the one-cycle policy (Smith, Topin, "Super-Convergence", 2018).
    """

    LEARNING_RATE: ClassVar[float] = 0.003

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (batch, classes)."""
        logits: Tensor = self.network(inputs)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch of (inputs, labels)."""
        inputs, labels = batch
        return functional.cross_entropy(self(inputs), labels)

    def configure_optimizers(self) -> Any:
        """Return AdamW under a one-cycle schedule over the whole training."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.25,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
