"""A simulated server as its Prometheus knows it: one sample of each signal a second."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rung.core.snapshot import Sample

Samples = deque[Sample]


@dataclass
class Watched:
    """The samples of one server, of its last `history_seconds`."""

    history_seconds: int
    utilization: Samples = field(init=False)
    demand: dict[str, Samples] = field(default_factory=dict)
    pending: dict[str, Samples] = field(default_factory=dict)
    late: dict[str, Samples] = field(default_factory=dict)
    _used: float = 0.0
    _arrived: dict[str, int] = field(default_factory=dict)
    _late: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.utilization = self._samples()

    def _samples(self) -> Samples:
        return deque(maxlen=self.history_seconds)

    def sample(
        self,
        time_seconds: float,
        *,
        used_core_seconds: float,
        cores: float,
        arrived: Mapping[str, int],
        pending: Mapping[str, int],
        late: Mapping[str, int],
    ) -> float:
        """Take the counters as they are a second after the last time; returns the utilisation of that second."""
        utilization = (used_core_seconds - self._used) / cores
        self._used = used_core_seconds
        self.utilization.append(Sample(time_seconds, utilization))
        for task, count in arrived.items():
            if task not in self.demand:
                self.demand[task], self.pending[task], self.late[task] = (self._samples() for _ in range(3))
            self.demand[task].append(Sample(time_seconds, float(count - self._arrived.get(task, 0))))
            self.pending[task].append(Sample(time_seconds, float(pending[task])))
            self.late[task].append(Sample(time_seconds, float(late[task] - self._late.get(task, 0))))
            self._arrived[task], self._late[task] = count, late[task]
        return utilization


def read(samples: Samples, until_seconds: float, lost: Callable[[float], bool] | None = None) -> tuple[Sample, ...]:
    """Return what is known up to a moment, without what was lost."""
    known = tuple(samples)
    while known and known[-1].time_seconds > until_seconds:
        known = known[:-1]
    return known if lost is None else tuple(sample for sample in known if not lost(sample.time_seconds))
