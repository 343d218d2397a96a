"""Progress for a person who waits: one line on standard error for each step."""

from __future__ import annotations

import sys
from collections.abc import Callable

Progress = Callable[[str], None]
"""Takes one line of text, without a line break."""


def to_stderr(line: str) -> None:
    """Print one line of progress."""
    print(line, file=sys.stderr, flush=True)


def silent(line: str) -> None:
    """Print nothing."""
