"""Who decides about versions with cores of their own: InfAdapter, Model-Switching, VPA, and Frontier on all cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rung.core.decide import Settings, decide
from rung.core.forecast import ExponentialMean, Forecaster
from rung.core.plan import Memory
from rung.core.policies.base import Policy
from rung.core.policies.infadapter import WINDOWS, minute_maxima
from rung.core.snapshot import PoolSnapshot, Profile, Sample, ServerState, TaskState, Version
from rung.core.variant_sets import Variant, best_variant_set
from rung_sim.engine import Floats
from rung_sim.scaling import ScaledVersion, Seen, Wanted

VPA_HALF_LIFE_SECONDS = 24 * 3600.0


@dataclass
class InfAdapterScaler:
    """InfAdapter as published: cores by version every 30 s, the first time after two minutes."""

    versions: Sequence[ScaledVersion]
    budget: int = 20
    alpha: float = 0.05
    beta: float = 0.001
    margin: float = 0.1
    agreeing: int = 4
    forecaster: Forecaster = field(default_factory=lambda: ExponentialMean(span=WINDOWS, margin=0.0))
    one_version: bool = False
    """True: at most one version at a time, as Model-Switching with an autoscaler has it."""
    _agreed: int = 0

    def decide(self, seen: Seen) -> Wanted | None:
        """See `Scaler.decide`."""
        if seen.second < 120 or seen.second % 30:
            return None
        load = self.forecaster.forecast(minute_maxima([list(seen.arrivals)])).expected_rps * (1.0 + self.margin)
        wanted = self._solve(seen, load)
        before = sum(self.versions[v].capacity_rps[n] for v, n in seen.cores.items())
        after = sum(self.versions[v].capacity_rps[n] for v, n in wanted.cores.items())
        self._agreed = self._agreed + 1 if after < before else 0
        if 0 < self._agreed < self.agreeing:
            return None
        self._agreed = 0
        return wanted

    def _solve(self, seen: Seen, load: float) -> Wanted:
        sets = [[each] for each in range(len(self.versions))] if self.one_version else [range(len(self.versions))]
        found = []
        for numbers in sets:
            variants = [
                Variant(
                    self.versions[n].accuracy,
                    tuple(max(0.0, c) for c in self.versions[n].capacity_rps[: self.budget + 1]),
                    self.versions[n].load_seconds,
                    loaded=n in seen.cores,
                )
                for n in numbers
            ]
            found.append((numbers, best_variant_set(variants, load, self.budget, alpha=self.alpha, beta=self.beta)))
        numbers, best = max(found, key=lambda each: (each[1].feasible, each[1].value, sum(each[1].carried_rps)))
        cores = {n: units for n, units in zip(numbers, best.units, strict=True) if units}
        weights = {n: carried for n, carried in zip(numbers, best.carried_rps, strict=True) if carried > 0}
        return Wanted(cores or dict(seen.cores), weights)


@dataclass
class VpaScaler:
    """Kubernetes' vertical autoscaler on one version: the 90th percentile of its CPU use, and 15 % more.

    The histogram decays with a half-life of 24 hours. What it recommends is taken once a minute, when it is another
    number of cores; the pod is made anew for that, the new one before the old one goes.
    """

    version: int
    budget: int = 20
    least_cores: int = 2
    every_seconds: int = 60
    percentile: float = 0.9
    margin: float = 0.15

    def decide(self, seen: Seen) -> Wanted | None:
        """See `Scaler.decide`."""
        if seen.second < self.every_seconds or seen.second % self.every_seconds:
            return None
        used = np.asarray(seen.used_cores)
        weights = np.exp2(np.arange(used.size) / VPA_HALF_LIFE_SECONDS)
        order = np.argsort(used)
        cumulated = np.cumsum(weights[order])
        at = used[order][np.searchsorted(cumulated, self.percentile * cumulated[-1])]
        cores = int(min(self.budget, max(self.least_cores, np.ceil(at * (1.0 + self.margin)))))
        return Wanted({self.version: cores}, {self.version: 1.0})


@dataclass
class PolicyScaler:
    """A policy of the operator on one server that has all cores, whose versions are swapped in place.

    Nothing is scaled: the cores are there and paid for. The policy sees them as one core that is as fast as all of them
    together, and a service level that is shorter by what the slowest request takes on its own core.
    """

    versions: Sequence[ScaledVersion]
    policy: Policy
    cores: int = 20
    slo_seconds: float = 0.5
    _memory: Memory = field(default_factory=dict)

    def decide(self, seen: Seen) -> Wanted | None:
        """See `Scaler.decide`."""
        now = 1e9 + seen.second
        seconds = [version.service_seconds[self.cores] / self.cores for version in self.versions]
        known = tuple(
            Version(number + 1, version.accuracy, {"cores": Profile(1.0 / seconds[number], None, seconds[number])})
            for number, version in enumerate(self.versions)
        )
        active = seen.answering
        late = max(0, seen.second - 150)

        def samples(values: Sequence[float] | Floats, by: float) -> tuple[Sample, ...]:
            return tuple(Sample(1e9 + late + k + 1, float(v) / by) for k, v in enumerate(values[late:]))

        server = ServerState(
            "all", "cores", 1.0, utilization=samples(seen.used_cores, self.cores),
            demand={"images": samples(seen.arrivals, 1.0)}, active={"images": active + 1},
            pending={"images": samples(seen.waiting, 1.0)}, loaded={"images": frozenset({active + 1})},
        )  # fmt: skip
        longest = max(version.service_seconds[self.cores] for version in self.versions)
        task = TaskState("images", known, self.slo_seconds - longest)
        plan, self._memory = decide(self.policy, PoolSnapshot(now, (server,), (task,)), self._memory, Settings())
        (target,) = plan.servers[0].targets.values()
        return (
            None if target.active == active + 1 else Wanted({target.active - 1: self.cores}, {target.active - 1: 1.0})
        )
