"""Stops a program so that it hangs: by the time this returns, none of its threads runs any more."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

LONGEST_SECONDS = 10.0


def hang(pid: int) -> None:
    """Stop a process; a signal is only sent at first, and on a busy machine a thread may go on for a while."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + LONGEST_SECONDS
    while not all(_is_stopped(thread) for thread in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < deadline, f"process {pid} did not stop within {LONGEST_SECONDS:g} s"
        time.sleep(0.005)


def _is_stopped(thread: Path) -> bool:
    try:
        # The state follows the name, which stands in brackets and may hold anything.
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "TtZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
