"""What is wanted of one server, what it was last seen to have, and what was done to it: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rung.adapters.agent import Inventory, VersionInventory
from rung.control.swap import SwapOutcome
from rung.core.plan import Target

REVIVE = "revive"
STANDBY = "standby"
_NOT_ASKED = "not asked yet"
_UNSAID_AGE_SECONDS = 3.0
"""How old a figure is at most that comes without its age: agents measure every two seconds."""


@dataclass(frozen=True, slots=True)
class Want:
    """What one model shall be on this server.

    `sha256` is what the file of each version has to be: another file is not loaded. `memory_bytes` is the peak of each
    version, where it was measured.
    """

    target: Target
    sha256: Mapping[int, str]
    memory_bytes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a server was last seen to have. Before the first answer `reachable` is False and `loaded` empty."""

    reachable: bool = False
    message: str = _NOT_ASKED
    time_seconds: float = 0.0
    """When Triton last answered."""
    loaded: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """By model: versions that are ready."""
    loading: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """By model: versions that are being loaded, whoever asked for it."""
    inventory: Inventory | None = None
    """What the agent last said; it stays when the agent does not answer, because the files stay too."""
    inventory_time_seconds: float = 0.0
    """When the agent said it."""
    inventory_message: str = ""
    """Why the agent did not answer the last time; empty when it did."""

    @property
    def asked(self) -> bool:
        """Whether Triton and the agent were asked at least once, and answered or let their deadlines pass."""
        agent = self.inventory is not None or bool(self.inventory_message)
        return agent and self.message != _NOT_ASKED

    @property
    def memory_time_seconds(self) -> float:
        """When the memory that the agent last told of was measured, by the clock of the operator."""
        age_seconds = self.inventory.memory.age_seconds if self.inventory else None
        return self.inventory_time_seconds - (_UNSAID_AGE_SECONDS if age_seconds is None else max(0.0, age_seconds))

    def files(self, model: str, sha256: Mapping[int, str]) -> frozenset[int]:
        """Return the versions whose files are on the server, whole, verified, and those that `sha256` names."""
        found = self.inventory.tasks.get(model) if self.inventory else None
        if found is None:
            return frozenset()
        return frozenset(number for number in found.available if found.versions[number].sha256 == sha256.get(number))

    def file(self, model: str, version: int) -> VersionInventory | None:
        """Return what the agent says of one version's files, None when it knows nothing of them."""
        found = self.inventory.tasks.get(model) if self.inventory else None
        return found.versions.get(version) if found else None


@dataclass(frozen=True, slots=True)
class Finished:
    """A swap that ended."""

    server: str
    model: str
    kind: str
    """`warm` or `cold`; `standby` when one was loaded and what answers did not change; `revive` when a version whose
    process had died was loaded again."""
    outcome: SwapOutcome
