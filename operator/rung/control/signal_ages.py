"""How old the signals of a pool are. The age of one that stays away goes on growing: that is when it matters."""

from __future__ import annotations

from itertools import chain

from rung.core.signals import age_seconds
from rung.core.snapshot import PoolSnapshot

SIGNALS = ("cpu", "demand")


class SignalAges:
    """When the newest sample of each signal of each server was taken, also while there is none any more.

    Where there never was one it counts from when it could first be missed: CPU from when the server was first seen,
    demand from when a version was first seen loaded there (Triton counts requests of those).
    """

    def __init__(self) -> None:
        self._newest_seconds: dict[tuple[str, str], float] = {}
        self._now_seconds = 0.0

    def follow(self, snapshot: PoolSnapshot, *, needs_demand: bool) -> None:
        """Take note of the samples of one moment; servers that are not in it, or not ready, are forgotten.

        Demand is expected of the tasks whose owner doesn't declare it, and only where the policy needs it.
        """
        now = snapshot.time_seconds
        observed = {task.name for task in snapshot.tasks if needs_demand and task.declared_demand_rps is None}
        newest: dict[tuple[str, str], float] = {}
        for server in (server for server in snapshot.servers if server.ready):
            # The newest sample is the last.
            found = {"cpu": server.utilization[-1:]}
            if observed & server.loaded.keys():
                found["demand"] = tuple(chain.from_iterable(samples[-1:] for samples in server.demand.values()))
            for signal, samples in found.items():
                key = (signal, server.name)
                age = age_seconds(samples, now)
                times = [] if age is None else [now - age]
                times += [self._newest_seconds[key]] if key in self._newest_seconds else []
                newest[key] = max(times, default=now)
        self._newest_seconds, self._now_seconds = newest, now

    def by_server(self, signal: str) -> dict[str, float]:
        """Return the age of a signal in seconds by server."""
        ages = {key: max(0.0, self._now_seconds - time) for key, time in self._newest_seconds.items()}
        return {server: age for (name, server), age in ages.items() if name == signal}

    def oldest(self, signal: str) -> float | None:
        """Return the age of a signal at the server where it is oldest; None when there is none to expect."""
        return max(self.by_server(signal).values(), default=None)
