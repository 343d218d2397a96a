"""Text from outside in Markdown: shown as it is, never as markup. Pure."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_MARKUP = re.compile(r"([\\`*_\[\]|~])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")
_FENCE = re.compile(r"`{3,}")


def plain(text: object) -> str:
    """Return text on one line, for running text and cells, in which no character is markup: no Markdown, no HTML."""
    return _MARKUP.sub(r"\\\1", html.escape(_CONTROL.sub(" ", str(text)), quote=False))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are Markdown already, without a line break."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def code(text: str, language: str = "") -> str:
    """Return a block of code whose fence is longer than any in the text, so that the text can't end it.

    Control characters are taken out: what is printed must not drive the terminal.
    """
    text = "\n".join(_CONTROL.sub(" ", line) for line in text.split("\n"))
    longest = max((len(found) for found in _FENCE.findall(text)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
