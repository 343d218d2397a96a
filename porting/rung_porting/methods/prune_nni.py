"""Structured pruning with NNI: its pruners choose the channels, its ModelSpeedup takes them out.

NNI's own tracer does not work with current versions of torch; `torch.fx` traces instead.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from rung.api.porting import Criterion
from rung_porting.data.source import Data
from rung_porting.methods.interface import CannotPrune
from rung_porting.models.structure import structure_of

_WEIGHTED = (nn.Conv2d, nn.Linear)
_TAYLOR_STEPS = 20
"""Batches whose gradients Taylor's criterion adds up."""
_SLIM_STEPS = 100
"""Batches in which Slim's factors, one for each channel, learn how small they may be (Adam, 0.01 a step at most)."""


class NniPruner:
    """NNI 3.0."""

    def groups(self, module: nn.Module, sample: torch.Tensor) -> tuple[tuple[str, ...], ...]:
        """See `Pruner.groups`."""
        with _quiet():
            traced = _trace(module, sample)
            found: dict[str, list[str]] = {}
            for config in _configuration(traced, dict.fromkeys(_prunable(traced), 0.5)):
                (layer,) = config["op_names"]
                found.setdefault(config.get("dependency_group_id", layer), []).append(layer)
        return tuple(tuple(layers) for layers in found.values())

    def prune(
        self, module: nn.Module, sparsities: Mapping[str, float], criterion: Criterion, data: Data, sample: torch.Tensor
    ) -> None:
        """See `Pruner.prune`."""
        from nni.compression.speedup import ModelSpeedup

        before = structure_of(module)
        with _quiet():
            traced = _trace(module, sample)
            wanted = {layer: share for layer, share in sparsities.items() if share > 0}
            configuration = _configuration(traced, wanted)
            try:
                masks = _masks(module, configuration, criterion, data)
                traced = _trace(module, sample)  # again: a pruner puts wrappers in and takes them out
                ModelSpeedup(module, sample, masks, graph_module=traced, logger=_silent()).speedup_model()
                module.eval()  # ModelSpeedup leaves it in training mode
                with torch.no_grad():
                    module(sample[:1])
                    module(sample)
            except Exception as error:  # NNI's errors share no base class
                raise CannotPrune(
                    f"NNI can't take channels out of this network: {type(error).__name__}: "
                    f"{' '.join(str(error).split())[:200]}; set methods.prune.backend: TorchPruning"
                ) from error
        if structure_of(module) == before:
            raise CannotPrune("NNI took nothing out: the sparsity is too small for the widths of this network")


def _trace(module: nn.Module, sample: torch.Tensor) -> torch.fx.GraphModule:
    """Trace a module and note the shape of every value. Raises CannotPrune naming the innermost module that fails."""
    try:
        traced = torch.fx.symbolic_trace(module)
        ShapeProp(traced).propagate(sample)
    except Exception as error:  # whatever the module's own code raises on a proxy
        name, inner = _innermost_untraceable(module)
        raise CannotPrune(
            f"NNI can't trace {name or 'the network'} ({type(inner).__name__}): {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}; set methods.prune.backend: TorchPruning, or "
            "leave out of forward what depends on values of tensors"
        ) from None
    return traced


def _innermost_untraceable(module: nn.Module) -> tuple[str, nn.Module]:
    name, inner = "", module
    while True:
        for child_name, child in inner.named_children():
            try:
                torch.fx.symbolic_trace(child)
            except Exception:
                name, inner = f"{name}.{child_name}".lstrip("."), child
                break
        else:
            return name, inner


def _prunable(traced: torch.fx.GraphModule) -> list[str]:
    """Return every convolution and linear layer but those whose outputs are the logits."""
    last: set[str] = set()
    pending = [node for node in traced.graph.nodes if node.op == "output"]
    seen = set(pending)
    while pending:
        for parent in pending.pop().all_input_nodes:
            if parent.op == "call_module" and isinstance(traced.get_submodule(str(parent.target)), _WEIGHTED):
                last.add(str(parent.target))
            elif parent not in seen:
                seen.add(parent)
                pending.append(parent)
    names = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    return [name for name in names if isinstance(traced.get_submodule(name), _WEIGHTED) and name not in last]


def _configuration(traced: torch.fx.GraphModule, sparsities: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return NNI's configuration: one element for each layer, those that lose the same channels under one group."""
    from nni.compression.speedup import auto_set_denpendency_group_ids

    configuration = [{"op_names": [layer], "sparse_ratio": share} for layer, share in sparsities.items()]
    found: list[dict[str, Any]] = auto_set_denpendency_group_ids(traced, configuration)
    return found


def _masks(
    module: nn.Module, configuration: list[dict[str, Any]], criterion: Criterion, data: Data
) -> dict[str, dict[str, torch.Tensor]]:
    from nni.compression.pruning import FPGMPruner, L1NormPruner, L2NormPruner, SlimPruner, TaylorPruner

    simple = {Criterion.L1: L1NormPruner, Criterion.L2: L2NormPruner, Criterion.FPGM: FPGMPruner}
    if criterion in simple:
        pruner = simple[criterion](module, configuration)
    else:
        learned, steps = (SlimPruner, _SLIM_STEPS) if criterion is Criterion.SLIM else (TaylorPruner, _TAYLOR_STEPS)
        pruner = learned(module, configuration, _evaluator(module, data, steps), training_steps=steps)
        # As in training: networks may do much more for an answer (several frames) than for a gradient.
        module.train()
    _, masks = pruner.compress()
    pruner.unwrap_model()
    module.eval()
    return dict(masks)


def _evaluator(module: nn.Module, data: Data, steps: int) -> Any:
    """Return what shows NNI the gradients of the loss in so many batches, without a step that changes the weights."""
    import nni
    from nni.compression import TorchEvaluator

    def step(batch: Any, model: nn.Module, *_: Any) -> torch.Tensor:
        inputs, labels = batch
        return functional.cross_entropy(model(inputs), labels)

    def train(model: nn.Module, optimizers: Any, training_step: Any, *_: Any, **limits: Any) -> None:
        remaining = limits.get("max_steps") or steps
        while remaining:
            for batch in data.batches("train"):
                if not remaining:
                    return
                optimizers.zero_grad()
                loss = training_step((torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels)), model)
                loss.backward()
                optimizers.step()
                remaining -= 1

    optimizer = nni.trace(torch.optim.SGD)(module.parameters(), lr=0.0)
    return TorchEvaluator(train, optimizer, step)


def _silent() -> logging.Logger:
    quiet = logging.getLogger("rung_porting.nni")
    quiet.setLevel(logging.ERROR)
    return quiet


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    for name in ("nni", "Shape Dependency", "Mask Conflict"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # NNI 3.0 speaks to older versions of torch
        yield
