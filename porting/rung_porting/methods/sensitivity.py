"""Sparsity by sensitivity: parts of the network that bear pruning well lose more than those that do not.

The layers are put into a few buckets along the forward function; each bucket alone loses half of its channels, and what
that costs in loss, without any fine-tuning, says how sensitive it is. (After Li et al., "Pruning Filters for Efficient
ConvNets", 2017, section 3.2, which looks at single layers.)
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from rung.api.porting import Criterion
from rung_porting.data.source import Data
from rung_porting.methods.interface import CannotPrune, Pruner

BUCKETS = 6
_PROBE = 0.5
_SAMPLES = 400


def by_sensitivity(
    pruner: Pruner,
    module: nn.Module,
    groups: tuple[tuple[str, ...], ...],
    sparsity: float,
    data: Data,
    sample: torch.Tensor,
) -> dict[str, float]:
    """Return a sparsity for each layer whose mean over buckets is near `sparsity`."""
    buckets = split_evenly(groups, BUCKETS)
    losses = [_loss_without(pruner, module, bucket, data, sample) for bucket in buckets]
    shares = shares_by_loss(losses, sparsity)
    return {layer: share for bucket, share in zip(buckets, shares, strict=True) for group in bucket for layer in group}


def split_evenly(groups: Sequence[tuple[str, ...]], count: int) -> list[tuple[tuple[str, ...], ...]]:
    """Cut the groups, in their order, into at most `count` buckets of about the same number of groups."""
    count = min(count, len(groups))
    cuts = [round(index * len(groups) / count) for index in range(count + 1)]
    return [tuple(groups[start:end]) for start, end in itertools.pairwise(cuts)]


def shares_by_loss(losses: Sequence[float], sparsity: float) -> list[float]:
    """Turn losses into sparsities: what is left of a bucket is `(1 - sparsity) ** w`, with w from 1.5 for the bucket
    that bears pruning best, by rank, to 0.5 for the most sensitive one; so the mean of the exponents is 1."""
    if len(losses) == 1:
        return [sparsity]
    order = sorted(range(len(losses)), key=lambda index: losses[index])
    shares = [0.0] * len(losses)
    for rank, index in enumerate(order):
        shares[index] = 1 - (1 - sparsity) ** (1.5 - rank / (len(losses) - 1))
    return shares


def _loss_without(
    pruner: Pruner, module: nn.Module, bucket: tuple[tuple[str, ...], ...], data: Data, sample: torch.Tensor
) -> float:
    """Return the validation loss after half of the channels of these groups left; infinite where that can't be."""
    pruned = copy.deepcopy(module)
    try:
        pruner.prune(pruned, {layer: _PROBE for group in bucket for layer in group}, Criterion.L1, data, sample)
    except CannotPrune:
        return math.inf
    judged = data.first("validation", _SAMPLES)
    with torch.no_grad():
        return float(functional.cross_entropy(pruned(torch.from_numpy(judged.inputs)), torch.from_numpy(judged.labels)))
