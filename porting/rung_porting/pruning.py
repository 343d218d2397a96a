"""Structured pruning with NNI: whole channels leave, so the network is smaller for every runtime."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

import torch
from torch import nn

from rung_porting.networks import Network, Widths, rebuild, widths_of


def prune_l1(network: Network, sparsity: float) -> Network:
    """Remove the share `sparsity` of the channels of every convolution, those with the smallest L1 norm.

    The convolutions that write into one residual stream are judged together, because they have to lose the same
    channels. The first convolution's kernels count for little among them: it is a member of its stream's group.
    Method: Li et al., "Pruning Filters for Efficient ConvNets" (2017), as NNI's `L1NormPruner` does it; NNI's
    `ModelSpeedup` then takes the channels out.

    Args:
        network: left as it is.
        sparsity: 0 < sparsity < 1; at least one channel of each convolution stays.

    Raises:
        ValueError: the sparsity is out of range, or the channels that are left are not those that were asked for.
    """
    if not 0.0 < sparsity < 1.0:
        raise ValueError(f"sparsity {sparsity} must lie between 0 and 1")
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    copy = rebuild(weights, network.side, network.margin)
    body = copy.body
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NNI 3.0 speaks to older versions of torch
        _take_out(body, _configuration(body, sparsity), _sample(network.side))
    found = widths_of({f"body.{name}": tensor for name, tensor in body.state_dict().items()})
    wanted = pruned_widths(widths_of(weights), sparsity)
    if found != wanted:
        raise ValueError(f"pruning left {found}, expected {wanted}")
    # ModelSpeedup leaves its own objects inside; only the tensors go on.
    left = {name: tensor.detach().clone() for name, tensor in copy.state_dict().items()}
    return rebuild(left, network.side, network.margin)


def pruned_widths(widths: Widths, sparsity: float) -> Widths:
    """Return the widths after pruning: of n channels, floor(n x sparsity) leave."""
    return Widths(
        tuple(_left(stream, sparsity) for stream in widths.streams),
        tuple(tuple(_left(width, sparsity) for width in stage) for stage in widths.inner),
    )


def _left(channels: int, sparsity: float) -> int:
    return channels - int(channels * sparsity)


def _configuration(body: nn.Module, sparsity: float) -> list[dict[str, Any]]:
    """One group for each residual stream, and each inner convolution alone."""
    streams: dict[str, list[str]] = {}
    alone: list[str] = []
    for name, module in body.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        stream = re.fullmatch(r"entries\.(\d+)\.0|stages\.(\d+)\.\d+\.conv2", name)
        if stream is None:
            alone.append(name)
        else:
            streams.setdefault(stream[1] or stream[2], []).append(name)
    groups: list[dict[str, Any]] = [
        {"op_names": names, "sparse_ratio": sparsity, "dependency_group_id": f"stream{index}"}
        for index, names in streams.items()
    ]
    return [*groups, {"op_names": alone, "sparse_ratio": sparsity}]


def _sample(side: int) -> torch.Tensor:
    return torch.rand(8, 1, side, side, generator=torch.Generator().manual_seed(0))


def _take_out(body: nn.Module, configuration: list[dict[str, Any]], sample: torch.Tensor) -> None:
    """Mask with NNI, then replace the masked modules by smaller ones, in place."""
    from nni.compression.pruning import L1NormPruner
    from nni.compression.speedup import ModelSpeedup

    logging.getLogger("nni").setLevel(logging.WARNING)
    quiet = logging.getLogger("rung_porting.nni")
    quiet.setLevel(logging.ERROR)
    pruner = L1NormPruner(body, configuration)
    _, masks = pruner.compress()
    pruner.unwrap_model()
    graph = torch.fx.symbolic_trace(body)
    ModelSpeedup(body, sample, masks, graph_module=graph, logger=quiet).speedup_model()
