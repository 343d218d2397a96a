"""How long a plan will roughly take here: one step of training is timed, the rest is arithmetic."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rung.api.porting import PortingPlan
from rung_porting.recipe import Recipe
from rung_porting.stages import Workshop
from rung_porting.store import Store

_TIMED_STEPS = 3
_PRUNED_COST = 0.35
"""Cost of a fine-tuning step against one of the unpruned network, in the mean over a ladder."""
_FIXED_SECONDS = 15.0
"""Start of a process, export, checks, quantisation."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan means on this machine, on one core a trial."""

    parameters: int
    flops: int
    training_samples: int
    step_seconds: float
    base_seconds: float
    trial_seconds: float


def estimate(plan: PortingPlan, store: Store) -> Estimate:
    """Load the data, build the network, time a few steps of training. Raises PortingError as `run` would."""
    import torch
    from torch.nn import functional

    from rung_porting.models.structure import count_flops, parameter_count

    torch.set_num_threads(1)
    workshop = Workshop(plan, store)
    module = workshop.fresh(Recipe())
    batches = max(1, len(workshop.data.train))
    batch = next(workshop.data.batches("train"))
    inputs, labels = torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels)
    seconds = []
    for _ in range(_TIMED_STEPS):
        started = time.monotonic()
        functional.cross_entropy(module(inputs), labels).backward()
        seconds.append(time.monotonic() - started)
    step = min(seconds)
    epoch = step * batches
    trial = _FIXED_SECONDS
    if plan.methods.prune is not None:
        epochs = sum(plan.methods.prune.epochs) / len(plan.methods.prune.epochs)
        turns = sum(plan.methods.prune.iterations) / len(plan.methods.prune.iterations)
        teacher = 1.5 if plan.methods.distill is not None else 1.0
        trial += epoch * epochs * turns * _PRUNED_COST * teacher
    module.eval()
    return Estimate(
        parameters=parameter_count(module),
        flops=count_flops(module, torch.zeros(1, *plan.input)),
        training_samples=batches * len(batch.labels),
        step_seconds=step,
        base_seconds=epoch * plan.training.epochs * 1.1 + _FIXED_SECONDS,
        trial_seconds=trial,
    )


def total_seconds(found: Estimate, plan: PortingPlan, jobs: int) -> float:
    """Return the whole time with so many trials at a time."""
    trials = plan.budget.trials if plan.methods.prune is not None else 0
    side_by_side = max(1, min(jobs, plan.budget.parallel))
    family = len(plan.methods.family.members) if plan.methods.family is not None else 0
    return found.base_seconds * (1 + family / side_by_side) + trials * found.trial_seconds / side_by_side
