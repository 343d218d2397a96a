"""The `rung-agent` command as a pod starts it: a process of its own, its HTTP API, its end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner, Result

from rung.adapters.agent import AgentClient, Malformed, VersionState
from rung.agent.main import main
from servers.agents import is_in, metric, until, until_inventory
from servers.ports import free_port
from servers.s3 import S3Server, running_s3

pytestmark = pytest.mark.cluster

STOP_SECONDS = 20.0
NONSENSE = (
    b"", b"{}", b'{"tasks": []}', b'{"tasks": {"../x": [1]}}', b'{"tasks": {"a": ["1"]}}', b'{"tasks": {"a": [0]}}',
    b'{"tasks": {"a": [1.5]}}', b'{"tasks": {}, "more": 1}', b"\xff",
)  # fmt: skip
BURNING = """
import time
while True:
    end = time.process_time() + 0.02
    while time.process_time() < end:
        pass
    time.sleep(0.02)
"""


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with running_s3(tmp_path / "s3") as server:
        yield server


@contextlib.asynccontextmanager
async def command(
    s3: S3Server, models: Path, *flags: str
) -> AsyncIterator[tuple[AgentClient, asyncio.subprocess.Process]]:
    port = free_port()
    environment = {
        **os.environ,
        **s3.environment,
        "RUNG_AGENT_REPOSITORY": s3.uri,
        "RUNG_AGENT_ENDPOINT": s3.endpoint,
        "RUNG_AGENT_MODELS_DIR": str(models),
        "RUNG_AGENT_LISTEN": f"127.0.0.1:{port}",
        "RUNG_AGENT_POLL_INTERVAL": "200ms",
        "RUNG_AGENT_TRITON_MEMORY_LIMIT": "1073741824",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rung.agent.main", *flags, env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with AgentClient(f"127.0.0.1:{port}", deadline_seconds=10.0) as client:
            await until(lambda: _answers(client, process), "the agent answers", 60.0)
            yield client, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _answers(client: AgentClient, process: asyncio.subprocess.Process) -> bool:
    assert process.returncode is None, "the agent ended"
    with contextlib.suppress(Exception):
        await client.inventory()
        return True
    return False


async def test_takes_its_options_from_the_environment_and_stops_gracefully(s3: S3Server, tmp_path: Path) -> None:
    await s3.publish("digits", 1, b"network")
    async with command(s3, tmp_path / "models", "--disk-budget", "1Mi") as (agent, process):
        inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1), "it is mirrored")
        assert inventory.disk.budget_bytes == 1 << 20
        assert inventory.memory.limit_bytes == 1 << 30
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), STOP_SECONDS) == 0


async def test_killed_at_any_moment_it_goes_on_where_it_was(s3: S3Server, tmp_path: Path) -> None:
    size_bytes = 8 << 20
    for number in range(1, 5):
        await s3.publish("digits", number, os.urandom(size_bytes))
    models = tmp_path / "models"
    async with command(s3, models) as (agent, process):
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1), "one is there")
        process.kill()
        await process.wait()
    async with command(s3, models) as (agent, _):
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 2, 3, 4), "all are there")
        assert await metric(agent, "rung_agent_mirror_bytes_total") <= 3 * size_bytes
    for number in range(1, 5):
        mirrored = (models / f"digits/{number}/model.onnx").read_bytes()
        assert mirrored == s3.object_path(f"digits/{number}/model.onnx").read_bytes()


async def test_refuses_nonsense_and_answers_health_and_metrics(s3: S3Server, tmp_path: Path) -> None:
    async with command(s3, tmp_path / "models") as (agent, _), aiohttp.ClientSession() as session:
        base = f"http://{agent.address}"
        for body in NONSENSE:
            async with session.put(f"{base}/v1/wanted", data=body) as answer:
                assert answer.status == 400, body
                assert "tasks" in (await answer.json())["error"]
        async with session.put(f"{base}/v1/wanted", data=io.BytesIO(b" " * (2 << 20))) as answer:
            assert answer.status == 413
        async with session.post(f"{base}/v1/wanted") as answer:
            assert answer.status == 405
        async with session.get(f"{base}/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with session.get(f"{base}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            names = {
                line.split(" ")[2] for line in (await answer.text()).splitlines() if line.startswith("# TYPE rung_")
            }
        assert names >= {
            "rung_agent_triton_cpu_seconds_total", "rung_agent_triton_memory_bytes", "rung_agent_memory_limit_bytes",
            "rung_agent_mirror_bytes_total", "rung_agent_mirror_failures_total", "rung_agent_versions",
            "rung_agent_repository_reachable",
        }  # fmt: skip
        with pytest.raises(Malformed, match="400"):
            await agent.put_wanted({"Not a task": [1]})


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ([], "--repository"),
        (["--repository", "models/demo"], "s3://BUCKET"),
        (["--repository", "s3://models", "--endpoint", "localhost:1"], "HOST:PORT"),
        (["--repository", "s3://models", "--disk-budget", "lots"], "is not a size"),
        (["--repository", "s3://models", "--listen", "8090"], "HOST:PORT"),
        (["--repository", "s3://models", "--poll-interval", "10"], "is not a duration"),
    ],
)
def test_wrong_options_are_explained(flags: list[str], fault: str) -> None:
    outcome = CliRunner().invoke(main, flags)
    assert outcome.exit_code == 2
    assert fault in " ".join(outcome.output.split())


def test_an_address_that_is_taken_or_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    def start(models: Path, port: int) -> Result:
        flags = ["--repository", "s3://models", "--endpoint", "http://127.0.0.1:1", "--models-dir", str(models)]
        return CliRunner().invoke(main, [*flags, "--listen", f"127.0.0.1:{port}"])

    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = start(tmp_path / "models", taken.getsockname()[1])
    assert outcome.exit_code == 1
    assert "address already in use" in outcome.output
    (tmp_path / "folder").write_text("")
    outcome = start(tmp_path / "folder" / "models", free_port())
    assert outcome.exit_code == 1
    assert str(tmp_path / "folder") in outcome.output


def test_help_names_the_environment_variable_of_every_option() -> None:
    text = CliRunner().invoke(main, ["--help"], terminal_width=200).output
    for option in main.params:
        assert option.name is not None
        assert f"--{option.name.replace('_', '-')}" in text
        assert f"RUNG_AGENT_{option.name.upper()}" in text
    assert "AWS_ACCESS_KEY_ID" in text


async def test_counts_the_cpu_of_a_real_process_named_tritonserver(s3: S3Server, tmp_path: Path) -> None:
    name = f"ts{os.getpid()}"
    os.symlink(os.path.realpath(sys.executable), tmp_path / name)  # noqa: PTH211, ASYNC240
    server = await asyncio.create_subprocess_exec(tmp_path / name, "-S", "-c", BURNING)
    try:
        async with command(s3, tmp_path / "models", "--triton-process", name) as (agent, _):
            before = await metric(agent, "rung_agent_triton_cpu_seconds_total"), _kernel_seconds(server.pid)
            end = time.monotonic() + 20
            while _kernel_seconds(server.pid) < before[1] + 0.5:
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            low = _kernel_seconds(server.pid)
            counted = await metric(agent, "rung_agent_triton_cpu_seconds_total")
            high = _kernel_seconds(server.pid)
            assert low - 0.011 <= counted <= high + 0.011, "as of the scrape, not of a second ago"
            assert await metric(agent, "rung_agent_triton_processes") == 1
            assert await metric(agent, "rung_agent_memory_limit_bytes") == 1 << 30
            server.kill()
            await server.wait()
            text = (await agent._request("GET", "/metrics")).decode()
            assert "\nrung_agent_triton_cpu_seconds_total " not in text
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()


def _kernel_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
