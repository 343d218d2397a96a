"""Structured pruning with Torch-Pruning, which follows gradients instead of tracing the forward function.

It works where a forward function depends on values or on Python's control flow. Source: Fang et al., "DepGraph: Towards
Any Structural Pruning" (2023).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rung.api.porting import Criterion
from rung_porting.data.source import Data
from rung_porting.methods.interface import CannotPrune
from rung_porting.models.structure import structure_of

_WEIGHTED = (nn.Conv2d, nn.Linear)
_TAYLOR_SAMPLES = 640


class TorchPruningPruner:
    """Torch-Pruning 1.6."""

    def groups(self, module: nn.Module, sample: torch.Tensor) -> tuple[tuple[str, ...], ...]:
        """See `Pruner.groups`."""
        import torch_pruning as tp

        names = {layer: name for name, layer in module.named_modules()}
        order = _in_order(module, sample)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                graph = tp.DependencyGraph().build_dependency(module, example_inputs=sample[:2])
                found = []
                for group in graph.get_all_groups(ignored_layers=order[-1:], root_module_types=list(_WEIGHTED)):
                    members = [each.dep for each in group if graph.is_out_channel_pruning_fn(each.dep.handler)]
                    layers = {dep.target.module for dep in members if isinstance(dep.target.module, _WEIGHTED)}
                    found.append([layer for layer in order if layer in layers])
            except Exception as error:  # Torch-Pruning's errors share no base class
                raise _refused(error) from error
        groups = [tuple(names[layer] for layer in layers) for layers in found if layers]
        return tuple(sorted(groups, key=lambda group: order.index(module.get_submodule(group[0]))))

    def prune(
        self, module: nn.Module, sparsities: Mapping[str, float], criterion: Criterion, data: Data, sample: torch.Tensor
    ) -> None:
        """See `Pruner.prune`."""
        import torch_pruning as tp

        importance: dict[Criterion, Any] = {
            Criterion.L1: lambda: tp.importance.GroupMagnitudeImportance(p=1),
            Criterion.L2: lambda: tp.importance.GroupMagnitudeImportance(p=2),
            Criterion.FPGM: tp.importance.FPGMImportance,
            Criterion.TAYLOR: tp.importance.GroupTaylorImportance,
        }
        if criterion not in importance:
            raise CannotPrune(f"Torch-Pruning has no {criterion}: leave it out of methods.prune.criteria")
        before = structure_of(module)
        order = _in_order(module, sample)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                pruner = tp.pruner.BasePruner(
                    module,
                    sample[:2],
                    importance=importance[criterion](),
                    pruning_ratio=0.0,
                    pruning_ratio_dict={module.get_submodule(name): share for name, share in sparsities.items()},
                    max_pruning_ratio=1.0,
                    ignored_layers=order[-1:],
                    root_module_types=list(_WEIGHTED),
                )
                if criterion is Criterion.TAYLOR:
                    _gather_gradients(module, data)
                pruner.step()
                module.zero_grad(set_to_none=True)
                with torch.no_grad():
                    module(sample)
            except Exception as error:  # Torch-Pruning's errors share no base class
                raise _refused(error) from error
        if structure_of(module) == before:
            raise CannotPrune(
                "Torch-Pruning took nothing out: the sparsity is too small for the widths of this network"
            )


def _in_order(module: nn.Module, sample: torch.Tensor) -> list[nn.Module]:
    """Return the layers with weights in the order of the forward function; the last one answers the logits."""
    seen: list[nn.Module] = []
    handles = [
        each.register_forward_hook(lambda layer, *_: seen.append(layer))
        for each in module.modules()
        if isinstance(each, _WEIGHTED)
    ]
    try:
        with torch.no_grad():
            module(sample[:2])
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(seen))


def _gather_gradients(module: nn.Module, data: Data) -> None:
    """Add up the gradients of the loss over some training samples."""
    module.zero_grad(set_to_none=True)
    module.train()  # networks may do much more for an answer (several frames) than for a gradient
    count = 0
    for batch in data.batches("train"):
        functional.cross_entropy(module(torch.from_numpy(batch.inputs)), torch.from_numpy(batch.labels)).backward()
        count += len(batch.labels)
        if count >= _TAYLOR_SAMPLES:
            break
    module.eval()


def _refused(error: Exception) -> CannotPrune:
    return CannotPrune(
        f"Torch-Pruning can't take channels out of this network: {type(error).__name__}: "
        f"{' '.join(str(error).split())[:200]}"
    )
