"""Distillation: fine-tuning that also follows the answers of the unpruned network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional

from rung.api.porting import DistillSpec
from rung_porting.errors import PortingError


class Teacher:
    """A network whose answers another one follows.

    The loss is `(1 - weight) x own loss + weight x T^2 x KL(teacher / T || student / T)` (Hinton, Vinyals, Dean,
    "Distilling the Knowledge in a Neural Network", 2015).
    """

    def __init__(self, network: nn.Module, spec: DistillSpec) -> None:
        self.network = network.eval()
        self.spec = spec

    @contextmanager
    def teaching(self, student: lightning.LightningModule) -> Iterator[None]:
        """Let the module's training step follow the teacher, whatever that step does itself.

        What the step's own call of the module saw and answered is compared; where it doesn't call the module itself
        (but a part of it), the inputs of the batch are answered once more.
        """
        seen: list[tuple[Tensor, Tensor]] = []

        def remember(_: nn.Module, inputs: tuple[Any, ...], answer: Any) -> None:
            if student.training and torch.is_grad_enabled() and isinstance(answer, Tensor):
                seen.append((inputs[0], answer))

        own_step = student.training_step

        def step(batch: Any, batch_idx: int) -> Any:
            seen.clear()
            outcome = own_step(batch, batch_idx)
            loss = outcome["loss"] if isinstance(outcome, dict) else outcome
            if not isinstance(loss, Tensor):
                raise PortingError(
                    "distillation needs a training_step that returns its loss; leave methods.distill out"
                )
            inputs, answer = seen[-1] if seen else (batch[0], student(batch[0]))
            total = (1 - self.spec.weight) * loss + self.spec.weight * self._distance(inputs, answer)
            return {**outcome, "loss": total} if isinstance(outcome, dict) else total

        handle = student.register_forward_hook(remember)
        student.training_step = step
        try:
            yield
        finally:
            handle.remove()
            del student.training_step

    def _distance(self, inputs: Tensor, answer: Tensor) -> Tensor:
        temperature = self.spec.temperature
        with torch.no_grad():
            wanted = functional.softmax(self.network(inputs) / temperature, dim=1)
        found = functional.log_softmax(answer / temperature, dim=1)
        return functional.kl_div(found, wanted, reduction="batchmean") * temperature**2
