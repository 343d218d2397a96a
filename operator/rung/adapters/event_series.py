"""Which events are worth a write: the same one again is counted, and no object is flooded.

Kubernetes keeps an event for an hour or so and shows at most a screenful. The rule here is that of client-go's
correlator, cut down: equal events become one with a count; of each reason an object gets a few at once and then one
every ten seconds; what is more is counted with the last one.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

NOTE_LIMIT_BYTES = 1024
REPEAT_SECONDS = 10.0
BURST = 10
_OBJECTS_KEPT = 4096

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(slots=True)
class Kept:
    """One event that shall be written now. `unwritten` repeats came before it without a write."""

    event_name: str
    subject: tuple[str, str]
    """The object that it is about, and the reason: what a write counts against."""
    unwritten: int = 0
    written_at: float = float("-inf")


@dataclass(slots=True)
class _Reason:
    """What was posted about one object for one reason."""

    tokens: float
    refilled_at: float
    last: Kept | None = None


class EventSeries:
    """Remembers what was posted lately. Small: the oldest is forgotten first, which costs a repeat at most."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._events: OrderedDict[str, Kept] = OrderedDict()
        self._reasons: OrderedDict[tuple[str, str], _Reason] = OrderedDict()

    def admit(self, about: str, name: str, reason: str, note: str) -> Kept | None:
        """Return the event to write, or None when this one was only counted.

        `about` identifies the object, `name` is its name. An event's own name follows from its content, so that a
        restarted operator finds the events of the one before.
        """
        now = self._now()
        digest = hashlib.blake2s(f"{about}\n{reason}\n{note}".encode(), digest_size=8).hexdigest()
        kept = _recall(self._events, digest, lambda: Kept(f"{name[:230]}.{digest}", (about, reason)))
        if now - kept.written_at < REPEAT_SECONDS:
            kept.unwritten += 1
            return None
        budget = _recall(self._reasons, kept.subject, lambda: _Reason(BURST, now))
        budget.tokens = min(BURST, budget.tokens + (now - budget.refilled_at) / REPEAT_SECONDS)
        budget.refilled_at = now
        if budget.tokens < 1:
            if budget.last is not None:
                budget.last.unwritten += 1
            return None
        budget.last = kept
        return kept

    def written(self, kept: Kept, repeats: int) -> None:
        """Say that the event and that many repeats are with the API server: only now they count against the limits."""
        kept.unwritten -= repeats
        kept.written_at = self._now()
        budget = self._reasons.get(kept.subject)
        if budget is not None and budget.last is kept:
            budget.tokens -= 1


def shortened(note: str) -> str:
    """Cut a note to what the API server takes, in bytes, at a character's end."""
    if len(note.encode()) <= NOTE_LIMIT_BYTES:
        return note
    ellipsis = "…"
    return note.encode()[: NOTE_LIMIT_BYTES - len(ellipsis.encode())].decode(errors="ignore") + ellipsis


def _recall(memory: OrderedDict[_Key, _Value], key: _Key, make: Callable[[], _Value]) -> _Value:
    if key not in memory:
        memory[key] = make()
        if len(memory) > _OBJECTS_KEPT:
            memory.popitem(last=False)
    memory.move_to_end(key)
    return memory[key]
