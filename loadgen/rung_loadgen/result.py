"""What a run measured: one array entry a request, and the sums that people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

PENDING = -1
OK = 0
CLIENT_OVERLOAD = "client_overload"
"""The failure of a request that was never sent because too many were in flight."""
BAD_ANSWER = "bad_answer"
"""The failure of an answer that was no inference response."""


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What became of every request of one stream; all arrays have shape (requests,), in order of intended sending."""

    name: str
    slo_seconds: float
    intended_seconds: FloatArray
    """When each request was to be sent, in seconds from the start of the run."""
    finished_seconds: FloatArray
    """When it was answered or failed, in seconds from the start; NaN where it never left (client_overload)."""
    lateness_seconds: FloatArray
    """How long after its intended time the client sent it: the client's own error."""
    outcome: npt.NDArray[np.int16]
    """0 for an answer, else an index into `failure_names` plus 1."""
    version: npt.NDArray[np.int64]
    """The version that answered; 0 where none did."""
    failure_names: tuple[str, ...]

    @property
    def offered(self) -> int:
        """Number of requests that the trace asked for."""
        return int(self.intended_seconds.size)

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """Which requests got an answer, late or not."""
        return np.asarray(self.outcome == OK, dtype=np.bool_)

    @property
    def latencies_seconds(self) -> FloatArray:
        """Latency of every answered request, measured from its intended time."""
        answered = self.answered
        return np.asarray(self.finished_seconds[answered] - self.intended_seconds[answered], dtype=np.float64)

    @property
    def late(self) -> int:
        """Number of answers that took longer than the SLO."""
        return int((self.latencies_seconds > self.slo_seconds).sum())

    @property
    def failures(self) -> dict[str, int]:
        """Failed requests by status name."""
        return count_failures(self.outcome, self.failure_names)

    @property
    def failed(self) -> int:
        """Number of requests without an answer."""
        return int((self.outcome != OK).sum())

    @property
    def violation_share(self) -> float:
        """Share of requests that were answered late or not at all, 0 to 1."""
        return (self.late + self.failed) / self.offered if self.offered else 0.0

    @property
    def versions(self) -> dict[str, int]:
        """Answers by the version that gave them."""
        return count_versions(self.version[self.answered])

    def latency_percentile_seconds(self, percent: float) -> float | None:
        """Return a percentile of the answers' latency, or None without answers."""
        latencies = self.latencies_seconds
        return float(np.percentile(latencies, percent)) if latencies.size else None


@dataclass(frozen=True, slots=True)
class ClientCost:
    """What the client itself used: whether the numbers are the server's or the client's own."""

    cpu_seconds: float
    wall_seconds: float
    requests: int
    lateness_p99_seconds: float
    lateness_max_seconds: float

    @property
    def cpu_share(self) -> float:
        """CPU used, in cores: near 1 the client's one thread is full."""
        return self.cpu_seconds / self.wall_seconds if self.wall_seconds > 0 else 0.0

    @property
    def cpu_seconds_per_request(self) -> float:
        """CPU seconds that one request cost the client."""
        return self.cpu_seconds / self.requests if self.requests else 0.0

    def bound(self, max_lateness_seconds: float, max_cpu_share: float = 0.8) -> str | None:
        """Return why this client's numbers are its own rather than the server's, or None when they can be trusted."""
        if self.cpu_share > max_cpu_share:
            return f"the client used {self.cpu_share:.2f} cores; above {max_cpu_share:.2f} it measures itself"
        if self.lateness_p99_seconds > max_lateness_seconds:
            return (
                f"the client sent late: p99 {self.lateness_p99_seconds * 1e3:.1f} ms after the intended time, "
                f"more than {max_lateness_seconds * 1e3:.1f} ms"
            )
        return None


@dataclass(frozen=True, slots=True)
class Result:
    """One run: its streams in the order given, and the client's own cost."""

    streams: tuple[StreamResult, ...]
    client: ClientCost
    started_at_seconds: float
    """When the run began, in seconds since the epoch."""

    def stream(self, name: str) -> StreamResult:
        """Return the stream of this name; raises KeyError."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise KeyError(name)


def count_failures(outcome: npt.NDArray[Any], failure_names: tuple[str, ...]) -> dict[str, int]:
    """Count the failures of some requests by name."""
    codes, counts = np.unique(outcome[outcome > OK], return_counts=True)
    return {failure_names[code - 1]: int(count) for code, count in zip(codes, counts, strict=True)}


def count_versions(versions: npt.NDArray[np.int64]) -> dict[str, int]:
    """Count answers by version; keys are text, as JSON has them."""
    numbers, counts = np.unique(versions, return_counts=True)
    return {str(int(number)): int(count) for number, count in zip(numbers, counts, strict=True)}


def percentiles_milliseconds(latencies_seconds: FloatArray) -> Mapping[str, float | None]:
    """Return p50, p95, p99 and the maximum in milliseconds, each None without answers."""
    if not latencies_seconds.size:
        return {"p50": None, "p95": None, "p99": None, "max": None}
    values = np.percentile(latencies_seconds, (50, 95, 99, 100)) * 1000
    return dict(zip(("p50", "p95", "p99", "max"), (round(float(value), 3) for value in values), strict=True))
