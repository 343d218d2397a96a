"""The search for the highest rate, with servers that are a number: what they keep is known exactly."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung_porting.profiler.belief import Belief, trust
from rung_porting.profiler.search import Found, Verdict, ceiling, highest_kept_rate

Server = Callable[[float], Verdict]


def exact(limit_rps: float) -> Server:
    """A server whose latency says clearly on which side of its limit it is."""
    return lambda rate: Verdict(rate <= limit_rps, 0.1 if rate <= limit_rps else 10.0)


def queue(limit_rps: float, noise: random.Random) -> Server:
    """A server whose 99th percentile rises as a queue's does, read with 30 % of noise; its limit is where it is 1."""
    capacity = limit_rps / 0.97

    def probe(rate_rps: float) -> Verdict:
        latency = 0.03 / max(1e-3, 1 - rate_rps / capacity) * math.exp(noise.gauss(0, 0.3))
        return Verdict(latency <= 1, latency)

    return probe


def search(
    server: Server, bound_rps: float, tolerance: float = 0.05, max_probes: int = 20, ceiling_rps: float | None = None
) -> tuple[Found | None, list[float]]:
    probes: list[float] = []

    async def probe(rate_rps: float) -> Verdict:
        probes.append(rate_rps)
        return server(rate_rps)

    found = highest_kept_rate(
        bound_rps, probe, tolerance=tolerance, max_probes=max_probes, ceiling_rps=ceiling_rps
    )  # fmt: skip
    return asyncio.run(found), probes


@given(st.floats(0.05, 1.0), st.floats(1, 10_000))
def test_it_comes_within_its_tolerance_and_says_so(share: float, bound_rps: float) -> None:
    limit_rps = share * bound_rps
    found, probes = search(exact(limit_rps), bound_rps)

    assert found is not None
    assert found.narrow
    assert found.low_rps <= found.rate_rps <= found.high_rps <= bound_rps * 1.001
    assert found.rate_rps == pytest.approx(limit_rps, rel=0.05)
    assert len(probes) <= 20


def test_a_server_that_keeps_nearly_all_takes_few_probes() -> None:
    found, probes = search(exact(1000), 1000, tolerance=0.06)

    assert found is not None
    assert found.rate_rps == pytest.approx(1000, rel=0.05)
    assert len(probes) <= 4, "the demo profiles fourteen versions"


def test_one_wrong_answer_does_not_lead_it_astray() -> None:
    # A plain bisection would never again look above a rate that it was once told is too high.
    answers = iter([Verdict(False, 1.3)])
    limit = exact(970)
    found, probes = search(lambda rate: next(answers, None) or limit(rate), 1000, tolerance=0.04)

    assert found is not None
    assert probes[0] < 970, "the wrong answer was about a rate that is kept"
    assert found.rate_rps == pytest.approx(970, rel=0.04)


def test_where_answers_are_noisy_the_interval_holds_the_limit_as_often_as_it_says() -> None:
    noise = random.Random(1)
    limits = [noise.uniform(300, 1000) for _ in range(200)]
    results = [search(queue(limit, noise), limit / 0.97, tolerance=0.05)[0] for limit in limits]

    held = [
        r for limit, r in zip(limits, results, strict=True) if r and r.low_rps <= limit * 1.001 <= r.high_rps * 1.02
    ]
    assert len(held) >= 170
    near = [r for limit, r in zip(limits, results, strict=True) if r and abs(r.rate_rps / limit - 1) < 0.05]
    assert len(near) >= 190


def test_unclear_answers_are_asked_again_about_the_same_rate() -> None:
    _, probes = search(lambda rate: Verdict(rate <= 900, 1.05), 1000, max_probes=12)

    assert len(probes) == 12
    assert max(probes) / min(probes) < 1.3


def test_the_budget_ends_it_and_a_wide_interval_is_told() -> None:
    found, probes = search(exact(510), 1000, tolerance=0.001, max_probes=6)

    assert len(probes) == 6
    assert found is not None
    assert not found.narrow


def test_a_server_that_keeps_nothing_gets_no_number_and_bounded_time() -> None:
    found, probes = search(exact(0), 100)
    assert (found, len(probes)) == (None, 40)
    assert min(probes) < 2, "it looked far down before it gave up"
    found, probes = search(exact(0), 100, max_probes=3)
    assert (found, len(probes)) == (None, 6)


def test_above_a_closed_loop_only_long_probes_look() -> None:
    assert ceiling(100, probe_seconds=1.5, slo_seconds=0.4) == 100
    assert ceiling(100, probe_seconds=8, slo_seconds=0.4) == 125
    found, _ = search(exact(118), 100, tolerance=0.03, ceiling_rps=125)
    assert found is not None
    assert found.rate_rps == pytest.approx(118, rel=0.04)


@given(st.floats(1, 1e5), st.floats(1, 1.25), st.lists(st.tuples(st.floats(0, 2), st.booleans(), st.floats(0, 100))))
def test_a_belief_stays_one(bound_rps: float, above: float, probes: list[tuple[float, bool, float]]) -> None:
    belief = Belief.before(bound_rps, above * bound_rps)
    for share, kept, latency in probes:
        belief = belief.after(share * bound_rps, kept, trust(latency))
        assert belief.probability.sum() == pytest.approx(1)
        low, high = belief.interval()
        assert 0 < low <= belief.best <= high <= above * bound_rps * 1.001


@given(st.floats(0, 1e6))
def test_trust_is_never_below_a_toss_up_nor_certainty(latency_by_limit: float) -> None:
    assert 0.5 <= trust(latency_by_limit) <= 0.97
    assert trust(1.0) == 0.5
    assert trust(0.2) == trust(5.0) > trust(1.1)
