"""Versions whose process died on a real Triton."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from rung.control.revive import dead_versions, revive
from servers.open_loop import open_loop
from servers.swapping import RATE_RPS, TASK, serve
from servers.triton import TritonServer

pytestmark = [pytest.mark.cluster, pytest.mark.paced]


@pytest.mark.parametrize(("loaded", "killed"), [((2, 3), 3), ((2, 3), 2), ((3,), 3)])
async def test_a_dead_version_is_found_and_answers_again(
    triton: TritonServer, loaded: tuple[int, ...], killed: int
) -> None:
    async with serve(triton) as served:
        await served.start_with(*loaded)
        assert await revive(served.client, TASK, config_text=served.config_text) == frozenset()
        pid = served.stub_pid(killed)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert await dead_versions(served.client, TASK, config_text=served.config_text) == {killed}
        assert await revive(served.client, TASK, config_text=served.config_text) == {killed}
        assert await served.loaded() == set(loaded)
        for number in loaded:
            answered = await served.client.answering_version(TASK, 5, version=number, config_text=served.config_text)
            assert answered == number


async def test_reviving_a_standby_costs_no_request(triton: TritonServer) -> None:
    async with serve(triton) as served:
        await served.start_with(2, 3)
        async with open_loop(triton.address, TASK, RATE_RPS) as load:
            await load.wait_for(3, after=0)
            pid = served.stub_pid(2)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert await asyncio.wait_for(revive(served.client, TASK, config_text=served.config_text), 30) == {2}
            await load.wait_for(3, after=time.monotonic())
        assert load.failed == []
        assert load.versions == {3}
