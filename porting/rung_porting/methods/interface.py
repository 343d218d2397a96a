"""What every way of taking channels out has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from rung.api.porting import Criterion
from rung_porting.data.source import Data
from rung_porting.errors import PortingError


class CannotPrune(PortingError):  # noqa: N818 - read as a sentence where it is caught
    """A backend can't take channels out of this network; the message names the module and says what to do."""


class Pruner(Protocol):
    """A library that takes channels out."""

    def groups(self, module: nn.Module, sample: torch.Tensor) -> tuple[tuple[str, ...], ...]:
        """Return the layers that lose channels, in the order of the forward function; those of one element lose the
        same channels, because their outputs are added, multiplied or share a filter.

        Args:
            module: is left as it is.
            sample: a batch of inputs.

        Raises:
            CannotPrune: the network can't be traced.
        """

    def prune(
        self, module: nn.Module, sparsities: Mapping[str, float], criterion: Criterion, data: Data, sample: torch.Tensor
    ) -> None:
        """Take channels out of a module, in place.

        Args:
            module: in evaluation mode.
            sparsities: the share of output channels that leaves, by layer; at least one channel of each stays.
            criterion: how unimportant channels are recognised.
            data: for criteria that look at gradients.
            sample: a batch of inputs.

        Raises:
            CannotPrune: what is left does not work.
        """


def rounded(sparsities: Mapping[str, float], widths: Mapping[str, int], multiple: int) -> dict[str, float]:
    """Return sparsities that leave a multiple of so many channels in every layer, the nearest one.

    Runtimes compute channels in blocks (ONNX Runtime on AVX-512: 16), so that 17 channels take nearly the time of 32.
    Layers of which less than one block is left stay as they are.

    Args:
        sparsities: the share of output channels that leaves, by layer.
        widths: output channels, by layer.
        multiple: 1 changes nothing.
    """
    found = {}
    for layer, share in sparsities.items():
        width = widths[layer]
        left = width * (1.0 - share)
        kept = multiple * round(left / multiple) if left >= multiple else max(1, round(left))
        # A little more than the exact share: pruners round the number of channels that leave down.
        found[layer] = min(1.0 - 1e-6, (width - min(width, kept)) / width + 1e-6) if kept < width else 0.0
    return found


def uniform(groups: tuple[tuple[str, ...], ...], sparsity: float) -> dict[str, float]:
    """Return the same sparsity for every layer."""
    return {layer: sparsity for group in groups for layer in group}
