"""The file that tells the gate beside Triton for which tasks it chooses."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rung.adapters.agent import Reflex


class GateFile:
    """Written only when it changes, and all at once: the gate never reads half of it.

    Args:
        path: the file; its folder is shared with the gate and has to be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: str | None = None

    async def write(self, reflex: Reflex) -> None:
        """Have the file hold these tasks.

        Raises:
            OSError: it can't be written.
        """
        text = reflex.model_dump_json(by_alias=True)
        if text != self._written:
            await asyncio.to_thread(self._replace, text)
            self._written = text

    def _replace(self, text: str) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self._path)
