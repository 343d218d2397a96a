"""The network that a plan names, fresh and unpruned, and the check that it is one that can be served."""

from __future__ import annotations

import lightning
import torch

from rung.api.porting import NetworkSource, TrainingSpec
from rung_porting.errors import PortingError
from rung_porting.importing import construct, find_class, where
from rung_porting.models import families
from rung_porting.models.classifier import Classifier


def build_network(
    source: NetworkSource, training: TrainingSpec, shape: tuple[int, ...], classes: int, seed: int
) -> lightning.LightningModule:
    """Build the network with its first, random weights, always the same for a seed.

    Args:
        source: which one.
        training: its learning rate, where it is a built-in one.
        shape: of one input, without the batch.
        classes: number of logits.
        seed: decides the weights.

    Returns:
        The module in training mode; its forward was seen to answer (batch, classes).

    Raises:
        PortingError: it can't be built, or its forward does not answer one tensor of logits.
    """
    torch.manual_seed(seed)
    if source.builtin is not None:
        name = source.builtin
        if name not in families.NETWORKS:
            raise PortingError(f"there is no built-in network {name!r}: there are {', '.join(families.NETWORKS)}")
        network = families.build(name, shape, classes, **source.arguments)
        module: lightning.LightningModule = Classifier(network, training.learning_rate or Classifier.LEARNING_RATE)
    else:
        assert source.import_ is not None
        if training.learning_rate is not None:
            raise PortingError(
                "training.learningRate is for built-in networks: yours sets its own in configure_optimizers"
            )
        made = find_class(source.import_, lightning.LightningModule, "model")
        name = source.import_
        module = construct(made, dict(source.arguments), "model")
    _check_forward(module, name, shape, classes)
    return module.train()


def _check_forward(module: lightning.LightningModule, name: str, shape: tuple[int, ...], classes: int) -> None:
    module.eval()
    try:
        with torch.no_grad():
            answer = module(torch.zeros(2, *shape))
    except Exception as error:  # the user's code: anything
        raise PortingError(
            f"model {name}: forward fails on an input of (2, {_listed(shape)}): {where(error)}"
        ) from None
    if isinstance(answer, (tuple, list, dict)):
        raise PortingError(
            f"model {name}: forward answers a {type(answer).__name__} of {len(answer)}; Rung serves one tensor of "
            "logits (batch, classes): let forward return only that, and compute the rest in training_step"
        )
    if not isinstance(answer, torch.Tensor):
        raise PortingError(f"model {name}: forward answers a {type(answer).__name__}, not a tensor of logits")
    if answer.shape != (2, classes):
        raise PortingError(
            f"model {name}: forward answers {tuple(answer.shape)} for two inputs; the data has {classes} classes, so "
            f"it must be (2, {classes})"
        )


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
