"""CPU and memory of the server that is measured: from its agent, or from /proc where it runs on this machine."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from rung.adapters.agent import AgentClient
from rung_porting.profiler.errors import ProfileError

CPU_METRIC = "rung_agent_triton_cpu_seconds"
MEMORY_SETTLES_SECONDS = 3.5
"""The agent reads memory every two seconds or so: after this long its number is of now, even if it says no age."""


class Gauge(Protocol):
    """CPU and memory of one server."""

    async def cpu_seconds(self) -> float:
        """Return the CPU seconds that the server used so far."""

    async def memory_bytes(self) -> int:
        """Return the memory that the server's processes use, a few seconds ago at most."""

    async def memory_bytes_now(self) -> int:
        """Return the memory that they use after the moment of the call."""

    async def memory_of_nothing_bytes(self) -> int:
        """Return the memory of the server while none of the versions to be measured is loaded; called then."""


class AgentGauge:
    """CPU and memory of one server, from its agent. Close `agent` at the end."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url if "://" in url else f"http://{url}")
        if address.scheme != "http" or not address.netloc:
            raise ValueError(f"{url!r} is no address of an agent; write http://HOST:8090")
        self.agent = AgentClient(address.netloc, deadline_seconds=5)
        self._metrics_url = f"http://{address.netloc}/metrics"
        self._memory_of_nothing: int | None = None

    async def cpu_seconds(self) -> float:
        """Return the CPU seconds that the server used so far: the agent looks while it is asked."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(self._metrics_url) as answer,
        ):
            answer.raise_for_status()
            for family in text_string_to_metric_families(await answer.text()):
                if family.name == CPU_METRIC and family.samples:
                    return sum(sample.value for sample in family.samples if sample.name == f"{CPU_METRIC}_total")
        raise ProfileError(
            f"{self._metrics_url} has no {CPU_METRIC}_total; is it an agent that sees Triton's processes?"
        )

    async def memory_bytes(self) -> int:
        """Return the memory that the server's processes use, a few seconds ago."""
        return (await self.agent.inventory()).memory.used_bytes

    async def memory_bytes_now(self) -> int:
        """Wait until the agent has read the memory once more, and return it."""
        asked = time.monotonic()
        while True:
            memory = (await self.agent.inventory()).memory
            waited = time.monotonic() - asked
            if (memory.age_seconds is not None and memory.age_seconds < waited) or waited > MEMORY_SETTLES_SECONDS:
                return memory.used_bytes
            await asyncio.sleep(0.1)

    async def memory_of_nothing_bytes(self) -> int:
        """Return the memory of the server before its first version was measured: waiting each time would cost more."""
        if self._memory_of_nothing is None:
            self._memory_of_nothing = await self.memory_bytes_now()
        return self._memory_of_nothing

    async def wait_for_files(self, task: str, number: int, deadline_seconds: float) -> None:
        """Ask the agent for a version's files and wait until they are there. Raises ProfileError."""
        await self.agent.put_wanted({task: [number]})
        deadline = time.monotonic() + deadline_seconds
        state = "unknown to it"
        while time.monotonic() < deadline:
            inventory = await self.agent.inventory()
            known = inventory.tasks[task].versions.get(number) if task in inventory.tasks else None
            if known is not None and number in inventory.tasks[task].available:
                return
            state = f"{known.state}: {known.message}" if known is not None else state
            await asyncio.sleep(0.2)
        raise ProfileError(f"the agent doesn't have the files after {deadline_seconds:.0f} s ({state})")


class ProcessGauge:
    """CPU and memory of a process of this machine and all its descendants, from /proc (proc(5)).

    Those that ended count when their parent waited for them. Raises ProfileError when the process is gone.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        if not Path(f"/proc/{pid}/stat").exists():
            raise ValueError(f"there is no process {pid} here; give the id of the server's process on this machine")

    async def cpu_seconds(self) -> float:
        """Return the CPU seconds, user and system, of all of them so far."""
        return sum(ticks for _, ticks in self._family()) / os.sysconf("SC_CLK_TCK")

    async def memory_bytes(self) -> int:
        """Return their anonymous and shared memory, shared pages once; resident sizes where the kernel refuses."""
        return await asyncio.to_thread(lambda: sum(_memory_bytes(pid) for pid, _ in self._family()))

    async def memory_bytes_now(self) -> int:
        """Return the same: it is always of now."""
        return await self.memory_bytes()

    async def memory_of_nothing_bytes(self) -> int:
        """Return the same."""
        return await self.memory_bytes()

    def _family(self) -> list[tuple[int, int]]:
        """Return process ids and clock ticks used."""
        processes: dict[int, tuple[int, int]] = {}
        for name in os.listdir("/proc"):  # noqa: PTH208
            if name.isdigit() and (text := _read(f"/proc/{name}/stat")):
                fields = text.rpartition(")")[2].split()
                processes[int(name)] = (int(fields[1]), sum(int(field) for field in fields[11:15]))
        if self._pid not in processes:
            raise ProfileError(f"process {self._pid} has ended; it was to be the server's")
        members, frontier = {self._pid}, [self._pid]
        while frontier:
            parent = frontier.pop()
            children = {pid for pid, (its_parent, _) in processes.items() if its_parent == parent} - members
            members |= children
            frontier += children
        return [(pid, processes[pid][1]) for pid in members]


def _memory_bytes(pid: int) -> int:
    wanted, text = {"Pss_Anon:", "Pss_Shmem:"}, _read(f"/proc/{pid}/smaps_rollup")
    if "Pss_Anon:" not in text:
        wanted, text = {"RssAnon:", "RssShmem:"}, _read(f"/proc/{pid}/status")
    lines = (line.split() for line in text.splitlines())
    return sum(int(words[1]) * 1024 for words in lines if words and words[0] in wanted)


def _read(path: str) -> str:
    """Return the text of a file of /proc; empty when the process ended meanwhile or may not be looked at."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


class PeakMemory:
    """The highest memory seen in the length of an `async with` block, in bytes."""

    def __init__(self, gauge: Gauge, interval_seconds: float = 0.5) -> None:
        self._gauge = gauge
        self._interval_seconds = interval_seconds
        self._watching: asyncio.Task[None] | None = None
        self.bytes = 0

    async def __aenter__(self) -> PeakMemory:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watching is not None
        self._watching.cancel()
        # What it couldn't read is told by the readings before and after, which are not in the background.
        await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, await self._gauge.memory_bytes())
            await asyncio.sleep(self._interval_seconds)
