"""The signals of each server, kept from pass to pass: each pass then reads the newest seconds alone.

What a second's samples say does not change once they are there, so they are turned into rates once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from rung.adapters.prometheus import GATE_ARRIVALS, GATE_LATE, GATE_WAITING, PoolSignals
from rung.core.signals import RawSeries, demand_samples, pending_samples, utilization_samples
from rung.core.snapshot import Sample

Samples = tuple[Sample, ...]
ByModel = Mapping[str, Samples]


@dataclass(frozen=True, slots=True)
class ServerSignals:
    """What is known of one server, one sample a second, oldest first; requests by model."""

    utilization: Samples = ()
    demand: ByModel = field(default_factory=dict)
    pending: ByModel = field(default_factory=dict)
    late: ByModel = field(default_factory=dict)


class History:
    """The signals of a pool's servers, as far back as `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._servers: dict[str, ServerSignals] = {}

    def keep(self, servers: Collection[str]) -> None:
        """Forget the other servers."""
        for name in self._servers.keys() - set(servers):
            del self._servers[name]

    def update(self, server: str, raw: PoolSignals, capacity_cores: float) -> ServerSignals:
        """Add what was read last, and return everything that is known."""
        pending = raw.pending.get(server, ())
        demand = demand_samples(raw.success.get(server, ()), raw.failure.get(server, ()), pending)
        counted: dict[str, list[RawSeries]] = {GATE_ARRIVALS: [], GATE_LATE: [], GATE_WAITING: []}
        for series in raw.gate.get(server, ()):
            counted.get(series.labels.get("__name__", ""), []).append(series)
        # What a gate counts is the truth: requests that wait in it have not reached the server yet. It knows the models
        # that it chooses for; of the others, and without one, the server's own counters tell.
        arrivals = demand_samples(counted[GATE_ARRIVALS], (), ())
        late = demand_samples(counted[GATE_LATE], (), ())
        before = self._servers.get(server, ServerSignals())
        after = ServerSignals(
            self._joined(before.utilization, utilization_samples(raw.cpu_seconds.get(server, ()), capacity_cores)),
            self._joined_all(before.demand, demand | arrivals),
            self._joined_all(before.pending, pending_samples(pending) | pending_samples(counted[GATE_WAITING])),
            self._joined_all(before.late, {model: samples for model, samples in late.items() if model in arrivals}),
        )
        self._servers[server] = after
        return after

    def _joined_all(self, before: ByModel, fresh: ByModel) -> ByModel:
        newest = max((samples[-1].time_seconds for samples in fresh.values() if samples), default=None)
        joined = {model: self._joined(before.get(model, ()), samples) for model, samples in fresh.items()}
        for model in before.keys() - fresh.keys():
            # Nobody counts it any more: it ages with the others.
            left = before[model] if newest is None else self._within(before[model], newest)
            if left:
                joined[model] = left
        return joined

    def _joined(self, before: Samples, fresh: Samples) -> Samples:
        if not before or not fresh:
            return before or fresh
        last = before[-1].time_seconds
        new = tuple(sample for sample in fresh if sample.time_seconds > last)
        return self._within(before, fresh[-1].time_seconds) + new

    def _within(self, samples: Samples, newest_seconds: float) -> Samples:
        oldest = newest_seconds - self.seconds
        first = next((place for place, sample in enumerate(samples) if sample.time_seconds > oldest), len(samples))
        return samples[first:]
