"""What shall be ported and how: the content of a porting plan, the file that `rung-port` reads.

Everything that changes a result stands here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from rung.api.base import (
    Count,
    Integer,
    Model,
    Number,
    ObjectName,
    Positive,
    PositiveShare,
    Rule,
    Share,
    Token,
    given,
    rules,
)
from rung.api.quantity import PositiveDuration

ImportPath = Annotated[
    str, Field(max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$")
]
"""Where Python finds a class: package.module:Class."""
Arguments = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class Criterion(StrEnum):
    """How unimportant channels are recognised."""

    L1 = "L1"
    L2 = "L2"
    FPGM = "FPGM"
    TAYLOR = "Taylor"
    SLIM = "Slim"


class Backend(StrEnum):
    """The library that takes channels out."""

    AUTO = "Auto"
    NNI = "NNI"
    TORCH_PRUNING = "TorchPruning"


class Allocation(StrEnum):
    """How one sparsity becomes a sparsity for each group of layers."""

    UNIFORM = "Uniform"
    SENSITIVITY = "Sensitivity"


_ONE_SOURCE = rules(
    Rule(
        f"{given('self.builtin')} != {given('self.__import__')}", "give either builtin or import, not both and not none"
    )
)


class _Source(Model):
    """A class: one that comes with Rung, by name, or the user's own, by import path."""

    builtin: Token | None = None
    """Name of one that comes with rung-port; `rung-port plan --list` shows them."""
    import_: Annotated[ImportPath | None, Field(alias="import")] = None
    """The user's own class as package.module:Class; looked for beside the plan's file, too."""
    arguments: Arguments = Field(default={})
    """Keyword arguments of the class."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.builtin is None) == (self.import_ is None):
            raise ValueError("give either builtin or import, not both and not none")
        return self


class NetworkSource(_Source):
    """The unpruned network: a LightningModule whose forward answers logits (batch, classes)."""

    model_config = _ONE_SOURCE


class DataSource(_Source):
    """The data: a LightningDataModule with train, validation and test loaders of (inputs, labels)."""

    model_config = _ONE_SOURCE


class TrainingSpec(Model):
    """How the unpruned network is trained."""

    epochs: Annotated[Integer, Field(ge=1, le=100_000)] = 10
    """Epochs at most."""
    patience: Annotated[Integer, Field(ge=1, le=10_000)] | None = None
    """Stop after so many epochs in which the validation accuracy did not rise; never early when absent."""
    learning_rate: Positive | None = None
    """Highest learning rate of a built-in network; one of the user's own sets its own."""
    batch_size: Annotated[Integer, Field(ge=1, le=1_000_000)] | None = None
    """Samples in a batch of built-in data; the user's own sets its own."""


class Range(Model):
    """A range of numbers, both ends included."""

    model_config = rules(Rule("self.min <= self.max", "min must not be above max"))

    min: Positive
    """The smallest."""
    max: Positive
    """The largest."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError("min must not be above max")
        return self


_NO_SLIM = "Slim works with NNI only"


class PruneSpec(Model):
    """Structured pruning: whole channels leave, then the network is fine-tuned."""

    model_config = rules(Rule("self.backend != 'TorchPruning' || !('Slim' in self.criteria)", _NO_SLIM))

    criteria: Annotated[tuple[Criterion, ...], Field(min_length=1, max_length=8)] = (Criterion.L1, Criterion.TAYLOR)
    """How unimportant channels are recognised; the search chooses among these. L1, L2: small weights. FPGM: filters
    near the others' median. Taylor: little change of the loss. Slim: a penalty drives factors on the channels to 0."""
    backend: Backend = Backend.AUTO
    """NNI, TorchPruning, or Auto: NNI, and Torch-Pruning where NNI can't trace the network."""
    allocations: Annotated[tuple[Allocation, ...], Field(min_length=1, max_length=2)] = (Allocation.UNIFORM,)
    """Uniform: every group of layers loses the same share. Sensitivity: those that bear it lose more."""
    iterations: Annotated[tuple[Annotated[Integer, Field(ge=1, le=10)], ...], Field(min_length=1, max_length=10)] = (
        1,
        2,
    )
    """In how many turns of pruning and fine-tuning a sparsity is reached; the search chooses among these."""
    max_sparsity: Annotated[Number, Field(gt=0, lt=1)] = 0.98
    """Largest share of channels that leaves."""
    round_to: Annotated[Integer, Field(ge=1, le=128)] = 8
    """Layers keep a multiple of so many channels, as runtimes compute them in blocks; 1: any number."""
    epochs: Annotated[tuple[Annotated[Integer, Field(ge=1, le=100_000)], ...], Field(min_length=1, max_length=16)] = (
        2,
        4,
        8,
    )
    """Epochs of fine-tuning at most; the search chooses among these. They hold down to a quarter of the operations;
    below, they rise with the square root of the ratio, up to eight times: small versions need more, cheaper ones."""
    learning_rate_scale: Range = Range(min=0.3, max=4.0)
    """The fine-tuning's learning rate, as a multiple of the training's; the search chooses within."""

    @model_validator(mode="after")
    def _backend_has_the_criteria(self) -> Self:
        if self.backend is Backend.TORCH_PRUNING and Criterion.SLIM in self.criteria:
            raise ValueError(_NO_SLIM)
        return self


class DistillSpec(Model):
    """Fine-tuning that also follows the answers of the unpruned network (Hinton et al., 2015)."""

    temperature: Positive = 2.0
    """Both answers are divided by it before they are compared."""
    weight: PositiveShare = 0.5
    """Share of the teacher's part in the loss."""


class QuantizeSpec(Model):
    """Static INT8 quantisation by ONNX Runtime, per channel."""

    calibration_samples: Annotated[Integer, Field(ge=1, le=1_000_000)] = 256
    """Training samples that the ranges are measured on."""
    min_speedup: Annotated[Number, Field(ge=1, le=100)] = 1.1
    """Where INT8 is not faster than the float version by this factor here, the float version stays alone."""


class FamilySpec(Model):
    """Smaller networks of the same family, trained as they are."""

    members: Annotated[tuple[Token, ...], Field(min_length=1, max_length=16)]
    """Names of built-in networks."""


class KnobSpec(Model):
    """An argument of the network's class that changes what an answer costs, and no weight.

    Frames of a burst, crops, resolution, the exit that is taken: what video analytics calls knobs (Zhang et al.,
    VideoStorm, 2017). Every network that is made becomes a version at each value, too, without any training.
    """

    argument: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the argument; it takes integers."""
    values: Annotated[tuple[Annotated[Integer, Field(ge=1, le=1_000_000)], ...], Field(min_length=1, max_length=16)]
    """Its values beside the one that the network's own arguments have."""


class MethodsSpec(Model):
    """What makes smaller versions; what is absent is not used."""

    prune: PruneSpec | None = None
    """Structured pruning."""
    distill: DistillSpec | None = None
    """Fine-tuning with the unpruned network as teacher."""
    quantize: QuantizeSpec | None = None
    """INT8 versions of what the other methods make."""
    family: FamilySpec | None = None
    """Smaller networks of the same family."""
    knob: KnobSpec | None = None
    """The same weights with cheaper answers."""


class BudgetSpec(Model):
    """What the search may spend."""

    trials: Annotated[Integer, Field(ge=0, le=10_000)] = 12
    """Networks that are made beside the unpruned one; their INT8 versions don't count."""
    parallel: Annotated[Integer, Field(ge=1, le=1000)] = 2
    """Trials of one round, chosen together and made at the same time where there are cores or nodes for it."""
    time: PositiveDuration | None = None
    """No round begins after so much time of training, added up over all trials."""


class TargetsSpec(Model):
    """When the ladder is good enough: the search ends early once all that are given here are met."""

    min_accuracy: Share = 0.0
    """Versions below it are not published."""
    versions: Annotated[Integer, Field(ge=1, le=1000)] | None = None
    """So many versions on the frontier."""
    max_versions: Annotated[Integer, Field(ge=2, le=1000)] | None = None
    """At most so many are published: those without which the frontier would lose most."""
    flops_span: Annotated[Number, Field(ge=1, le=1_000_000)] = 64.0
    """How many times fewer floating-point operations than the unpruned network the cheapest version should need."""


class ExportSpec(Model):
    """The ONNX files, and how far they may be from the network."""

    opset: Annotated[Integer, Field(ge=13, le=21)] = 17
    """ONNX operator set; 17 is understood by every ONNX Runtime since 1.12."""
    tolerance: Positive = 1e-4
    """Largest difference between a logit from torch and from ONNX Runtime, relative to the largest logit."""
    min_agreement: Share = 0.9
    """Share of the validation samples on which an INT8 version must answer as its float version."""
    max_batch_size: Annotated[Integer, Field(ge=1, le=4096)] = 8
    """Largest batch that Triton hands over."""


class PortingPlan(Model):
    """One task: a network, its data, the methods that make smaller versions, and what they may cost."""

    task: Annotated[ObjectName, Field(max_length=63)]
    """Name of the InferenceTask; its folder in the model repository."""
    generation: Annotated[Integer, Field(ge=1, le=9_000_000)] = 1
    """Raised at each retraining: version numbers begin with it."""
    model: NetworkSource
    """The unpruned network."""
    data: DataSource
    """The data it is trained and judged on."""
    input: Annotated[tuple[Annotated[Integer, Field(ge=1, le=100_000)], ...], Field(min_length=1, max_length=6)]
    """Shape of one input without the batch, for example [3, 32, 32]."""
    training: TrainingSpec = TrainingSpec()
    """How the unpruned network is trained."""
    methods: MethodsSpec = MethodsSpec(prune=PruneSpec(), distill=DistillSpec(), quantize=QuantizeSpec())
    """What makes smaller versions. When absent: pruning, distillation and quantisation."""
    budget: BudgetSpec = BudgetSpec()
    """What the search may spend."""
    targets: TargetsSpec = TargetsSpec()
    """When the ladder is good enough."""
    export: ExportSpec = ExportSpec()
    """The ONNX files."""
    seed: Count = 1
    """Decides everything that chance decides."""
