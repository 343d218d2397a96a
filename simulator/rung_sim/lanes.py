"""How the versions of one task on one server come and go: the operator's own steps, on a simulated server."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rung.core.plan import Target
from rung.core.swap_steps import plan_steps, wanted_versions
from rung_sim import engine
from rung_sim.engine import NOTHING, State
from rung_sim.world import Service


@dataclass
class Lane:
    """One task on one server. `rungs` are the places of its versions in the engine, by number."""

    state: State
    index: int
    rungs: dict[int, int]
    services: dict[int, Service]
    loaded: frozenset[int] = frozenset()
    target: Target | None = None
    loading: int | None = None
    swaps: Counter[str] = field(default_factory=Counter)

    @property
    def active(self) -> int | None:
        """Return the version that answers: the highest that is loaded, as Triton has it."""
        return max(self.loaded, default=None)

    def place(self, target: Target) -> None:
        """Have the target loaded, at once and for nothing: how a simulation begins."""
        self.target = target
        self._have(wanted_versions(target))

    def want(self, target: Target) -> None:
        """Go to a target, as soon as a load that has begun is done."""
        if target == self.target:
            return
        if self.target is None or target.active != self.target.active:
            self.swaps["warm" if target.active in self.loaded else "cold"] += 1
        self.target = target
        if self.loading is None:
            self._go()

    def load_ended(self) -> None:
        """Take what was loaded, and go on."""
        if self.loading is not None:
            self._have(self.loaded | {self.loading})
            self.loading = None
        self._go()

    def _go(self) -> None:
        if self.target is None:
            return
        for step in plan_steps(self.loaded, self.target):
            added = step.versions - self.loaded
            if added:
                (self.loading,) = added
                service = self.services[self.loading]
                engine.begin_load(self.state, self.index, service.load_cpu_seconds, service.load_seconds)
                return
            self._have(step.versions)

    def _have(self, versions: frozenset[int]) -> None:
        self.loaded = versions
        self.state.active[self.index] = NOTHING if self.active is None else self.rungs[self.active]
