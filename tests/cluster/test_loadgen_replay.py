"""The open loop against a real Triton: answered, hung, killed and restarted."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rung.adapters.triton import TritonClient
from rung_loadgen.arrivals import poisson_arrivals
from rung_loadgen.cli import main
from rung_loadgen.kserve import Channel
from rung_loadgen.lines import LoadLine, LoadSummary, from_mapping
from rung_loadgen.openloop import Limits, OpenLoop, Stream, run
from rung_loadgen.payloads import random_requests
from servers.models import write_task
from servers.triton import TritonServer

pytestmark = [pytest.mark.cluster, pytest.mark.paced]

TASK = "digit"


@pytest.fixture
async def config_text(triton: TritonServer) -> str:
    """The server with version 3 of one cheap task loaded."""
    text = write_task(triton.repository, TASK, {1: 1, 3: 1})
    await load(triton, text, 3)
    return text


async def load(triton: TritonServer, text: str, *versions: int) -> None:
    async with TritonClient(triton.address) as client:
        await client.load(TASK, frozenset(versions), text, 60)


async def stream_of(triton: TritonServer, rates: Sequence[float], seed: int = 1) -> Stream:
    rng = np.random.default_rng(seed)
    channel = Channel(triton.address)
    try:
        specs = await channel.wait_for_model(TASK, 30)
    finally:
        await channel.close()
    return Stream(
        TASK, poisson_arrivals(np.array(rates, dtype=np.float64), rng), random_requests(TASK, specs, rng), 0.5
    )


@pytest.fixture
async def channel(triton: TritonServer) -> AsyncIterator[Channel]:
    opened = Channel(triton.address)
    yield opened
    await opened.close()


@pytest.mark.usefixtures("config_text")
async def test_every_request_is_answered_and_says_by_which_version(triton: TritonServer) -> None:
    stream = await stream_of(triton, [30, 60])

    result = (await run(triton.address, [stream], channels=2)).streams[0]

    assert result.offered == stream.arrivals_seconds.size > 50
    assert result.failures == {}
    assert result.versions == {"3": result.offered}
    assert (result.latencies_seconds > 0).all()


async def test_a_swap_shows_in_the_versions_and_loses_nothing(triton: TritonServer, config_text: str) -> None:
    stream = await stream_of(triton, [40] * 20)
    seen: set[str] = set()
    channel = Channel(triton.address)
    loop = OpenLoop([channel], [stream], Limits())

    def watch(lines: Sequence[LoadLine]) -> None:
        seen.update(version for line in lines for version in line.versions)
        if seen == {"1", "3"}:
            loop.stop()

    running = asyncio.create_task(loop.run(watch))
    await load(triton, config_text, 1)
    result = (await running).streams[0]
    await channel.close()

    assert set(result.versions) == {"1", "3"}
    assert result.failures == {}


@pytest.mark.usefixtures("config_text")
async def test_a_hung_server_holds_back_no_request_and_hides_no_wait(triton: TritonServer, channel: Channel) -> None:
    stream = await stream_of(triton, [40] * 4)
    await channel.inputs(TASK, 10)
    loop = OpenLoop([channel], [stream], Limits(request_deadline_seconds=60))
    clock = asyncio.get_running_loop()
    started = clock.time()
    running = asyncio.create_task(loop.run())
    await asyncio.sleep(1.0)
    triton.signal_all(signal.SIGSTOP)
    stopped_after = clock.time() - started
    await asyncio.sleep(2.0)
    continued_after = clock.time() - started
    triton.signal_all(signal.SIGCONT)
    result = (await running).streams[0]

    # Both clocks started within a few milliseconds of each other; a margin keeps the edges out.
    during = (result.intended_seconds > stopped_after + 0.1) & (result.intended_seconds < continued_after - 0.1)
    assert during.sum() > 40
    # Each left at its own time, although none of the ones before had been answered ...
    assert result.lateness_seconds[during].max() < 1.0
    # ... and its wait counts from then: none was answered before the server went on.
    assert (result.finished_seconds[during] > continued_after - 0.1).all()
    assert result.failures == {}


@pytest.mark.usefixtures("config_text")
async def test_past_its_deadline_or_the_cap_a_request_fails_by_name(triton: TritonServer, channel: Channel) -> None:
    stream = await stream_of(triton, [40, 40])
    await channel.inputs(TASK, 10)  # it is connected before the server hangs
    triton.signal_all(signal.SIGSTOP)
    try:
        limits = Limits(request_deadline_seconds=0.5, max_in_flight=8)
        result = (await OpenLoop([channel], [stream], limits).run()).streams[0]
    finally:
        triton.signal_all(signal.SIGCONT)

    assert set(result.failures) == {"DEADLINE_EXCEEDED", "client_overload"}
    assert sum(result.failures.values()) == result.offered == stream.arrivals_seconds.size


async def test_a_dead_server_is_counted_and_found_again_when_it_is_back(
    triton: TritonServer, config_text: str, channel: Channel
) -> None:
    stream = await stream_of(triton, [30] * 60)
    loop = OpenLoop([channel], [stream], Limits(request_deadline_seconds=5))
    failed, back = asyncio.Event(), asyncio.Event()

    def watch(lines: Sequence[LoadLine]) -> None:
        if any(line.failed.get("UNAVAILABLE") for line in lines):
            failed.set()
        elif failed.is_set() and any(line.completed for line in lines):
            back.set()
            loop.stop()

    running = asyncio.create_task(loop.run(watch))
    await asyncio.sleep(1.0)
    await asyncio.to_thread(triton.kill)
    async with asyncio.timeout(20):
        await failed.wait()
    await asyncio.to_thread(triton.start)
    await load(triton, config_text, 3)
    result = (await running).streams[0]

    assert back.is_set(), "no answer came after the server was back"
    assert result.failures["UNAVAILABLE"] > 0
    assert result.offered == int(result.answered.sum()) + result.failed


def replay(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rung_loadgen.cli", "replay", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.usefixtures("config_text")
def test_the_command_writes_a_line_each_second_and_sums_up(triton: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("20\n30 # two seconds\n")
    out = tmp_path / "out.jsonl"

    done = replay(
        f"--target={triton.address}", f"--task=a:{tmp_path}/t.txt:model={TASK},slo=2s",
        f"--task=b:{tmp_path}/t.txt:model={TASK},scale=2,slo=2s", f"--out={out}", "--seed=4",
    )  # fmt: skip

    assert done.returncode in (0, 3), done.stderr  # 3: this machine was too busy to trust the latencies
    assert done.stdout == out.read_text()
    lines = [from_mapping(json.loads(line)) for line in done.stdout.splitlines()]
    summary = lines.pop()
    assert isinstance(summary, LoadSummary)
    assert summary.complete
    for task in summary.tasks:
        own = [line for line in lines if isinstance(line, LoadLine) and line.task == task.task]
        assert {1, 2} <= {line.elapsed_seconds for line in own}
        assert sum(line.offered for line in own) == task.offered
        assert sum(line.completed for line in own) == task.answered == task.offered
        assert sum(line.versions.get("3", 0) for line in own) == task.versions["3"]
    assert summary.client_cpu_microseconds_per_request > 0


@pytest.mark.usefixtures("config_text")
def test_the_command_ends_in_order_when_it_is_told_to(triton: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("20\n" * 600)
    command = [sys.executable, "-m", "rung_loadgen.cli", "replay", f"--target={triton.address}"]
    process = subprocess.Popen([*command, f"--task={TASK}:{tmp_path}/t.txt:slo=2s"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    summary = from_mapping(json.loads(output.splitlines()[-1]))

    assert first["kind"] == "load"
    assert process.returncode in (0, 3)
    assert isinstance(summary, LoadSummary)
    assert not summary.complete
    assert summary.tasks[0].offered < 600 * 10


async def test_a_model_that_the_server_lacks_is_named(triton: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("20\n")
    arguments = ["replay", f"--target={triton.address}", f"--task=other:{tmp_path}/t.txt", "--wait=500ms"]

    done = await asyncio.to_thread(CliRunner().invoke, main, arguments)

    assert done.exit_code == 1
    assert "no description of model 'other'" in done.stderr
