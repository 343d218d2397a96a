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
class Turns:
    """Whose turn it is to load: one load at a time on a server, `width` servers at a time for a task, in order."""

    width: int = 1
    loading: list[Lane] = field(default_factory=list)
    waiting: list[Lane] = field(default_factory=list)

    def take(self, lane: Lane) -> bool:
        """Tell whether a lane may load now; else it waits, and is told to go on when it is its turn."""
        if lane in self.loading:
            return True
        same_task = sum(other.task == lane.task for other in self.loading)
        if same_task >= self.width or any(other.server == lane.server for other in self.loading):
            if lane not in self.waiting:
                self.waiting.append(lane)
            return False
        self.loading.append(lane)
        return True

    def give(self, lane: Lane) -> None:
        """Let those go on who can, in the order in which they asked."""
        if lane in self.loading:
            self.loading.remove(lane)
        # Who still can't goes to the end of a new queue, in the same order.
        waiting, self.waiting = self.waiting, []
        for other in waiting:
            other.go()


@dataclass(eq=False)
class Lane:
    """One task on one server. `rungs` are the places of its versions in the engine, by number."""

    state: State
    index: int
    server: int
    task: int
    rungs: dict[int, int]
    services: dict[int, Service]
    turns: Turns
    loaded: frozenset[int] = frozenset()
    target: Target | None = None
    loading: int | None = None
    swaps: Counter[str] = field(default_factory=Counter)
    cold_seconds: list[float] = field(default_factory=list)
    """How long each cold swap took, from the begin of its load to the new version answering."""
    _load_began: float = 0.0

    @property
    def active(self) -> int | None:
        """Return the version that answers: the highest that is loaded, as Triton has it."""
        return max(self.loaded, default=None)

    @property
    def swaps_cold(self) -> bool:
        """Tell whether the version that shall answer is being loaded."""
        return self.loading is not None and self.target is not None and self.loading == self.target.active

    @property
    def loads_calmly(self) -> bool:
        """Tell whether it loads, and no step down that is in a hurry: as the operator judges before it drains."""
        answering = self.active
        wanted = self.target.active if self.target is not None else 0
        return self.loading is not None and answering is not None and answering <= wanted

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
        self.go()

    def load_ended(self) -> None:
        """Take what was loaded, and go on."""
        if self.loading is not None:
            if self.swaps_cold:
                self.cold_seconds.append(float(self.state.now[0]) - self._load_began)
            self._have(self.loaded | {self.loading})
            self.loading = None
        self.turns.give(self)
        self.go()

    def lose(self) -> None:
        """Have nothing any more: the server is gone."""
        self.loaded, self.loading, self.target = frozenset(), None, None
        self.turns.give(self)

    def go(self) -> None:
        """Take the steps towards the target, up to the next load."""
        if self.target is None or self.loading is not None:
            return
        for step in plan_steps(self.loaded, self.target):
            added = step.versions - self.loaded
            if not added:
                self._have(step.versions)
                continue
            if self.turns.take(self):
                (self.loading,) = added
                service = self.services[self.loading]
                self._load_began = float(self.state.now[0])
                engine.begin_load(self.state, self.index, service.load_cpu_seconds, service.load_seconds)
            return

    def _have(self, versions: frozenset[int]) -> None:
        self.loaded = versions
        first = self.index * (self.state.head.size // self.state.active.size)
        for version, rung in self.rungs.items():
            self.state.ready[first + rung] = version in versions
        self.state.active[self.index] = NOTHING if self.active is None else self.rungs[self.active]
