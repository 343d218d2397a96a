"""Versions whose process died on a server that still calls them ready: found by asking each, and loaded again.

Triton runs each version of a Python-based backend in a process of its own. When one dies (short of memory, say), the
index goes on saying READY, every inference of that version fails after a second, and loading it again does nothing.
It has to be dropped first.
"""

from __future__ import annotations

import asyncio

from rung.adapters.triton import DeadlineExceeded, Refused, TritonClient, Unreachable
from rung.control.swap import DEFAULT_DEADLINES, Deadlines, ready_versions


async def dead_versions(
    server: TritonClient,
    task: str,
    *,
    config_text: str,
    deadlines: Deadlines = DEFAULT_DEADLINES,
    failing: frozenset[int] = frozenset(),
    versions: frozenset[int] | None = None,
) -> frozenset[int]:
    """Return which of these versions (by default those that are ready by the index) have a process that is dead.

    Costs one inference on zeros for each of them. A version that is slow, or doesn't take zeros, isn't dead;
    unless it is one of the `failing`, whose requests were last seen to fail, all of them: each takes a second to, so
    under load the zeros wait behind them without end.
    Raises Unreachable, DeadlineExceeded, Refused when the server doesn't give its index.
    """

    async def is_dead(number: int) -> bool:
        try:
            await server.answering_version(task, deadlines.verify, version=number, config_text=config_text)
        except Refused as error:
            return "is not healthy" in str(error)
        except DeadlineExceeded:
            return number in failing
        except Unreachable:
            return False
        return False

    if versions is None:
        versions = ready_versions(await server.index(deadlines.query), task)
    ready = sorted(versions)
    dead = await asyncio.gather(*(is_dead(number) for number in ready))
    return frozenset(number for number, is_so in zip(ready, dead, strict=True) if is_so)


async def revive(
    server: TritonClient,
    task: str,
    *,
    config_text: str,
    deadlines: Deadlines = DEFAULT_DEADLINES,
    failing: frozenset[int] = frozenset(),
) -> frozenset[int]:
    """Load dead versions again; returns their numbers. Meanwhile the highest version that lives answers.

    Must not overlap with a swap of the same task on this server.
    Raises Unreachable, DeadlineExceeded, Refused; what was not done then is done by the next call or swap.
    """
    dead = await dead_versions(server, task, config_text=config_text, deadlines=deadlines, failing=failing)
    if not dead:
        return dead
    ready = ready_versions(await server.index(deadlines.query), task)
    if alive := ready - dead:
        await server.load(task, alive, config_text, deadlines.change)
    else:
        await server.unload(task, deadlines.change)
    await server.load(task, ready, config_text, deadlines.load)
    return dead
