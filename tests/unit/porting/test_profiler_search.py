"""The search for the highest rate, with servers that are a number: what they keep is known exactly."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung_porting.profiler.search import highest_kept_rate


def search(
    limit_rps: float, bound_rps: float, tolerance: float = 0.05, max_probes: int = 12
) -> tuple[float | None, int]:
    probes: list[float] = []

    async def kept(rate_rps: float) -> bool:
        probes.append(rate_rps)
        return rate_rps <= limit_rps

    return asyncio.run(highest_kept_rate(bound_rps, kept, tolerance=tolerance, max_probes=max_probes)), len(probes)


@given(st.floats(0.12, 1.0), st.floats(1, 10_000))
def test_it_comes_within_its_tolerance_from_below(share: float, bound_rps: float) -> None:
    limit_rps = share * bound_rps
    found, probes = search(limit_rps, bound_rps)

    assert found is not None
    assert found <= min(limit_rps, bound_rps)
    assert found >= 0.94 * limit_rps
    assert probes <= 12


def test_a_server_that_keeps_nearly_all_takes_two_probes() -> None:
    found, probes = search(100, 100, tolerance=0.051)

    assert found == pytest.approx(95)
    assert probes == 2


def test_a_server_that_keeps_nothing_gets_no_number_and_bounded_time() -> None:
    assert search(0, 100) == (None, 12)
    assert search(0, 100, max_probes=3) == (None, 3)
