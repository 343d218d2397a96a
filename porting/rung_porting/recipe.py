"""How one version is made: plain data, so that it has a digest, can be handed to another process, and can be shown."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rung.api.porting import Allocation, Criterion


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


class Recipe(_Part):
    """A network, and what is done to it. Without turns: trained as it is."""

    network: str | None = None
    """A built-in network of the same family; None: the plan's own."""
    turns: tuple[Turn, ...] = ()

    @property
    def is_base(self) -> bool:
        """Whether this is the plan's unpruned network."""
        return self.network is None and not self.turns

    @property
    def parent(self) -> Recipe | None:
        """What the last turn began with."""
        return self.model_copy(update={"turns": self.turns[:-1]}) if self.turns else None

    def method(self) -> str:
        """Return what people call it: base, l1, taylor+distilled, resnet18, ..."""
        if not self.turns:
            return self.network or "base"
        last = self.turns[-1]
        return last.criterion.lower() + ("+distilled" if last.distill else "")

    def start(self) -> str:
        """Return what people call what the turns begin with."""
        return self.network or "unpruned"
