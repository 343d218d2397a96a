"""The operator's client of an agent, against servers that are no good agents."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from rung.adapters.agent import AgentClient, Malformed, Unreachable, VersionState

pytestmark = pytest.mark.cluster

GOOD: dict[str, Any] = {
    "tasks": {
        "digits": {
            "config": "",
            "versions": {
                "1098820": {"state": "Available", "bytes": 5, "sha256": "a" * 64, "message": ""},
                "2": {"state": "Corrupt", "bytes": 5, "sha256": "b" * 64, "message": "bad"},
            },
        }
    },
    "repository": {"reachable": True, "lastContact": 1.5, "message": ""},
    "memory": {"limitBytes": None, "usedBytes": 3, "ageSeconds": 2.5},
    "disk": {"budgetBytes": 10, "usedBytes": 5},
}


@contextlib.asynccontextmanager
async def answering(answer: bytes, *, hang: bool = False) -> AsyncIterator[str]:
    """A server that answers every connection with these bytes; gives its address."""

    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if hang:
                await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        # The clients are closed by now, so each of these ends by itself.
        await asyncio.wait_for(asyncio.gather(*connections), 10)


def ok(document: Any) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def changed(path: str, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(GOOD))
    *folders, name = path.split("/")
    inner = document
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    return document


async def test_reads_a_good_inventory_and_ignores_what_a_newer_agent_adds() -> None:
    async with answering(ok(changed("tasks/digits/color", "blue"))) as address, AgentClient(address) as client:
        inventory = await client.inventory()
    assert inventory.tasks["digits"].available == {1_098_820}
    assert inventory.tasks["digits"].versions[2].state is VersionState.CORRUPT
    assert inventory.repository.last_contact == 1.5
    assert inventory.memory.limit_bytes is None
    assert inventory.memory.age_seconds == 2.5


@pytest.mark.parametrize(
    ("document", "place"),
    [
        (b"", "JSON"), (b"{", "JSON"), (b"<html>", "JSON"), (b"[]", "object"), (b"null", "object"), ({}, "repository"),
        (changed("tasks/digits/versions/2/state", "Broken"), "state"),
        (changed("tasks/digits/versions/2/bytes", -1), "bytes"),
        (changed("tasks/digits/versions/2/sha256", "abc"), "sha256"),
        (changed("tasks/digits/versions/latest", {"state": "Available"}), "versions"),
        (changed("tasks/digits/versions/0", {"state": "Available"}), "versions"),
        (changed("tasks/..", {}), "tasks"), (changed("disk/budgetBytes", "lots"), "budgetBytes"),
        (b"[" * 100_000, "JSON"), (b"x" * (17 << 20), "bytes"),
    ],
)  # fmt: skip
async def test_a_malformed_inventory_is_told_by_its_place(document: Any, place: str) -> None:
    async with answering(ok(document)) as address, AgentClient(address, deadline_seconds=10.0) as client:
        with pytest.raises(Malformed, match=place):
            await client.inventory()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nstuck", Malformed),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", Malformed),
        (b"", Unreachable),
        (b"SSH-2.0-OpenSSH\r\n", Unreachable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", Unreachable),
    ],
)
async def test_what_is_no_agent_is_an_error_of_ours(answer: bytes, error: type[Exception]) -> None:
    async with answering(answer) as address, AgentClient(address) as client:
        with pytest.raises(error, match=address):
            await client.inventory()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"])
async def test_one_that_hangs_costs_the_deadline(answer: bytes) -> None:
    async with answering(answer, hang=True) as address, AgentClient(address, deadline_seconds=0.3) as client:
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"within 0\.3 s"):
            await client.put_wanted({"digits": [1]})
        assert time.monotonic() - started < 10


async def test_nobody_there_and_a_shared_session_stays_open() -> None:
    async with aiohttp.ClientSession() as session:
        async with AgentClient("127.0.0.1:1", session=session) as client:
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
                await client.inventory()
        assert not session.closed
