"""How one version is made: plain data, so that it has a digest, can be handed to another process, and can be shown."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rung.api.porting import Allocation, Criterion, PortingPlan


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Turn(_Part):
    """Channels leave, then the network is fine-tuned."""

    sparsity: Annotated[float, Field(gt=0, lt=1)]
    """Share of the channels that leaves in this turn."""
    criterion: Criterion
    allocation: Allocation
    epochs: Annotated[int, Field(ge=1)]
    learning_rate_scale: Annotated[float, Field(gt=0)]
    distill: bool

    def sentence(self) -> str:
        """Describe it for a person, for example `50% out (Taylor), 4 epochs x0.7, distilled`."""
        how = self.criterion.value + (" by sensitivity" if self.allocation is Allocation.SENSITIVITY else "")
        tuned = f"{self.epochs} epochs x{self.learning_rate_scale:.2g}"
        return f"{self.sparsity:.0%} out ({how}), {tuned}" + (", distilled" if self.distill else "")


class Knob(_Part):
    """A value for an argument of the network's class that changes what an answer costs, and no weight."""

    argument: str
    value: int

    def sentence(self) -> str:
        """Describe it for a person, for example `frames=2`."""
        return f"{self.argument}={self.value}"


def knobs(plan: PortingPlan) -> tuple[Knob, ...]:
    """Return where the plan's knob may be turned to, beside where it is."""
    spec = plan.methods.knob
    return () if spec is None else tuple(Knob(argument=spec.argument, value=value) for value in spec.values)


class Recipe(_Part):
    """A network, what is done to it, and how its answers are computed. Without turns: trained as it is."""

    network: str | None = None
    """A built-in network of the same family; None: the plan's own."""
    turns: tuple[Turn, ...] = ()
    knob: Knob | None = None
    """Where the plan's knob is turned to; None: where the plan's own arguments leave it."""

    @property
    def is_base(self) -> bool:
        """Whether this is the plan's unpruned network with the plan's own arguments."""
        return self.network is None and not self.turns and self.knob is None

    @property
    def trained(self) -> Recipe:
        """What its weights come from: a knob changes none."""
        return self.model_copy(update={"knob": None})

    @property
    def parent(self) -> Recipe | None:
        """What it was made from: the network before the last turn, or the one whose knob was not turned yet."""
        if self.knob is not None:
            return self.trained
        return self.model_copy(update={"turns": self.turns[:-1]}) if self.turns else None

    def method(self) -> str:
        """Return what people call it: base, l1, taylor+distilled, resnet18, l1+frames-2, ..."""
        name = self.network or "base"
        if self.turns:
            last = self.turns[-1]
            name = last.criterion.lower() + ("+distilled" if last.distill else "")
        return name if self.knob is None else f"{name}+{self.knob.argument}-{self.knob.value}"

    def start(self) -> str:
        """Return what people call what the turns begin with."""
        return self.network or "unpruned"
