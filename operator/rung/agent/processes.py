"""CPU time and memory of Triton's processes, read from /proc of the pod's shared process namespace.

Which processes are Triton's: those named `tritonserver`, all their descendants (the Python backend's stubs), whatever
else lives in the same container (same cgroup, unless the agent lives in it too), and whatever was once found so and
is still alive, because a child whose parent died is handed to another parent.

Nothing here needs a capability: `stat`, `cgroup` and `status` are open to all, `smaps_rollup` to the same user.
Source of the fields: proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ProcessKey = tuple[int, int]
"""Process id and start time in ticks after boot: unlike the id alone, never used twice."""

_LARGEST_PROC_FILE_BYTES = 16384
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """What /proc/PID/stat says of one process; times in clock ticks, user + system."""

    pid: int
    start_ticks: int
    parent_pid: int
    name: str
    own_ticks: int
    children_ticks: int
    """Of all descendants that ended and were waited for."""

    @property
    def key(self) -> ProcessKey:
        """What identifies the process for good."""
        return (self.pid, self.start_ticks)

    @property
    def total_ticks(self) -> int:
        """Its own time and that of its ended descendants."""
        return self.own_ticks + self.children_ticks


def parse_stat(text: str) -> ProcessTimes:
    """Read the text of /proc/PID/stat.

    Raises:
        ValueError: it isn't one.
    """
    # The name stands in brackets and may itself hold spaces and brackets: the last bracket ends it.
    head, separator, tail = text.rpartition(")")
    pid, _, name = head.partition(" (")
    fields = tail.split()
    if not separator or len(fields) < 20:
        raise ValueError("not a /proc/PID/stat")
    user, system, children_user, children_system = (int(value) for value in fields[11:15])
    return ProcessTimes(
        pid=int(pid),
        start_ticks=int(fields[19]),
        parent_pid=int(fields[1]),
        name=name,
        own_ticks=user + system,
        children_ticks=children_user + children_system,
    )


@dataclass
class CpuAccount:
    """Adds up CPU time over processes that come and go: never falls, counts nothing twice.

    A process that ended and was waited for is in its parent's `children_ticks`. One that was not (its parent ignores
    SIGCHLD, or died first, so that a stranger waited) would be lost: then its last seen value is kept here.
    """

    _retired_ticks: int = 0
    _seen: dict[ProcessKey, ProcessTimes] = field(default_factory=dict)

    def observe(self, processes: Iterable[ProcessTimes]) -> float:
        """Take in one look at all of Triton's processes and return the CPU seconds used by them so far."""
        now = {process.key: process for process in processes}
        gone_ticks: dict[ProcessKey | None, int] = {}
        for key, process in self._seen.items():
            if key not in now:
                heir = self._living_ancestor(process, now)
                gone_ticks[heir] = gone_ticks.get(heir, 0) + process.total_ticks
        for heir, ticks in gone_ticks.items():
            inherited = now[heir].children_ticks - self._seen[heir].children_ticks if heir else 0
            self._retired_ticks += max(0, ticks - inherited)
        self._seen = now
        return (self._retired_ticks + sum(process.total_ticks for process in now.values())) / TICKS_PER_SECOND

    def _living_ancestor(self, process: ProcessTimes, now: Mapping[ProcessKey, ProcessTimes]) -> ProcessKey | None:
        by_pid = {seen.pid: seen for seen in self._seen.values()}
        parent = by_pid.get(process.parent_pid)
        for _ in self._seen:  # as many steps as there are processes: ids that were used again can't make a ring
            if parent is None or parent.key in now:
                break
            parent = by_pid.get(parent.parent_pid)
        return parent.key if parent is not None and parent.key in now else None


@dataclass(frozen=True, slots=True)
class Usage:
    """One look at Triton. `cpu_seconds` is None while no process of Triton's is there: a standing value would read
    as an idle server."""

    cpu_seconds: float | None
    processes: int


class TritonProcesses:
    """Finds Triton's processes and accounts for them. Not thread-safe.

    Args:
        process_name: of the server; the kernel keeps the first 15 characters.
        proc: where procfs is mounted.
    """

    def __init__(self, process_name: str = "tritonserver", proc: Path = Path("/proc")) -> None:
        self._process_name = process_name[:15]
        self._proc = proc
        self._account = CpuAccount()
        self._members: set[ProcessKey] = set()
        self._cgroups: dict[ProcessKey, str] = {}
        self._own_cgroup = self._read("self/cgroup")

    def look(self) -> Usage:
        """Look once: CPU seconds so far and the number of living processes. Takes tens of microseconds a process."""
        every = self._scan()
        self._members = self._find_members(every)
        cpu_seconds = self._account.observe(every[key] for key in self._members)
        return Usage(cpu_seconds if self._members else None, len(self._members))

    def memory_bytes(self) -> int:
        """Memory of Triton's processes that can't be reclaimed: private and shared pages, the shared ones once.

        The proportional share of anonymous and shared memory (`Pss_Anon`, `Pss_Shmem`): the backend's shared memory is
        mapped by server and stubs alike, so resident sizes would count it several times; file pages (libraries, model
        files) are dropped by the kernel before anything is killed. It walks page tables, so call it off the event loop
        and not at every scrape. Where the kernel refuses, resident anonymous and shared memory of each process.
        """
        return sum(self._process_memory_bytes(pid) for pid, _ in self._members)

    def _scan(self) -> dict[ProcessKey, ProcessTimes]:
        processes = {}
        for name in os.listdir(self._proc):  # noqa: PTH208
            if name.isdigit() and (text := self._read(f"{name}/stat")):
                process = parse_stat(text)
                processes[process.key] = process
        return processes

    def _find_members(self, every: Mapping[ProcessKey, ProcessTimes]) -> set[ProcessKey]:
        self._cgroups = {key: cgroup for key, cgroup in self._cgroups.items() if key in every}
        servers = {key for key, process in every.items() if process.name == self._process_name}
        members = servers | {key for key in self._members if key in every}
        shared = {self._cgroup(key) for key in servers} - {self._own_cgroup, ""}
        if shared:
            members |= {key for key in every if self._cgroup(key) in shared}
        children: dict[int, list[ProcessKey]] = {}
        for key, process in every.items():
            children.setdefault(process.parent_pid, []).append(key)
        frontier = list(members)
        while frontier:
            pid, _ = frontier.pop()
            fresh = [key for key in children.get(pid, []) if key not in members]
            members.update(fresh)
            frontier.extend(fresh)
        return members

    def _cgroup(self, key: ProcessKey) -> str:
        if key not in self._cgroups:
            self._cgroups[key] = self._read(f"{key[0]}/cgroup")
        return self._cgroups[key]

    def _process_memory_bytes(self, pid: int) -> int:
        wanted = {"Pss_Anon:", "Pss_Shmem:"}
        text = self._read(f"{pid}/smaps_rollup")
        if "Pss_Anon:" not in text:
            wanted, text = {"RssAnon:", "RssShmem:"}, self._read(f"{pid}/status")
        lines = (line.split() for line in text.splitlines())
        return sum(int(words[1]) * 1024 for words in lines if words and words[0] in wanted)

    def _read(self, name: str) -> str:
        """The text of one file of /proc; empty when the process ended meanwhile or may not be looked at."""
        try:
            # Plain calls: this runs for every process, every second, and a file object costs several times as much.
            descriptor = os.open(f"{self._proc}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(descriptor, _LARGEST_PROC_FILE_BYTES).decode(errors="replace")
            finally:
                os.close(descriptor)
        except OSError:
            return ""
