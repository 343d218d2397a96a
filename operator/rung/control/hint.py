"""What an agent is told, over and over: where it changed, and now and then, as an agent may have lost it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

TELL_AGAIN_SECONDS = 30.0

_T = TypeVar("_T")


class Hint(Generic[_T]):
    """One thing that one agent is told."""

    def __init__(self, tell: Callable[[_T], Awaitable[None]], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._told: tuple[_T, float] | None = None

    async def say(self, what: _T) -> None:
        """Tell, unless it was told lately. What could not be told is told the next time, and the error is raised."""
        now = self._clock()
        if self._told is not None and self._told[0] == what and now - self._told[1] < TELL_AGAIN_SECONDS:
            return
        self._told = None
        await self._tell(what)
        self._told = what, now
