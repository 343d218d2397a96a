"""Frontier's error budget: how strict or loose its limit on late answers is, by what experience says of theory.

Theory is careful, so without late answers the limit gets looser with time; an answer that is late makes it stricter at
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import NamedTuple

from rung.core.policies.frontier_parameters import FrontierParameters
from rung.core.policies.lane import Lane
from rung.core.policies.remembered import LEAST_LOOSENESS, Remembered

LONGEST_FORGIVE_SECONDS = 900.0
"""A limit doubles after this time, however seldom the objective allows a late answer."""


class Judgement(NamedTuple):
    """What the limit is multiplied by, and when it last got stricter (or was first looked at)."""

    looseness: float
    seconds: float


def forgiven(
    parameters: FrontierParameters, before: Remembered, now_seconds: float, seconds_for_one_late: float | None
) -> Judgement:
    """Return how strict the limit is if nothing is late.

    Args:
        parameters: of the policy.
        before: what is remembered of the server.
        now_seconds: the moment.
        seconds_for_one_late: where the reflex chooses for single requests, the time in which the objectives allow one
            late answer: no sooner the limit doubles. What is planned is no more than a beginning there: what clients
            see late is what counts, so the limit never gets looser than planned. None: no reflex.
    """
    judged_seconds = now_seconds if before.judged_seconds is None else min(before.judged_seconds, now_seconds)
    if parameters.strictness >= 1.0:
        return Judgement(1.0, judged_seconds)
    first, loosest, forgive_seconds = parameters.first_looseness, parameters.loosest, parameters.forgive_seconds
    if seconds_for_one_late is not None:
        first, loosest, forgive_seconds = 1.0, 1.0, max(forgive_seconds, seconds_for_one_late)
    doublings = min(64.0, (now_seconds - judged_seconds) / forgive_seconds)
    known = first if before.judged_seconds is None else before.looseness
    return Judgement(min(loosest, known * float(2.0**doublings)), judged_seconds)


def judged(parameters: FrontierParameters, known: Judgement, late_seconds: float, *, reflex: bool) -> Judgement:
    """Return how strict the limit is when answers were late at a moment, with `known` if they had not been."""
    patience_seconds = parameters.reflex_patience_seconds if reflex else 0.0
    if parameters.strictness >= 1.0 or late_seconds <= known.seconds + patience_seconds:
        return known
    return Judgement(max(LEAST_LOOSENESS, known.looseness * parameters.strictness), late_seconds)


def seconds_for_one_late(lanes: Sequence[Lane]) -> float:
    """Return the time in which the objectives allow one late answer, at the demand of the last minute or so."""
    rates = [(fsum(one.rates_rps) / len(one.rates_rps), one.state.objective) for one in lanes if one.rates_rps]
    allowed_rps = fsum(rate * (1.0 - objective) for rate, objective in rates)
    return min(LONGEST_FORGIVE_SECONDS, 1.0 / allowed_rps) if allowed_rps > 0 else 0.0
