"""A simulated server as its Prometheus knows it: one sample of each signal a second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from rung.core.snapshot import Sample

HISTORY_SECONDS = 150
"""What the longest memory of a policy needs, and some."""

Samples = deque[Sample]


def _samples() -> Samples:
    return deque(maxlen=HISTORY_SECONDS)


@dataclass
class Watched:
    """The samples of one server."""

    utilization: Samples = field(default_factory=_samples)
    demand: dict[str, Samples] = field(default_factory=dict)
    pending: dict[str, Samples] = field(default_factory=dict)
    _used: float = 0.0
    _arrived: dict[str, int] = field(default_factory=dict)

    def sample(
        self,
        time_seconds: float,
        *,
        used_core_seconds: float,
        cores: float,
        arrived: Mapping[str, int],
        pending: Mapping[str, int],
    ) -> float:
        """Take the counters as they are a second after the last time; returns the utilisation of that second."""
        utilization = (used_core_seconds - self._used) / cores
        self._used = used_core_seconds
        self.utilization.append(Sample(time_seconds, utilization))
        for task, count in arrived.items():
            rate = count - self._arrived.get(task, 0)
            self._arrived[task] = count
            self.demand.setdefault(task, _samples()).append(Sample(time_seconds, float(rate)))
            self.pending.setdefault(task, _samples()).append(Sample(time_seconds, float(pending[task])))
        return utilization


def read(samples: Samples, until_seconds: float, lost: Callable[[float], bool] | None = None) -> tuple[Sample, ...]:
    """Return what is known up to a moment, without what was lost."""
    known = takewhile(lambda sample: sample.time_seconds <= until_seconds, samples)
    return tuple(sample for sample in known if lost is None or not lost(sample.time_seconds))
