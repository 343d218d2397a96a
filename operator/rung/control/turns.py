"""Who may load now: one load at a time on each server, and at most so many servers of a pool one model.

A server and a model are given together or not at all, so who waits holds nothing: a server that is slow to load one
model keeps no other server from the models that it would like to load next.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class _Ask:
    """One server that wants to load one model: no answer yet, its turn (True), or not any more (False)."""

    server: object
    model: str
    answer: asyncio.Future[bool]

    @property
    def loads(self) -> bool:
        return self.answer.done() and not self.answer.cancelled() and self.answer.result()


class LoadTurns:
    """The turns of the servers of one pool: in the order in which they are asked for, as soon as both are free.

    `width` servers may load versions of one model at the same time; a new width counts for the turns given after it.
    """

    def __init__(self, width: int = 1) -> None:
        self.width = width
        self._asks: list[_Ask] = []

    @asynccontextmanager
    async def turn(self, server: object, model: str) -> AsyncIterator[bool]:
        """Wait for the turn and hold it for the length of the block; False: the wait was given up, there is no turn."""
        ask = _Ask(server, model, asyncio.get_running_loop().create_future())
        self._asks.append(ask)
        try:
            self._give()
            yield await ask.answer
        finally:
            self._asks.remove(ask)
            self._give()

    def give_up(self, server: object, model: str) -> None:
        """End a wait without a turn. A turn that was given already is kept."""
        for ask in self._asks:
            if ask.server is server and ask.model == model and not ask.answer.done():
                ask.answer.set_result(False)

    def places(self, server: object) -> dict[str, int]:
        """Return the models for which a server waits, each with its place among all that wait, from 1."""
        waiting = [ask for ask in self._asks if not ask.answer.done()]
        return {ask.model: place for place, ask in enumerate(waiting, 1) if ask.server is server}

    def _give(self) -> None:
        loading = [ask for ask in self._asks if ask.loads]
        busy = {id(ask.server) for ask in loading}
        servers_of = Counter(ask.model for ask in loading)
        for ask in self._asks:
            if not ask.answer.done() and id(ask.server) not in busy and servers_of[ask.model] < self.width:
                ask.answer.set_result(True)
                busy.add(id(ask.server))
                servers_of[ask.model] += 1
