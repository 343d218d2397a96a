"""What may go wrong while a simulation runs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """What goes wrong."""

    SERVER_GONE = "ServerGone"  # it fails what it had; it comes back with nothing loaded
    METRICS_LATE = "MetricsLate"  # no new sample reaches the policy
    DEMAND_LOST = "DemandLost"  # CPU samples come, those of demand and of pending requests don't
    NEIGHBOUR = "Neighbour"  # others on the machine take some of the server's cores


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them, for some seconds, on one server or (None) on all."""

    kind: FaultKind
    begin_seconds: int
    seconds: int
    server: str | None = None
    cores: float = 0.0
    """What a neighbour takes."""

    def holds(self, second: int) -> bool:
        """Tell whether it goes on in this second."""
        return self.begin_seconds <= second < self.begin_seconds + self.seconds

    def hits(self, server: str) -> bool:
        """Tell whether a server has it."""
        return self.server is None or self.server == server
