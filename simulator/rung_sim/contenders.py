"""Who is compared: the policies of the API by name, two extremes, and the bounds that only a simulator can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from rung.api import PolicyName, PolicySpec
from rung.control.policies import build_policy
from rung.core.decide import Settings
from rung.core.frontier import Metric
from rung.core.plan import Memory, Plan
from rung.core.policies.base import Policy
from rung.core.policies.frontier import Frontier
from rung.core.policies.frontier_parameters import FrontierParameters
from rung.core.policies.static import Static, StaticChoice
from rung.core.snapshot import PoolSnapshot
from rung_sim.engine import Floats
from rung_sim.simulation import EPOCH_SECONDS, Choosing, Options

BEST, CHEAPEST, SLACK_FIT, ORACLE = "Best", "Cheapest", "SlackFit", "Oracle"
NAMES = (*(name.value for name in PolicyName if name is not PolicyName.STATIC), BEST, CHEAPEST, SLACK_FIT, ORACLE)
"""What `contender` takes, beside Static, which has to be in the pool."""
ALL_RUNGS = 16
"""Standbys enough to have every rung loaded."""


class UnknownPolicy(ValueError):  # noqa: N818 - it is what it is
    """There is no policy of that name; the message lists those there are."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy with what it needs around it."""

    label: str
    policy: Policy
    settings: Settings
    options: Options


@dataclass(frozen=True, slots=True)
class Oracle:
    """The upper bound: it knows the rate of every second and switches for free, under Frontier's own limit."""

    rates_rps: Mapping[str, Floats]
    late_share: float | None = None
    name: ClassVar[str] = ORACLE
    metric: ClassVar[Metric] = Metric.INVERSE_THROUGHPUT
    needs_signals: ClassVar[bool] = False
    history_seconds: ClassVar[float] = 0.0
    _frontier: Frontier = field(init=False)

    def __post_init__(self) -> None:
        parameters = FrontierParameters(
            late_share=self.late_share, up_after_seconds=0.0, load_price=0.0, calibrate=False, drain_seconds=0.0,
            strictness=1.0,
        )  # fmt: skip
        object.__setattr__(self, "_frontier", Frontier(parameters))

    def decide(self, snapshot: PoolSnapshot, memory: Memory) -> tuple[Plan, Memory]:
        """Plan for the rates that the next second has."""
        second = int(snapshot.time_seconds - EPOCH_SECONDS)
        tasks = tuple(
            replace(task, declared_demand_rps=float(rates[min(second, rates.size - 1)]))
            for task in snapshot.tasks
            for rates in (self.rates_rps[task.name],)
        )
        return self._frontier.decide(replace(snapshot, tasks=tasks), memory)


def contender(
    name: str, spec: PolicySpec, settings: Settings, options: Options, rates_rps: Mapping[str, Floats]
) -> Contender:
    """Return a contender by name.

    Args:
        name: one of `NAMES`, or Static where that is the pool's.
        spec: the pool's policy: its parameters count for the policy that it names; others have their defaults.
        settings: the pool's.
        options: the run's.
        rates_rps: the demand, for who knows the future.

    Raises:
        UnknownPolicy: for any other name.
    """
    if name == BEST:
        return Contender(name, Static(StaticChoice.BEST), settings, options)
    if name == CHEAPEST:
        return Contender(name, Static(StaticChoice.CHEAPEST), settings, options)
    if name == SLACK_FIT:
        fitting = replace(options, choosing=Choosing.SLACK_FIT, free_swaps=True)
        return Contender(name, Static(StaticChoice.BEST), replace(settings, standby_below=ALL_RUNGS), fitting)
    if name == ORACLE:
        return Contender(name, Oracle(rates_rps), settings, replace(options, free_swaps=True))
    try:
        wanted = PolicyName(name)
    except ValueError:
        known = ", ".join(NAMES)
        raise UnknownPolicy(f"there is no policy {name!r}; there are {known}") from None
    return Contender(name, build_policy(spec if spec.name is wanted else PolicySpec(name=wanted)), settings, options)
