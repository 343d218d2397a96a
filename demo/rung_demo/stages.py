"""Tells a person which stage the demo is in and how long each took."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Stages:
    """One line a stage: what begins, and how long it took. Stages may overlap."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and, at its end, its time."""
        began = time.monotonic()
        self.say(f"[bold]{name}[/bold] ...")
        yield
        took = time.monotonic() - began
        with self._lock:
            self.seconds[name] = took
        self.say(f"[green]{name}[/green]: {took:.0f} s")

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        elapsed = time.monotonic() - self.started
        with self._lock:
            # A terminal breaks long lines by itself, and a file should not have them broken.
            self.console.print(f"[dim]{elapsed:5.0f} s[/dim]  {text}", soft_wrap=True)
