"""Whether the profiles of a server can be trusted: the policy's word of one second, made steady. Pure.

A policy judges the profiles only now and then, and on a server that idles the CPU of Triton itself passes any
prediction. So doubt counts only while the server works, only when it lasts or a step up was taken in spite of it (that
ends it, so it never lasts), and it goes only when it stays away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from rung.core.plan import Code, Plan
from rung.core.signals import recent_values
from rung.core.snapshot import ServerState

LEAST_UTILIZATION = 0.15
"""Below this, what Triton needs for itself weighs more than what the profiles were measured for."""
DOUBTED_AFTER_SECONDS = 5.0
FORGOTTEN_AFTER_SECONDS = 60.0
"""A doubt that came once and not again; a policy judges at most every half minute while it moves."""
TRUSTED_AFTER_SECONDS = 120.0
WINDOW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Doubt:
    """One server: since when the profiles are in doubt, when they last were, and whether that was told."""

    since_seconds: float
    last_seconds: float
    told: bool = False


def judge(
    before: Mapping[str, Doubt], servers: Iterable[ServerState], plan: Plan, now_seconds: float
) -> dict[str, Doubt]:
    """Return the doubts of this moment; those with `told` are to be told."""
    doubts: dict[str, Doubt] = {}
    doubted = {each.server for each in plan.servers if not each.profile_trusted}
    stepped_up = {reason.server for reason in plan.reasons if reason.code is Code.STEP_UP}
    for server in servers:
        doubt = before.get(server.name)
        values = recent_values(server.utilization, now_seconds, WINDOW_SECONDS)
        works = bool(values) and sum(values) / len(values) >= LEAST_UTILIZATION
        if server.name in doubted and works:
            doubt = replace(doubt, last_seconds=now_seconds) if doubt else Doubt(now_seconds, now_seconds)
            lasts = now_seconds - doubt.since_seconds >= DOUBTED_AFTER_SECONDS
            told = doubt.told or lasts or server.name in stepped_up
            doubts[server.name] = replace(doubt, told=told)
        elif doubt is not None and now_seconds - doubt.last_seconds < (
            TRUSTED_AFTER_SECONDS if doubt.told else FORGOTTEN_AFTER_SECONDS
        ):
            doubts[server.name] = doubt
    return doubts
