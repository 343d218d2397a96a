"""Keeping a network whose layers were made smaller: its tensors, and the sizes of its layers. Never a pickled object.

A pruned network has the classes and the forward function of the unpruned one; only the sizes of some layers differ. So
it is rebuilt from a fresh unpruned network whose layers get the sizes that were kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rung_porting.errors import PortingError

WEIGHTS_FILE = "weights.pt"
STRUCTURE_FILE = "structure.json"
_SIZES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.modules.conv._ConvNd, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    (nn.modules.batchnorm._NormBase, ("num_features",)),
    (nn.LayerNorm, ("normalized_shape",)),
    (nn.GroupNorm, ("num_channels", "num_groups")),
    (nn.PReLU, ("num_parameters",)),
)
Structure = dict[str, dict[str, Any]]


def structure_of(network: nn.Module) -> Structure:
    """Return the sizes of every layer that can change its size: `{name: {attribute: value}}`."""
    found: Structure = {}
    for name, module in network.named_modules():
        for kind, attributes in _SIZES:
            if isinstance(module, kind):
                values = {each: getattr(module, each) for each in attributes}
                found[name] = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return found


def save_network(network: nn.Module, folder: Path) -> None:
    """Write tensors and sizes into a folder."""
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}
    torch.save(tensors, folder / WEIGHTS_FILE)
    (folder / STRUCTURE_FILE).write_text(json.dumps(structure_of(network), indent=1), encoding="utf-8")


def load_network(fresh: nn.Module, folder: Path) -> None:
    """Give a fresh unpruned network the sizes and tensors of a folder, in place.

    Raises:
        PortingError: they belong to another network.
    """
    structure = json.loads((folder / STRUCTURE_FILE).read_text(encoding="utf-8"))
    restore(fresh, structure, torch.load(folder / WEIGHTS_FILE, weights_only=True))


def restore(fresh: nn.Module, structure: Structure, tensors: dict[str, torch.Tensor]) -> None:
    """Give a fresh unpruned network these sizes and tensors, in place. Raises PortingError when they don't fit."""
    modules = dict(fresh.named_modules())
    for name, sizes in structure.items():
        module = modules.get(name)
        if module is None:
            raise PortingError(
                f"what was kept has a layer {name!r} that the network has not: it belongs to another one"
            )
        for attribute, value in sizes.items():
            setattr(module, attribute, tuple(value) if isinstance(value, list) else value)
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        module = modules.get(owner)
        if module is None or not hasattr(module, attribute):
            raise PortingError(
                f"what was kept has a tensor {name!r} that the network has not: it belongs to another one"
            )
        if attribute in module._parameters and module._parameters[attribute] is not None:
            present = module._parameters[attribute]
            module._parameters[attribute] = nn.Parameter(tensor.clone(), requires_grad=present.requires_grad)
        else:
            module._buffers[attribute] = tensor.clone()
    try:
        fresh.load_state_dict(tensors)
    except RuntimeError as error:  # torch's word for missing and unexpected tensors
        raise PortingError(f"what was kept does not fit the network: {' '.join(str(error).split())[:300]}") from None


def parameter_count(network: nn.Module) -> int:
    """Count the parameters that training changes."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_flops(network: nn.Module, sample: torch.Tensor) -> int:
    """Count the floating-point operations of convolutions and linear layers for this input (2 for each product)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(sample)
    return int(counter.get_total_flops())
