"""The few calls to the kernel that the standard library does not have."""

from __future__ import annotations

import ctypes
import os
import signal
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_START_TIME_FIELD = 22
_PARENT_FIELD = 4


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the thread that made it ends (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, int(number))


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, argument: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, argument, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    start_ticks: int

    @staticmethod
    def of(pid: int) -> ProcessIdentity:
        """Identify a running process; raises ProcessLookupError when there is none."""
        return ProcessIdentity(pid, int(_stat(pid)[_START_TIME_FIELD - 3]))

    def is_alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        try:
            fields = _stat(self.pid)
        except ProcessLookupError:
            return False
        return int(fields[_START_TIME_FIELD - 3]) == self.start_ticks and fields[0] not in {"Z", "X"}

    def send(self, number: signal.Signals) -> None:
        """Send a signal if it still runs."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def only_child_of(pid: int) -> int | None:
    """Return the process whose parent is `pid`, or None while there is none."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if int(_stat(int(entry.name))[_PARENT_FIELD - 3]) == pid:
                    return int(entry.name)
            except ProcessLookupError:
                continue
    return None


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on: the second, the name, may hold anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"there is no process {pid}") from None
    return text.rpartition(")")[2].split()
