"""Carries connections from the machine's own loopback to the API server inside the namespaces.

A socket belongs to the network namespace in which it was made, whoever uses it: the supervisor makes the listening one
outside, and this runs inside. So no interface, address or rule is needed outside.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

CHUNK_BYTES = 65536


async def forward(listener: socket.socket, host: str, port: int) -> asyncio.Server:
    """Accept on `listener` and relay each connection to `host`:`port`, both ways, until either side ends it."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_relay(reader, there_writer))
                tasks.create_task(_relay(there_reader, writer))
        except* OSError:
            pass
        finally:
            writer.transport.abort()
            there_writer.transport.abort()

    return await asyncio.start_server(accept, sock=listener)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    # One side has said all it has to say; the other may still be answering.
    with suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()
