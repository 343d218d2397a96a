"""Free ports on loopback, for the servers that tests start."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_FIRST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_port() -> int:
    """Return a port that nothing listens on, never the same twice.

    It lies below the range from which the kernel takes the ports of outgoing connections (and those for port 0): no
    client can come by it before the server binds it, and a server that was killed finds its port free again.
    Raises RuntimeError when there is none.
    """
    end = int(_RANGE.read_text().split()[0])
    if end <= _FIRST:
        end = 65_536  # outgoing connections may have any port here, so any will do
    for port in random.sample(range(_FIRST, end), end - _FIRST):
        if port in _given:
            continue
        with socket.socket() as listener:
            # As servers do it: connections of an earlier run that are closing don't count.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError(f"no free port between {_FIRST} and {end}")
