"""The cores that a server gets, where these are fewer than its limit says.

While as many tasks as a server has cores have requests waiting at every look, nothing but the CPU holds them up: so
what it uses is what it gets. A neighbour on the machine takes the rest, or a limit of which nobody told. It takes looks
and measures of CPU a second or two apart; where they are made more seldom, or a server has more cores than tasks,
nothing is said, and its limit counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile
from math import inf, isfinite
from typing import NamedTuple

from rung.core.policies.lane import usable_cores
from rung.core.snapshot import Sample, ServerState

BUSY_SECONDS = 3
"""So long it has to be busy all the time."""
LONGEST_SECONDS = 60
"""No more of the past is looked at."""
LOOK_SECONDS = 2.0
"""Between two looks that are further apart it may have been idle."""
STEADY = 0.9
"""A server that is busy uses about the same in each of these seconds: at least this share of the most."""
SHORT = 0.9
"""Less than this share of its cores is less than it should get."""
LEAST_GIVEN = 0.25
"""However little it used, it is planned with this share of its cores: beyond that it hangs, which is another matter."""
GROW_SECONDS = 60.0
"""The cores it was seen to get are taken for twice as many after so long, as nothing tells when a shortage ends."""
PASSED = 1.1
"""Whoever uses so many times what was thought to be there has more."""
FORGET_SECONDS = 600.0


class Given(NamedTuple):
    """The cores that a server was seen to get, and the last moment at which these were fewer than its limit says."""

    cores: float
    time_seconds: float


def given_cores(server: ServerState, before: Given | None, now_seconds: float) -> Given | None:
    """Return what is known of the cores that a server gets; None: nothing that would differ from its limit.

    Args:
        server: as it is.
        before: what was returned the last time.
        now_seconds: the moment.
    """
    cores = usable_cores(server.capacity_cores)
    if before is not None:
        before = Given(before.cores, min(before.time_seconds, now_seconds))
        is_another = server.disturbed_seconds is not None and server.disturbed_seconds > before.time_seconds
        if is_another or now_seconds - before.time_seconds > FORGET_SECONDS:
            before = None
    used = _used_while_busy(server, cores)
    if used is not None and used < SHORT:
        # A capacity may be so small that a share of it is nothing.
        return Given(max(used, LEAST_GIVEN) * cores or cores, now_seconds)
    if before is None:
        return None
    newest = server.utilization[-1].value if server.utilization else 0.0
    has_more = newest * cores > PASSED * planned_cores(server, before, now_seconds)
    return Given(cores, before.time_seconds) if used is not None or has_more else before


def planned_cores(server: ServerState, given: Given | None, now_seconds: float) -> float:
    """Return the cores of a server to plan with."""
    cores = usable_cores(server.capacity_cores)
    if given is None:
        return cores
    doublings = min(64.0, max(0.0, now_seconds - given.time_seconds) / GROW_SECONDS)
    return min(cores, given.cores * float(2.0**doublings))


def _used_while_busy(server: ServerState, cores: float) -> float | None:
    """Return the highest use of the last seconds, 0 to 1, if it was busy in all of them; None: nobody can tell."""
    waiting = [looks for looks in server.pending.values() if looks and looks[-1].value >= 1]
    if len(waiting) < cores:
        return None
    used = [s for s in server.utilization[-LONGEST_SECONDS:] if isfinite(s.time_seconds) and isfinite(s.value)]
    first = len(used) - BUSY_SECONDS
    if first < 0:
        return None
    # One measure of several seconds is given to each of them: then it has to be busy in all of these.
    while first > 0 and used[first - 1].value == used[first].value:
        first -= 1
    since, until = used[first].time_seconds, used[-1].time_seconds
    if sum(_waited(looks, since, until) for looks in waiting) < cores:
        return None
    values = [min(1.0, max(0.0, s.value)) for s in used[first:]]
    return max(values) if min(values) >= STEADY * max(values) else None


def _waited(looks: Sequence[Sample], since_seconds: float, until_seconds: float) -> bool:
    """Tell whether requests waited at every look of a time, and looks were close enough to speak for all of it."""
    inside = [*takewhile(lambda look: look.time_seconds >= since_seconds - LOOK_SECONDS / 4, reversed(looks))][::-1]
    if not inside or not all(1 <= look.value < inf for look in inside):
        return False
    times = [since_seconds, *(look.time_seconds for look in inside), until_seconds]
    return all(after - before <= LOOK_SECONDS for before, after in pairwise(times))
