"""A closed loop: a fixed number of callers, each sending its next request when the last one was answered.

It never asks more of a server than the server gives, so it says nothing of latency under demand; but what it reaches
is what the server can do at most, which bounds the search for the highest rate of an open loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

from rung_loadgen.kserve import Channel, RpcError, ServerError, answered_version, failure_of


@dataclass(frozen=True, slots=True)
class Saturation:
    """What a server reached with every caller busy."""

    throughput_rps: float
    fastest_seconds: float
    """The shortest time from sending to the answer: no load and no neighbour makes it shorter."""
    requests: int
    client_cpu_share: float
    versions: frozenset[int]


async def saturate(
    channel: Channel, payloads: tuple[bytes, ...], *, callers: int, seconds: float, deadline_seconds: float = 10.0
) -> Saturation:
    """Keep `callers` requests in flight for `seconds`. Raises ServerError when a request fails."""
    start = time.perf_counter()
    cpu_before = time.process_time()
    finished: list[float] = []
    fastest = math.inf
    versions: set[int] = set()

    async def caller(number: int) -> None:
        nonlocal fastest
        sent = number
        while (left := time.perf_counter()) - start < seconds:
            answer = await channel.infer(payloads[sent % len(payloads)], timeout=deadline_seconds)
            now = time.perf_counter()
            fastest = min(fastest, now - left)
            finished.append(now - start)
            versions.add(answered_version(answer))
            sent += callers

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(caller(number))
    except ExceptionGroup as errors:
        first = errors.exceptions[0]
        if not isinstance(first, (RpcError, ValueError)):
            raise
        code, details = failure_of(first)
        raise ServerError(f"{channel.target}: an inference failed: {code}: {details or first}") from None
    # From the first answer on: what came before is the pipe filling.
    busy = finished[-1] - finished[0]
    return Saturation(
        throughput_rps=(len(finished) - 1) / busy if busy > 0 else 0.0,
        fastest_seconds=fastest,
        requests=len(finished),
        client_cpu_share=(time.process_time() - cpu_before) / max(time.perf_counter() - start, 1e-9),
        versions=frozenset(versions),
    )
