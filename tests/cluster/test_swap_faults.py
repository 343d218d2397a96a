"""Swaps that go wrong on a real Triton: what answered goes on answering, and the next call converges."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from rung.adapters.triton import State, TritonClient
from rung.control.swap import Deadlines, Kind, Outcome, apply, load_standbys
from rung.core.plan import Target
from servers.models import version_model, write_task
from servers.open_loop import open_loop
from servers.swapping import RATE_RPS, TASK, Served, assert_clean, assert_switched, serve
from servers.triton import TritonServer

pytestmark = [pytest.mark.cluster, pytest.mark.paced]

SHORT = Deadlines(load=3.0, change=1.0, query=0.5, verify=0.5)


@pytest.fixture
async def served(triton: TritonServer) -> AsyncIterator[Served]:
    async with serve(triton) as served:
        yield served


def _garbage(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(os.urandom(200_000))


def _truncated(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(version_model(9, layers=8)[:-100_000])


def _empty(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.onnx").touch()


def _without_file(folder: Path) -> None:
    folder.mkdir()


def _missing(folder: Path) -> None:
    assert not folder.exists()


def _other_inputs(folder: Path) -> None:
    folder.mkdir()
    content = version_model(9).replace(b"INPUT", b"QUERY")
    (folder / "model.onnx").write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_garbage, "ONNX Runtime can't load it"),
        (_truncated, "ONNX Runtime can't load it"),
        (_empty, "the file is empty"),
        (_without_file, "there is no such file"),
        (_missing, "has no files of version 9"),
        (_other_inputs, "QUERY"),
    ],
)
async def test_a_version_that_can_not_be_loaded(served: Served, spoil: Callable[[Path], None], said: str) -> None:
    await served.start_with(2)
    spoil(served.server.repository / TASK / "9")
    async with open_loop(served.server.address, TASK, RATE_RPS) as load:
        await load.wait_for(2, after=0)
        outcome = await served.apply(Target(9, (2,)))
        await load.wait_for(2, after=time.monotonic())
        # And the server is none the worse for it.
        assert (await served.apply(Target(3, (2,)))).ok
        await load.wait_for(3, after=time.monotonic())
    assert outcome.outcome is Outcome.LOAD_FAILED
    assert outcome.blamed == {9}
    assert (outcome.from_version, outcome.to_version, outcome.answering) == (2, 9, 2)
    assert said in outcome.sentence
    assert "version 9" in outcome.sentence
    assert_clean(load, {2, 3})


async def test_a_standby_that_can_not_be_loaded_leaves_the_active_version(served: Served) -> None:
    _garbage(served.server.repository / TASK / "5")
    write_task(served.server.repository, TASK, {6: 1})
    await served.start_with(6)
    outcomes = await served.load_standbys(Target(6, (4, 5, 3)))
    assert [(outcome.to_version, outcome.outcome) for outcome in outcomes] == [
        (4, Outcome.OK),
        (5, Outcome.LOAD_FAILED),
    ]
    assert await served.loaded() == {4, 6}


async def test_a_configuration_that_is_none_is_refused_in_words(served: Served) -> None:
    await served.start_with(2)
    outcome = await apply(served.client, TASK, Target(3), config_text="max_batch_size: many")
    assert outcome.outcome is Outcome.LOAD_FAILED
    assert "config.pbtxt can't be read" in outcome.sentence
    assert await served.loaded() == {2}


async def test_a_hung_server_costs_bounded_time_and_goes_on_later(served: Served) -> None:
    await served.start_with(2, 3)
    async with open_loop(served.server.address, TASK, RATE_RPS) as load:
        await load.wait_for(3, after=0)
        served.server.signal_all(signal.SIGSTOP)
        try:
            limit = SHORT.change + 3 * SHORT.query + 1.0
            asked = await asyncio.wait_for(served.apply(Target(2), deadlines=SHORT), limit)
            believed = await asyncio.wait_for(served.apply(Target(2), deadlines=SHORT, loaded=frozenset({2, 3})), limit)
        finally:
            served.server.signal_all(signal.SIGCONT)
        for outcome in (asked, believed):
            assert outcome.outcome is Outcome.UNREACHABLE
            assert not outcome.blamed
        assert (await served.apply(Target(2))).ok
        swapped = time.monotonic()
        await load.wait_for(2, after=swapped)
    assert_clean(load, {2, 3})
    assert_switched(load, 2, swapped)


async def test_a_killed_server_gets_its_allocation_back(served: Served) -> None:
    await served.start_with(2, 3)
    served.server.kill()
    outcome = await asyncio.wait_for(served.apply(Target(3, (2,))), 5)
    assert (outcome.outcome, outcome.answering) == (Outcome.UNREACHABLE, None)
    served.server.start()
    deadline = time.monotonic() + 10
    while not (outcome := await served.apply(Target(3, (2,)))).ok:
        assert outcome.outcome is Outcome.UNREACHABLE, outcome.sentence
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert (outcome.kind, outcome.from_version) == (Kind.COLD, None)
    assert all(standby.ok for standby in await served.load_standbys(Target(3, (2,))))
    assert await served.loaded() == {2, 3}


async def test_a_server_killed_during_a_load_is_unreachable_and_the_version_not_blamed(served: Served) -> None:
    await served.start_with(2)
    swap = asyncio.create_task(served.apply(Target(3)))
    await served.wait_for_state(3, State.LOADING)
    served.server.kill()
    outcome = await asyncio.wait_for(swap, 10)
    assert outcome.outcome is Outcome.UNREACHABLE
    assert not outcome.blamed


async def _pid_of_loading(served: Served, number: int) -> int:
    deadline = time.monotonic() + 10
    while (pid := served.stub_pid(number)) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)
    return pid


async def test_a_load_that_takes_too_long_is_undone_when_it_ends(served: Served) -> None:
    await served.start_with(2)
    async with open_loop(served.server.address, TASK, RATE_RPS) as load:
        await load.wait_for(2, after=0)
        swap = asyncio.create_task(served.apply(Target(3), deadlines=SHORT))
        pid = await _pid_of_loading(served, 3)
        os.kill(pid, signal.SIGSTOP)
        try:
            outcome = await asyncio.wait_for(swap, SHORT.load + SHORT.change + 4 * SHORT.query + 1)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert outcome.outcome is Outcome.TIMED_OUT, outcome.sentence
        assert (outcome.from_version, outcome.answering) == (2, 2)
        assert "version 3 took longer than 3 s" in outcome.sentence
        await served.wait_for_state(3, State.UNAVAILABLE)
        undone = time.monotonic()
        await load.wait_for(2, after=undone)
        assert await served.loaded() == {2}
    assert_clean(load, {2, 3})
    assert_switched(load, 2, undone)


async def test_a_process_that_dies_while_it_loads_its_version_costs_bounded_time(served: Served) -> None:
    """Triton waits for it for ever; the version that answered goes on, and none but the one that hangs is blamed."""
    await served.start_with(1, 2)
    async with open_loop(served.server.address, TASK, RATE_RPS) as load:
        await load.wait_for(2, after=0)
        swap = asyncio.create_task(served.apply(Target(3), deadlines=SHORT))
        os.kill(await _pid_of_loading(served, 3), signal.SIGKILL)
        outcome = await asyncio.wait_for(swap, SHORT.load + SHORT.change + 4 * SHORT.query + 1)
        assert outcome.outcome is Outcome.TIMED_OUT
        assert outcome.blamed == {3}
        assert not outcome.hung
        assert outcome.answering == 2
        for target, kind in ((Target(1), Kind.WARM), (Target(3), Kind.COLD)):
            after = await asyncio.wait_for(served.apply(target, deadlines=SHORT), SHORT.load + 10)
            assert (after.kind, after.outcome) == (kind, Outcome.TIMED_OUT)
            assert after.blamed == after.hung == {3}
            assert "behind a load of version 3 that does not end" in after.sentence
        await load.wait_for(2, after=time.monotonic())
    assert_clean(load, {2})


async def test_a_standby_whose_process_died_is_found_out_and_the_old_version_put_back(served: Served) -> None:
    await served.start_with(2, 3)
    pid = served.stub_pid(2)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    outcome = await served.apply(Target(2))
    assert outcome.outcome is Outcome.ROLLED_BACK, outcome.sentence
    assert (outcome.from_version, outcome.answering) == (3, 3)
    assert await served.client.answering_version(TASK, 5, config_text=served.config_text) == 3
    again = await served.apply(Target(2))
    assert (again.kind, again.outcome) == (Kind.COLD, Outcome.OK), "its next process works"


class CutOff(TritonClient):
    """A connection whose user is cancelled during (or right before) its n-th call, as a killed operator is."""

    def __init__(self, address: str, call: int, *, during: bool) -> None:
        super().__init__(address)
        self.calls = 0
        self.cut_at = call
        self.during = during

    async def _call(self, method: Any, request: Any, deadline_seconds: float) -> Any:
        self.calls += 1
        if self.calls == self.cut_at:
            task = asyncio.current_task()
            assert task is not None
            if not self.during:
                task.cancel()
            asyncio.get_running_loop().call_later(0.01, task.cancel)
        return await super()._call(method, request, deadline_seconds)


async def _operate(client: TritonClient, served: Served, target: Target) -> None:
    await apply(client, TASK, target, config_text=served.config_text)
    await load_standbys(client, TASK, target, config_text=served.config_text)


@pytest.mark.parametrize(
    ("start", "target", "during"),
    [
        pytest.param((2, 3), Target(2, (1,)), False, id="warm-down-before"),
        pytest.param((2, 3), Target(2, (1,)), True, id="warm-down-during"),
        pytest.param((3,), Target(1), True, id="cold-down-during"),
        pytest.param((2,), Target(3, (2,)), True, id="up-during"),
    ],
)
async def test_an_operator_killed_at_any_call_leaves_the_server_serving_and_its_successor_converges(
    served: Served, start: tuple[int, ...], target: Target, during: bool
) -> None:
    cut = 0
    finished = False
    while not finished:
        cut += 1
        assert cut < 20
        await served.client.load(TASK, frozenset(start), served.config_text, 30)
        async with open_loop(served.server.address, TASK, RATE_RPS) as load:
            await load.wait_for(max(start), after=0)
            async with CutOff(served.server.address, cut, during=during) as client:
                # A task of its own, since that is what is cancelled.
                operator = asyncio.create_task(_operate(client, served, target))
                await asyncio.wait({operator})
                finished = client.calls < cut
            outcome = await served.apply(target)
            assert outcome.ok, outcome.sentence
            assert all(standby.ok for standby in await served.load_standbys(target))
            swapped = time.monotonic()
            await load.wait_for(target.active, after=swapped)
        assert await served.loaded() == {target.active, *target.standby}
        assert_clean(load, {max(start), target.active})
        assert_switched(load, target.active, swapped)
