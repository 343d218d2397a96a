"""The stages of porting one task: train, then for each sparsity prune and fine-tune; export and measure each.

Every stage's result is in the store, so a run that was killed goes on where it was and a second run only looks up.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung_porting.plan import PruningPlan, TaskPlan
from rung_porting.store import Entry, Store, digest_of

if TYPE_CHECKING:
    from rung_porting.datasets import Splits
    from rung_porting.networks import Network

REVISION = 2
"""Raise it when a change of this package's code changes what a stage makes."""
_TOOLS = ("torch", "nni", "lightning", "onnx", "onnxruntime", "scikit-learn", "numpy")
WEIGHTS_FILE = "weights.pt"
MODEL_FILE = "model.onnx"

Report = Callable[[str, float], None]
"""Is told what is being done and how much of the task is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Made:
    """One version that was made; `sparsity` is the share of channels that left, None for the base network."""

    sparsity: float | None
    epochs: int
    model: Path
    accuracy: float
    samples: int
    latency_seconds: float
    parameters: int
    flops: int
    export_difference: float


@dataclass(frozen=True, slots=True)
class _Digests:
    """Where each stage of one task is kept."""

    task: str
    base: str
    pruned: tuple[str, ...]
    exported: tuple[str, ...]


def _digests(plan: TaskPlan) -> _Digests:
    tools = {name: importlib.metadata.version(name) for name in _TOOLS}
    common = {"revision": REVISION, "tools": tools}
    seen = {"split": plan.split.model_dump(), "camera": plan.camera.model_dump()}
    given = {"question": plan.question, "seed": plan.seed, **seen}
    base = digest_of(
        {
            **common,
            **given,
            "stage": "base",
            "network": plan.network.model_dump(),
            "training": plan.base.model_dump(),
        }
    )
    pruned = tuple(digest_of({**common, "stage": "prune", "base": base, **each.model_dump()}) for each in plan.pruned)
    exported = tuple(digest_of({**common, "stage": "export", "weights": weights}) for weights in (base, *pruned))
    return _Digests(plan.name, base, pruned, exported)


def finished(plan: TaskPlan, store: Store) -> list[Made] | None:
    """Return every version of the task if all of them are in the store; needs neither torch nor time."""
    digests = _digests(plan)
    entries = [store.get(f"{plan.name}-export", digest) for digest in digests.exported]
    present = [entry for entry in entries if entry is not None]
    if len(present) < len(entries):
        return None
    return [_made(plan, each, entry) for each, entry in zip((None, *plan.pruned), present, strict=True)]


def port(plan: TaskPlan, store: Store, report: Report) -> list[Made]:
    """Make every version of the task.

    Raises:
        PortingError: an export does not answer as its network, or another process works on the task.
    """
    with store.lock(plan.name):
        return _Porting(plan, store, report).run()


class _Porting:
    """One run over one task. Heavy imports wait until there is something to make."""

    def __init__(self, plan: TaskPlan, store: Store, report: Report) -> None:
        self.plan = plan
        self.store = store
        self.report = report
        self.digests = _digests(plan)
        work = [float(plan.base.epochs)]
        work += [each.training.epochs * (1.0 - each.sparsity) ** 2 + 0.3 for each in plan.pruned]
        self.shares = [each / sum(work) for each in work]
        self._splits: Splits | None = None

    def run(self) -> list[Made]:
        made = []
        for index, each in enumerate((None, *self.plan.pruned)):
            weights = self._base() if each is None else self._pruned(index - 1, each)
            made.append(_made(self.plan, each, self._exported(index, weights)))
        self.report("done", 1.0)
        return made

    @property
    def splits(self) -> Splits:
        from rung_porting.datasets import load

        if self._splits is None:
            self._splits = load(self.plan.question, self.plan.split, self.plan.camera)
        return self._splits

    def _tell(self, index: int, what: str, share: float) -> None:
        self.report(what, sum(self.shares[:index]) + self.shares[index] * share)

    def _base(self) -> Entry:
        def build(folder: Path, unfinished: Path) -> dict[str, Any]:
            import torch

            from rung_porting.datasets import CLASSES
            from rung_porting.networks import Network, Widths
            from rung_porting.training import train

            torch.manual_seed(self.plan.seed)
            shape = self.plan.network
            widths = Widths.regular(shape.streams, shape.blocks)
            network = Network(widths, CLASSES[self.plan.question], shape.side, shape.margin)
            train(
                network,
                self.splits.train,
                self.plan.base,
                seed=self.plan.seed,
                checkpoints=unfinished,
                progress=lambda share: self._tell(0, f"training, {self.plan.base.epochs} epochs", share),
            )
            torch.save(network.state_dict(), folder / WEIGHTS_FILE)
            return {}

        self._tell(0, "training", 0.0)
        return self.store.make(f"{self.plan.name}-base", self.digests.base, build)

    def _pruned(self, index: int, each: PruningPlan) -> Entry:
        def build(folder: Path, unfinished: Path) -> dict[str, Any]:
            import torch

            from rung_porting.pruning import prune_l1
            from rung_porting.training import train

            network = prune_l1(self._load(self._base()), each.sparsity)
            train(
                network,
                self.splits.train,
                each.training,
                seed=self.plan.seed,
                checkpoints=unfinished,
                progress=lambda share: self._tell(index + 1, f"{each.sparsity:.0%} pruned, fine-tuning", share),
            )
            torch.save(network.state_dict(), folder / WEIGHTS_FILE)
            return {}

        self._tell(index + 1, f"pruning {each.sparsity:.0%}", 0.0)
        return self.store.make(f"{self.plan.name}-prune", self.digests.pruned[index], build)

    def _exported(self, index: int, weights: Entry) -> Entry:
        def build(folder: Path, unfinished: Path) -> dict[str, Any]:
            import torch

            from rung_porting import export
            from rung_porting.datasets import SIDE
            from rung_porting.networks import count_flops, parameter_count

            network = self._load(weights)
            model = folder / MODEL_FILE
            export.export_onnx(network, model)
            difference = export.check_export(network, model, self.splits.validation)
            measured = export.measure(model, self.splits.test)
            return {
                "accuracy": measured.accuracy,
                "samples": measured.samples,
                "latency_seconds": measured.latency_seconds,
                "parameters": parameter_count(network),
                "flops": count_flops(network, torch.zeros(1, 1, SIDE, SIDE)),
                "export_difference": difference,
            }

        self._tell(index, "exporting, checking, measuring", 1.0)
        return self.store.make(f"{self.plan.name}-export", self.digests.exported[index], build)

    def _load(self, weights: Entry) -> Network:
        import torch

        from rung_porting.networks import rebuild

        torch.set_num_threads(1)
        tensors = torch.load(weights.folder / WEIGHTS_FILE, weights_only=True)
        return rebuild(tensors, self.plan.network.side, self.plan.network.margin)


def _made(plan: TaskPlan, each: PruningPlan | None, entry: Entry) -> Made:
    result = entry.result
    return Made(
        sparsity=None if each is None else each.sparsity,
        epochs=(plan.base if each is None else each.training).epochs,
        model=entry.folder / MODEL_FILE,
        accuracy=result["accuracy"],
        samples=result["samples"],
        latency_seconds=result["latency_seconds"],
        parameters=result["parameters"],
        flops=result["flops"],
        export_difference=result["export_difference"],
    )
