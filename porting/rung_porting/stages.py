"""The stages that make one version from its recipe: train; for each turn prune and fine-tune; export, check, measure;
quantise. Every stage's result is in the store, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.api.porting import Allocation, Backend, DataSource, NetworkSource, PortingPlan, PruneSpec
from rung_porting.errors import PortingError, StoreError
from rung_porting.importing import source_sha256
from rung_porting.outcome import Made, Outcome
from rung_porting.recipe import Recipe, Turn, knobs
from rung_porting.store import Build, Entry, Store, digest_of

if TYPE_CHECKING:
    import lightning

    from rung_porting.data.source import Data

REVISION = 6
"""Raise it when a change of this package's code changes what a stage makes."""
_TOOLS = ("torch", "torchvision", "nni", "torch-pruning", "lightning", "onnx", "onnxslim", "onnxruntime", "numpy")
MODEL_FILE = "model.onnx"
_CHECKED_SAMPLES = 32
_TRACED_SAMPLES = 8

Report = Callable[[str, float], None]
"""Is told what is being done and how much of it is done, 0 to 1."""


class Workshop:
    """Makes versions of one plan. Needs torch only where something is missing from the store.

    Args:
        plan: what shall be ported.
        store: where results are kept.
        report: is told the progress.

    Raises:
        PortingError: a class that the plan names can't be imported.
    """

    def __init__(self, plan: PortingPlan, store: Store, report: Report = lambda what, share: None) -> None:
        self.plan = plan
        self.store = store
        self.report = report
        self.common = _common(plan)
        """What every stage of the plan depends on, as JSON."""
        self._spent: dict[str, float] = {}

    # ------------------------------------------------------------------------------------------------------- recipes

    def outcome(self, recipe: Recipe) -> Outcome:
        """Make what the recipe says. A version that fails a check is an outcome too; only the base must not fail.

        Raises:
            StoreError: the store can't be used, so that nothing is known of the recipe.
        """
        notes: list[str] = []
        self._spent = {}
        try:
            made = self._versions(recipe, notes)
        except StoreError:
            raise
        except PortingError as error:
            return Outcome(recipe, (), str(error), spent=self._spent)
        for knob in knobs(self.plan):
            try:
                made += self._versions(recipe.model_copy(update={"knob": knob}), notes, dearer=made[0])
            except StoreError:
                raise
            except PortingError as error:
                fault = f"{knob.sentence()}: {error}"
                if recipe.is_base:  # then it fails for all of them
                    return Outcome(recipe, (), fault, spent=self._spent)
                notes.append(fault)
        return Outcome(recipe, tuple(made), None, tuple(notes), self._spent)

    def _versions(self, recipe: Recipe, notes: list[str], dearer: Made | None = None) -> list[Made]:
        """Return the float version of a recipe, and its INT8 version where that pays; none when it costs no less."""
        made = self._float_version(recipe)
        if dearer is not None and made.flops >= dearer.flops:
            notes.append(f"{made.method()} needs no fewer operations than without: it is no version of its own")
            return []
        if self.plan.methods.quantize is None:
            return [made]
        quantized = self._int8_version(recipe, made, notes)
        return [made] if quantized is None else [made, quantized]

    def _stage(self, name: str, digest: str, build: Build) -> Entry:
        entry = self.store.make(f"{self.plan.task}-{name}", digest, build)
        self._spent[f"{name}-{digest}"] = float(entry.result["seconds"])
        return entry

    def _weights(self, recipe: Recipe) -> Entry:
        recipe = recipe.trained
        if recipe.parent is None:
            return self._stage("train", self._digest(recipe), lambda *at: self._train(recipe, *at))
        self._weights(recipe.parent)  # made first, so that its time is not counted twice
        return self._stage("prune", self._digest(recipe), lambda *at: self._prune(recipe, *at))

    def _digest(self, recipe: Recipe) -> str:
        """Return the digest of a recipe's weights."""
        recipe = recipe.trained
        methods = self.plan.methods
        content: dict[str, Any] = {"common": self.common, "recipe": recipe.model_dump(mode="json")}
        if recipe.turns:
            content["prune"] = [(methods.prune or PruneSpec()).backend, (methods.prune or PruneSpec()).round_to]
        if any(turn.distill for turn in recipe.turns) and methods.distill is not None:
            content["distill"] = methods.distill.to_json()
        return digest_of(content)

    # -------------------------------------------------------------------------------------------------------- weights

    @cached_property
    def data(self) -> Data:
        """The data, loaded when it is first needed."""
        from rung_porting.data.source import load_data

        plan = self.plan
        return load_data(plan.data, plan.input, plan.training.batch_size, plan.seed)

    @cached_property
    def _classes(self) -> int:
        return self.data.classes()

    def fresh(self, recipe: Recipe) -> lightning.LightningModule:
        """Build the network that a recipe begins with, with its first weights. Raises PortingError."""
        from rung_porting.models.source import build_network

        source = self.plan.model
        if recipe.network is not None:
            source = source.model_copy(update={"builtin": recipe.network, "import_": None})
        if recipe.knob is not None:
            arguments = {**source.arguments, recipe.knob.argument: recipe.knob.value}
            source = source.model_copy(update={"arguments": arguments})
        return build_network(source, self.plan.training, self.plan.input, self._classes, self.plan.seed)

    def load(self, recipe: Recipe) -> lightning.LightningModule:
        """Load what a recipe made, ready to answer (evaluation mode), making it where it is missing."""
        from rung_porting.models.structure import load_network

        entry = self._weights(recipe)
        module = self.fresh(recipe)
        load_network(module, entry.folder)
        return module.eval()

    def _train(self, recipe: Recipe, folder: Path, unfinished: Path) -> dict[str, Any]:
        from rung_porting.training import Schedule

        training = self.plan.training
        module = self.fresh(recipe)
        name = recipe.network or "the unpruned network"
        return self._fit(
            module, Schedule(training.epochs, training.patience), None, f"training {name}", folder, unfinished
        )

    def _prune(self, recipe: Recipe, folder: Path, unfinished: Path) -> dict[str, Any]:
        from rung_porting.methods.distill import Teacher
        from rung_porting.training import Schedule

        assert recipe.parent is not None
        turn = recipe.turns[-1]
        self.report(f"pruning {turn.sparsity:.0%}", 0.0)
        module = self.load(recipe.parent)
        self._take_out(module, turn)
        teacher = None
        if turn.distill and self.plan.methods.distill is not None:
            teacher = Teacher(self.load(Recipe()), self.plan.methods.distill)
        schedule = Schedule(turn.epochs, self.plan.training.patience, turn.learning_rate_scale)
        pruned = self._rebuilt(module, recipe)
        return self._fit(pruned, schedule, teacher, f"fine-tuning, {turn.sparsity:.0%} pruned", folder, unfinished)

    def _take_out(self, module: lightning.LightningModule, turn: Turn) -> None:
        """Take channels out with the plan's backend; Auto: NNI, and Torch-Pruning where NNI can't."""
        import torch

        from rung_porting.methods.interface import CannotPrune, Pruner, rounded, uniform
        from rung_porting.methods.prune_nni import NniPruner
        from rung_porting.methods.prune_torch_pruning import TorchPruningPruner
        from rung_porting.methods.sensitivity import by_sensitivity
        from rung_porting.models.structure import restore, structure_of

        spec = self.plan.methods.prune or PruneSpec()
        backend, multiple = spec.backend, spec.round_to
        torch.manual_seed(self.plan.seed)
        sample = torch.from_numpy(self.data.first("validation", _TRACED_SAMPLES).inputs)
        before = (structure_of(module), {name: tensor.clone() for name, tensor in module.state_dict().items()})

        def with_(pruner: Pruner) -> None:
            groups = pruner.groups(module, sample)
            if turn.allocation is Allocation.SENSITIVITY:
                shares = by_sensitivity(pruner, module, groups, turn.sparsity, self.data, sample)
            else:
                shares = uniform(groups, turn.sparsity)
            layers = structure_of(module)
            widths = {name: int(layers[name].get("out_channels") or layers[name]["out_features"]) for name in shares}
            pruner.prune(module, rounded(shares, widths, multiple), turn.criterion, self.data, sample)

        if backend is not Backend.TORCH_PRUNING:
            try:
                return with_(NniPruner())
            except CannotPrune:
                if backend is Backend.NNI:
                    raise
                restore(module, *before)
        return with_(TorchPruningPruner())

    def _rebuilt(self, module: lightning.LightningModule, recipe: Recipe) -> lightning.LightningModule:
        """Return a network of the plan's own class with the sizes that pruning left, and see that it answers the same.

        The libraries leave their own objects inside; only tensors and sizes go on.
        """
        import torch

        from rung_porting.models.structure import restore, structure_of

        rebuilt = self.fresh(recipe)
        restore(rebuilt, structure_of(module), dict(module.state_dict()))
        inputs = torch.from_numpy(self.data.first("validation", _TRACED_SAMPLES).inputs)
        with torch.no_grad():
            expected, found = module.eval()(inputs), rebuilt.eval()(inputs)
        if not torch.allclose(expected, found, rtol=1e-4, atol=1e-5):
            raise PortingError(
                f"{type(rebuilt).__name__} can't be rebuilt from the sizes of its layers after pruning: its "
                "answers differ; does forward depend on sizes that are kept elsewhere than in its layers?"
            )
        return rebuilt

    def _fit(
        self, module: Any, schedule: Any, teacher: Any, what: str, folder: Path, unfinished: Path
    ) -> dict[str, Any]:
        from rung_porting.models.structure import parameter_count, save_network
        from rung_porting.training import fit

        epochs = fit(
            module,
            self.data,
            schedule,
            seed=self.plan.seed,
            checkpoints=unfinished,
            progress=lambda share: self.report(what, share),
            teacher=teacher,
        )
        save_network(module, folder)
        return {"epochs": epochs, "parameters": parameter_count(module)}

    # -------------------------------------------------------------------------------------------------------- versions

    def _float_version(self, recipe: Recipe) -> Made:
        weights = self._weights(recipe)

        def build(folder: Path, unfinished: Path) -> dict[str, Any]:
            import torch

            from rung_porting import export
            from rung_porting.models.structure import count_flops

            self.report("exporting, checking, measuring", 1.0)
            module = self.load(recipe)
            model = folder / MODEL_FILE
            export.export_onnx(module, model, self.plan.input, self.plan.export)
            samples = self.data.first("validation", _CHECKED_SAMPLES)
            (latency,) = export.cpu_seconds_each([model], samples)
            return {
                "difference": export.check_export(module, model, samples, self.plan.export.tolerance),
                **self._judged(model),
                "latency_seconds": latency,
                "parameters": weights.result["parameters"],
                "flops": count_flops(module, torch.zeros(1, *self.plan.input)),
            }

        entry = self._stage("export", digest_of(self._exported(recipe)), build)
        sparsity = None
        if recipe.turns and recipe.knob is None:
            assert recipe.parent is not None
            sparsity = 1.0 - weights.result["parameters"] / self._weights(recipe.parent).result["parameters"]
        return self._made(recipe, entry, int8=False, epochs=int(weights.result["epochs"]), sparsity=sparsity)

    def _exported(self, recipe: Recipe) -> dict[str, Any]:
        """Return what an exported file depends on."""
        knob = None if recipe.knob is None else recipe.knob.model_dump()
        return {"weights": self._digest(recipe), "export": self.plan.export.to_json(), "knob": knob}

    def _int8_version(self, recipe: Recipe, base: Made, notes: list[str]) -> Made | None:
        """Return the INT8 version, or None where it does not pay or fails a check; `notes` says why."""
        spec = self.plan.methods.quantize
        assert spec is not None

        def build(folder: Path, unfinished: Path) -> dict[str, Any]:
            from rung_porting import export
            from rung_porting.methods.quantize import quantize

            self.report("quantising, checking, measuring", 1.0)
            model = folder / MODEL_FILE
            calibration = self.data.first("train", spec.calibration_samples)
            try:
                quantize(base.model, model, calibration.inputs, export.INPUT_NAME)
                samples = self.data.first("validation", 400)
                agreement = export.check_agreement(model, base.model, samples, self.plan.export.min_agreement)
            except PortingError as error:
                model.unlink(missing_ok=True)
                return {"failure": str(error).replace(str(folder), "")}
            float_seconds, int8_seconds = export.cpu_seconds_each([base.model, model], samples)
            return {
                "difference": 1.0 - agreement,
                **self._judged(model),
                "speedup": float_seconds / int8_seconds,
                "latency_seconds": base.latency_seconds * int8_seconds / float_seconds,
                "parameters": base.parameters,
                "flops": base.flops,
            }

        content = {**self._exported(recipe), "calibration": spec.calibration_samples}
        entry = self._stage("int8", digest_of(content), build)
        of = "" if recipe.knob is None else f"{recipe.knob.sentence()}: "
        if "failure" in entry.result:
            notes.append(of + str(entry.result["failure"]))
            return None
        if entry.result["speedup"] < spec.min_speedup:
            speedup = f"{entry.result['speedup']:.2f}x as fast here, below {spec.min_speedup:g}x"
            notes.append(f"{of}INT8 is {speedup}: it does not pay")
            return None
        return self._made(recipe, entry, int8=True, epochs=base.epochs, sparsity=None)

    def _judged(self, model: Path) -> dict[str, Any]:
        from rung_porting.export import judge

        test = judge(model, self.data, "test")
        validation = judge(model, self.data, "validation")
        return {"accuracy": test.accuracy, "samples": test.samples, "validation_accuracy": validation.accuracy}

    def _made(self, recipe: Recipe, entry: Entry, *, int8: bool, epochs: int, sparsity: float | None) -> Made:
        result = entry.result
        return Made(
            recipe=recipe,
            int8=int8,
            model=entry.folder / MODEL_FILE,
            validation_accuracy=float(result["validation_accuracy"]),
            accuracy=float(result["accuracy"]),
            samples=int(result["samples"]),
            latency_seconds=float(result["latency_seconds"]),
            parameters=int(result["parameters"]),
            flops=int(result["flops"]),
            epochs=epochs,
            sparsity=sparsity,
            difference=float(result["difference"]),
        )


def _common(plan: PortingPlan) -> dict[str, Any]:
    """Return what every stage of a plan depends on."""
    return {
        "revision": REVISION,
        "tools": {name: importlib.metadata.version(name) for name in _TOOLS},
        "model": _identity(plan.model, "model"),
        "data": _identity(plan.data, "data"),
        "input": plan.input,
        "training": plan.training.to_json(),
        "seed": plan.seed,
    }


def _identity(source: NetworkSource | DataSource, what: str) -> dict[str, Any]:
    content = source.to_json()
    if source.import_ is not None:
        content["source"] = source_sha256(source.import_, what)
    return content
