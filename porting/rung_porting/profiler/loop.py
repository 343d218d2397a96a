"""An event loop whose timers keep microseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(body: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, on select(2).

    The usual epoll waits in whole milliseconds, rounded up: requests then leave 0.7 ms late in the median instead of
    0.2 ms, and the latency that counts from the intended time is that much longer. A profile needs few descriptors.
    """
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(body)
