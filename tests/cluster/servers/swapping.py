"""One task on one Triton, swapped under load by the executor: what the tests of swaps have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rung.adapters.triton import State, TritonClient
from rung.control.swap import SwapOutcome, apply, load_standbys, ready_versions
from rung.core.plan import Target
from servers.models import write_task
from servers.open_loop import OpenLoop
from servers.triton import TritonServer

TASK = "digits"
RATE_RPS = 60.0


@dataclass
class Served:
    """One task with the versions 1 (cheap) to 4 on one server."""

    server: TritonServer
    client: TritonClient
    config_text: str

    async def start_with(self, *versions: int) -> None:
        await self.client.load(TASK, frozenset(versions), self.config_text, 30)

    async def apply(self, target: Target, **options: object) -> SwapOutcome:
        return await apply(self.client, TASK, target, config_text=self.config_text, **options)  # type: ignore[arg-type]

    async def load_standbys(self, target: Target, **options: object) -> tuple[SwapOutcome, ...]:
        return await load_standbys(self.client, TASK, target, config_text=self.config_text, **options)  # type: ignore[arg-type]

    async def loaded(self) -> frozenset[int]:
        return ready_versions(await self.client.index(), TASK)

    async def wait_for_state(self, number: int, state: State, seconds: float = 20.0) -> None:
        """Poll the index until a version is in this state."""
        deadline = time.monotonic() + seconds
        while not any(
            entry.model == TASK and entry.number == number and entry.state is state
            for entry in await self.client.index()
        ):
            assert time.monotonic() < deadline, f"version {number} was not {state} within {seconds} s"
            await asyncio.sleep(0.002)

    def stub_pid(self, number: int) -> int | None:
        """The process that serves a version, None when there is none (yet)."""
        found = (pid for pid, command in self.server.stub_pids().items() if f"/{TASK}/{number}/model.onnx" in command)
        return next(found, None)


@asynccontextmanager
async def serve(triton: TritonServer) -> AsyncIterator[Served]:
    """Write the task's versions and connect; nothing is loaded yet."""
    text = write_task(triton.repository, TASK, {1: 1, 2: 8, 3: 16, 4: 24})
    async with TritonClient(triton.address) as client:
        yield Served(triton, client, text)


def assert_clean(load: OpenLoop, versions: Iterable[int]) -> None:
    """No request failed, none is missing, and only these versions answered."""
    assert load.failed == []
    assert len(load.answers) == load.sent > 0
    assert load.versions <= set(versions)


def assert_switched(load: OpenLoop, to_version: int, since: float) -> None:
    """Every request that was due after the swap was answered by the new version."""
    late = [answer for answer in load.answers if answer.due > since]
    assert late
    assert {answer.said for answer in late} == {to_version}
