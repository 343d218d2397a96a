"""Two versions of a repository beside each other on a real Triton, and what is kept of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from rung.adapters.triton import State, TritonClient
from rung.core.repository_layout import parse_key
from rung_porting.profiler.document import ProfileDocument, read_document
from rung_porting.profiler.profile import profile
from servers.models import write_task
from servers.triton import TritonServer

pytestmark = [pytest.mark.cluster, pytest.mark.quiet]

TASKS = "digit:2,face"


def newest(repository: Path, task: str, number: int) -> tuple[ProfileDocument, int]:
    """The newest profile of a version, and how many there are."""
    paths = sorted((repository / task / str(number) / "profiles").glob("*.yaml"))
    for path in paths:
        assert parse_key(str(path.relative_to(repository))) is not None
    return read_document(str(paths[-1]), paths[-1].read_text()), len(paths)


async def ready(triton: TritonServer) -> set[str]:
    async with TritonClient(triton.address) as client:
        return {entry.model for entry in await client.index() if entry.state is State.READY}


def test_two_tasks_beside_each_other_are_kept_next_to_their_profiles(triton: TritonServer) -> None:
    write_task(triton.repository, "digit", {1: 60, 2: 160}, width=384)
    write_task(triton.repository, "face", {4: 160}, width=384)
    assert triton.process is not None
    base = [
        "--triton", triton.address, "--pid", str(triton.process.pid), "--repository", str(triton.repository),
        "--hardware-class", "c", "--tasks", TASKS, "--slo", "3s",
    ]  # fmt: skip

    early = CliRunner().invoke(profile, [*base, "--co-locate"])
    assert early.exit_code == 1
    assert "digit: version 2 of it has a profile for c" in early.stderr
    assert "run the same without --co-locate first" in early.stderr

    alone = CliRunner().invoke(profile, base, catch_exceptions=False)
    assert alone.exit_code == 0, alone.stderr
    assert not (triton.repository / "digit" / "1" / "profiles").exists(), "only the version that was asked for"

    together = CliRunner().invoke(profile, [*base, "--co-locate", "--shares", "0.2,0.5"], catch_exceptions=False)
    assert together.exit_code == 0, together.stderr
    assert "digit beside face 4: p95 up to " in together.stderr

    for task, number, rival, other in (("digit", 2, "face", 4), ("face", 4, "digit", 2)):
        document, files = newest(triton.repository, task, number)
        assert files == 2, "nothing is overwritten"
        [seen] = document.co_location
        assert (seen.task, seen.version) == (rival, other)
        assert {(load.own, load.other) for load in seen.loads} == {(0.2, 0.2), (0.2, 0.5), (0.5, 0.2), (0.5, 0.5)}
        assert document.co_location_factor == seen.cpu_factor
        # Far from 1, CPU would be counted twice or not at all.
        assert seen.cpu_factor is not None
        assert 0.5 < seen.cpu_factor < 2.0
        assert document.max_throughput > 0
        assert document.curve, "what was measured alone is still there"


async def test_nothing_stays_loaded_when_the_other_one_can_not_be(triton: TritonServer) -> None:
    write_task(triton.repository, "digit", {2: 30}, width=384)
    write_task(triton.repository, "face", {4: 30}, width=384)
    for task, number in (("digit", 2), ("face", 4)):
        folder = triton.repository / task / str(number) / "profiles"
        folder.mkdir()
        (folder / "c-20260101T000000Z.yaml").write_text("hardwareClass: c\nsloLatency: 400ms\nmaxThroughput: 100.0\n")
    (triton.repository / "face" / "4" / "model.onnx").write_bytes(b"no network")
    done = await run(["--triton", triton.address, "--repository", str(triton.repository), "--co-locate"])

    assert "digit beside face: " in done
    assert "ONNX Runtime can't load it" in done
    assert await ready(triton) == set()


async def run(arguments: list[str]) -> str:
    """The command's words on stderr; in a thread, since it has an event loop of its own."""
    arguments = [*arguments, "--hardware-class", "c", "--tasks", "digit,face"]
    done = await asyncio.to_thread(CliRunner().invoke, profile, arguments)
    assert done.exit_code == 1
    return done.stderr
