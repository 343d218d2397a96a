"""Static: every task stays on a given rung. Its two extremes are the baselines of every experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from rung.core.frontier import Metric
from rung.core.plan import Code, Memory, Plan, Reason, ServerPlan, Target
from rung.core.policies import base
from rung.core.snapshot import PoolSnapshot, ServerState, TaskState, Version

DEMAND_WINDOW_SECONDS = 10.0


class StaticChoice(StrEnum):
    """The rung every task stays on."""

    BEST = "Best"
    CHEAPEST = "Cheapest"
    VERSION = "Version"


@dataclass(frozen=True, slots=True)
class Static:
    """Every task stays on its best or cheapest rung, or on the version that is named for it.

    With `StaticChoice.VERSION`, a task that is not named gets its best version. A named version that is not on the
    ladder (broken, not on the server, below a floor, beaten by another) is replaced by its neighbour, the best rung
    that costs no more, with `VERSION_UNAVAILABLE`. Signals are not needed; they only feed the expected utilisation.
    """

    name: ClassVar[str] = "Static"
    needs_signals: ClassVar[bool] = False
    history_seconds: ClassVar[float] = DEMAND_WINDOW_SECONDS

    choice: StaticChoice = StaticChoice.BEST
    versions: Mapping[str, int] = field(default_factory=dict)
    metric: Metric = Metric.INVERSE_THROUGHPUT

    def decide(self, snapshot: PoolSnapshot, memory: Memory) -> tuple[Plan, Memory]:
        """Return the same allocation whatever the load; nothing is remembered."""
        plans = []
        reasons: list[Reason] = []
        for server in snapshot.servers:
            if not server.ready:
                continue
            chosen: dict[str, Version] = {}
            for task in base.tasks_of(snapshot, server):
                version, reason = self._task(task, server)
                reasons.append(reason)
                if version is not None:
                    chosen[task.name] = version
            demand = base.demands(snapshot, server, DEMAND_WINDOW_SECONDS)
            expected = base.expected_utilization(chosen, demand, server.hardware_class)
            targets = {name: Target(version.number) for name, version in chosen.items()}
            plans.append(ServerPlan(server.name, targets, expected))
        return Plan(tuple(plans), tuple(reasons)), {}

    def _task(self, task: TaskState, server: ServerState) -> tuple[Version | None, Reason]:
        ladder = base.ladder_on(task, server, self.metric)
        if not ladder:
            sentence = f"No version of {task.name} may be served on {server.name}."
            return None, Reason(task.name, server.name, Code.NO_VERSIONS, sentence)
        wanted = self.versions.get(task.name) if self.choice is StaticChoice.VERSION else None
        code = Code.STATIC
        if wanted is None:
            cheapest = self.choice is StaticChoice.CHEAPEST
            version = ladder[0] if cheapest else ladder[-1]
            why = "cheapest" if cheapest else "best"
            sentence = f"{task.name} stays on its {why} version, {base.describe(version)}: the policy is Static."
        else:
            rung = base.rung_of(ladder, wanted)
            if rung is None:
                version = ladder[base.neighbour(task, server, ladder, wanted, self.metric)]
                code = Code.VERSION_UNAVAILABLE
                sentence = (
                    f"The policy is Static with version {wanted} of {task.name}, which may not be served on "
                    f"{server.name}: {base.describe(version)} takes its place."
                )
            else:
                version = ladder[rung]
                sentence = f"{task.name} stays on {base.describe(version)}: the policy is Static."
        numbers = {"version": float(version.number), "accuracy": version.accuracy}
        return version, Reason(task.name, server.name, code, sentence, numbers)
