"""Whether the client was the limit: what it took of the machine that it shares with the server.

Two things make a number the client's: its one thread is full, or late (`ClientCost.bound` of the load generator knows
that), or it ran on the server's cores when there was no idle one left. Then the server could have had what the client
used. How much that can be at most is computed here, from /proc/stat (proc(5)) and the client's own CPU time.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

LARGEST_TAKEN_SHARE = 0.15
"""A number that the server could have passed by more than this is refused. It is the most that the client can have
cost: where a neighbour filled the machine, or one instance is one thread, it cost less."""
_FULL = 0.05
"""With less than this share of the cores idle, the machine is full."""
_LIMIT_REACHED = 0.9
"""A server that used this much of its CPU limit got what it may use."""


@dataclass(frozen=True, slots=True)
class Look:
    """The counters of one moment. CPU seconds are of the cores that the client may use."""

    at_seconds: float
    busy_seconds: float
    client_seconds: float
    cores: int


@dataclass(frozen=True, slots=True)
class Shares:
    """Who used how many cores between two looks. `server_cores` is None where nobody counts the server's."""

    cores: int
    busy_cores: float
    client_cores: float
    server_cores: float | None

    @property
    def idle_cores(self) -> float:
        """Cores that nobody used."""
        return max(0.0, self.cores - self.busy_cores)

    @property
    def neighbour_cores(self) -> float | None:
        """Cores used by neither client nor server; None where nobody counts the server's."""
        if self.server_cores is None:
            return None
        return max(0.0, self.busy_cores - self.client_cores - self.server_cores)

    def taken_share(self, *, server_is_local: bool | None, cpu_limit_cores: float | None) -> float:
        """Return by how much the server could have done more at most, had the client not run: 0 to infinity.

        Zero when a core was idle, when the server is on another machine, or when it used all it may. Whether it is
        here is told by `server_is_local`; None means that it is not known: it can't be where its CPU isn't seen.
        """
        others = max(0.0, self.busy_cores - self.client_cores)
        server = others if self.server_cores is None else min(others, self.server_cores)
        if server_is_local is None:
            server_is_local = self.server_cores is not None and others >= 0.8 * self.server_cores
        if not server_is_local or self.idle_cores > _FULL * self.cores:
            return 0.0
        if cpu_limit_cores is not None and server >= _LIMIT_REACHED * cpu_limit_cores:
            return 0.0
        if server <= 0:
            return float("inf")
        # Neighbours would have had their part of what the client had; and a limit would have ended the server's.
        gained = self.client_cores * server / others
        if cpu_limit_cores is not None:
            gained = min(gained, cpu_limit_cores - server)
        return max(0.0, gained) / server


def look(stat: Path = Path("/proc/stat")) -> Look | None:
    """Read the counters; None where there are none (not Linux)."""
    try:
        allowed = os.sched_getaffinity(0)
        lines = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
    except (OSError, AttributeError):
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    busy = 0
    for name, *fields in lines:
        if name[3:].isdigit() and int(name[3:]) in allowed:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            busy += user + nice + system + irq + softirq + steal
    return Look(time.perf_counter(), busy / ticks, time.process_time(), len(allowed))


def shares(before: Look | None, after: Look | None, server_cpu_seconds: float | None) -> Shares | None:
    """Return who used how much between two looks; None where there are none or nothing passed between them."""
    if before is None or after is None or after.at_seconds <= before.at_seconds:
        return None
    seconds = after.at_seconds - before.at_seconds
    return Shares(
        cores=after.cores,
        busy_cores=(after.busy_seconds - before.busy_seconds) / seconds,
        client_cores=(after.client_seconds - before.client_seconds) / seconds,
        server_cores=None if server_cpu_seconds is None else server_cpu_seconds / seconds,
    )


def is_local(address: str) -> bool | None:
    """Tell whether HOST:PORT is an address of this machine; None when it isn't one of this network namespace.

    A pod's neighbour on the same node has another address, so "not here" can't be told from an address alone.
    """
    host = address.rpartition(":")[0].strip("[]")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(where)
    except OSError:
        return None
    return True
