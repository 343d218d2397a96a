"""What the client took from a server on the same cores: by hand, and read from this machine while it is busy."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rung_porting.profiler.client_share import Look, Shares, is_local, look, shares


@pytest.mark.parametrize(
    ("seen", "local", "limit", "taken"),
    [
        # A core is idle: the server could have had it.
        (Shares(2, busy_cores=1.5, client_cores=0.5, server_cores=1.0), True, None, 0.0),
        # Full: without the client the server could have used its 0.5 cores too.
        (Shares(2, busy_cores=2.0, client_cores=0.5, server_cores=1.5), True, None, 0.5 / 1.5),
        # Nobody counts the server: all that is not the client may be it.
        (Shares(2, busy_cores=2.0, client_cores=0.4, server_cores=None), True, None, 0.25),
        # The server used all that its limit lets it.
        (Shares(2, busy_cores=2.0, client_cores=0.5, server_cores=0.98), True, 1.0, 0.0),
        # It could have had no more than its limit.
        (Shares(2, busy_cores=2.0, client_cores=0.8, server_cores=0.8), True, 1.0, 0.2 / 0.8),
        # Not an address of ours, but CPU like the server's is used here: a pod of the same node.
        (Shares(2, busy_cores=2.0, client_cores=0.5, server_cores=1.4), None, None, 0.5 / 1.5),
        # A neighbour would have had most of it.
        (Shares(2, busy_cores=2.0, client_cores=0.2, server_cores=0.6), True, None, 0.2 / 1.8),
        # Not an address of ours, and its CPU is not used here: another machine.
        (Shares(2, busy_cores=2.0, client_cores=1.9, server_cores=4.0), None, None, 0.0),
        # Not an address of ours, and nobody counts it.
        (Shares(2, busy_cores=2.0, client_cores=1.9, server_cores=None), None, None, 0.0),
        # The client has everything.
        (Shares(1, busy_cores=1.0, client_cores=1.0, server_cores=0.0), True, None, float("inf")),
    ],
)
def test_what_was_taken(seen: Shares, local: bool | None, limit: float | None, taken: float) -> None:
    assert seen.taken_share(server_is_local=local, cpu_limit_cores=limit) == pytest.approx(taken)


def test_neighbours_are_what_is_left() -> None:
    assert Shares(4, busy_cores=3.0, client_cores=0.5, server_cores=1.0).neighbour_cores == pytest.approx(1.5)
    assert Shares(4, busy_cores=3.0, client_cores=0.5, server_cores=None).neighbour_cores is None


def test_a_busy_client_and_a_busy_neighbour_are_seen_on_this_machine() -> None:
    spin = "import time\nend = time.time() + 30\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as neighbour:
        try:
            before = look()
            end = time.process_time() + 0.5
            while time.process_time() < end:
                pass
            seen = shares(before, look(), server_cpu_seconds=0.0)
        finally:
            neighbour.kill()

    assert seen is not None
    assert 0 < seen.client_cores <= 1.1
    assert seen.busy_cores >= seen.client_cores * 0.9
    assert seen.neighbour_cores is not None
    assert seen.cores == 1 or seen.neighbour_cores > 0.2
    assert seen.idle_cores <= seen.cores


def test_without_counters_nothing_is_claimed(tmp_path: Path) -> None:
    assert look(tmp_path / "stat") is None
    assert shares(None, Look(1, 1, 1, 1), 1.0) is None
    assert shares(Look(1, 1, 1, 1), Look(1, 1, 1, 1), 1.0) is None


def test_addresses_of_this_machine_are_known() -> None:
    assert is_local("127.0.0.1:8001")
    assert is_local("localhost:8001")
    assert is_local("[::1]:8001") in (True, None), "machines without IPv6"
    assert is_local("192.0.2.1:8001") is None
    assert is_local("no-such-host.invalid:8001") is None
