"""What Rung remembers of a pool between two decisions, and how it survives in the pool's status.

The status can be edited by hand, cut off, or written by another version: what can't be read is dropped with a note and
never an exception. Nothing in here changes while nothing happens, so that the status is not written every second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

from rung.core.plan import Memory

FORMAT = 1
LONGEST_ABSENCE_SECONDS = 600.0
"""A server that was not seen for this long is forgotten."""


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """One server."""

    wanted: Mapping[str, int] = field(default_factory=dict)
    """By task: the version that the last plan chose."""
    answered: frozenset[str] = frozenset()
    """Tasks that have answered here; one that no longer does has lost its allocation."""
    missing: frozenset[str] = frozenset()
    """Those of `answered` that did not answer when last seen."""
    disturbed_seconds: float | None = None
    """When a task was last found missing."""
    stale_since_seconds: float | None = None
    """Since when the signals are missing or too old; None while they are fresh."""
    absent_since_seconds: float | None = None
    """Since when the server is not in the pool; None while it is."""


@dataclass(frozen=True, slots=True)
class PoolMemory:
    """One pool: its servers, and what its policy remembers for itself."""

    servers: Mapping[str, ServerMemory] = field(default_factory=dict)
    policy_name: str = ""
    policy: Memory = field(default_factory=dict)


def read(memory: object, now_seconds: float) -> tuple[PoolMemory, tuple[str, ...]]:
    """Read memory that `write` made; times in the future (a clock that was set back) become now.

    Returns what could be read, and a sentence for each part that could not. Nothing at all is a first start, no fault.
    """
    if memory is None or (isinstance(memory, Mapping) and not memory):
        return PoolMemory(), ()
    if not isinstance(memory, Mapping) or memory.get("format") != FORMAT:
        return PoolMemory(), ("The policy's memory in the status could not be read and was dropped.",)
    notes: list[str] = []
    servers: dict[str, ServerMemory] = {}
    entries = memory.get("servers", {})
    for name, entry in entries.items() if isinstance(entries, Mapping) else ():
        server = _server(entry, now_seconds)
        if server is None or not isinstance(name, str):
            notes.append(f"The memory of server {str(name)[:64]} in the status could not be read and was dropped.")
        else:
            servers[name] = server
    policy = memory.get("policy", {})
    name = memory.get("policyName", "")
    if not isinstance(entries, Mapping) or not isinstance(policy, Mapping) or not isinstance(name, str):
        notes.append("A part of the policy's memory in the status could not be read and was dropped.")
    return (
        PoolMemory(servers, name if isinstance(name, str) else "", policy if isinstance(policy, Mapping) else {}),
        tuple(notes),
    )


def write(memory: PoolMemory) -> dict[str, object]:
    """Return memory as plain JSON data; the same memory gives the same data."""
    return {
        "format": FORMAT,
        "policyName": memory.policy_name,
        "policy": dict(memory.policy),
        "servers": {name: _plain(server) for name, server in sorted(memory.servers.items())},
    }


_TIMES = {
    "disturbedSeconds": "disturbed_seconds",
    "staleSinceSeconds": "stale_since_seconds",
    "absentSinceSeconds": "absent_since_seconds",
}


def _plain(server: ServerMemory) -> dict[str, object]:
    plain: dict[str, object] = {"wanted": dict(sorted(server.wanted.items())), "answered": sorted(server.answered)}
    if server.missing:
        plain["missing"] = sorted(server.missing)
    for key, attribute in _TIMES.items():
        value = getattr(server, attribute)
        if value is not None:
            plain[key] = value
    return plain


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a value is a number of a size that makes sense here (which no NaN and no infinity is)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def entries(memory: object, key: str) -> dict[str, Mapping[str, object]]:
    """Return the mappings under a key of a policy's memory, by name; what is malformed is as if it had never been."""
    found = memory.get(key) if isinstance(memory, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    return {str(name): entry for name, entry in found.items() if isinstance(entry, Mapping)}


def _server(entry: object, now_seconds: float) -> ServerMemory | None:
    wanted = entry.get("wanted", {}) if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(wanted, Mapping):
        return None
    if not all(isinstance(task, str) and is_number(n) and n == int(n) >= 1 for task, n in wanted.items()):
        return None
    names: list[frozenset[str]] = []
    for key in ("answered", "missing"):
        value = entry.get(key, [])
        if not isinstance(value, list | tuple) or not all(isinstance(task, str) for task in value):
            return None
        names.append(frozenset(value))
    times: dict[str, float | None] = {}
    for key, attribute in _TIMES.items():
        value = entry.get(key)
        if value is not None and not is_number(value):
            return None
        times[attribute] = None if value is None else min(float(value), now_seconds)
    return ServerMemory({task: int(number) for task, number in wanted.items()}, names[0], names[1], **times)
