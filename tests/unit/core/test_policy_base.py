"""What policies share: the utilisation that profiles predict."""

from __future__ import annotations

import pytest

from rung.core.policies.base import expected_utilization
from rung.core.snapshot import Profile, Version


def version(throughput_rps: float, factor: float | None = None) -> Version:
    return Version(1, 0.9, {"pi": Profile(throughput_rps, co_location_factor=factor)})


def test_it_is_the_sum_of_demand_by_throughput_and_unknown_without_a_profile_or_a_demand() -> None:
    versions = {"digits": version(10.0), "parity": version(20.0)}
    assert expected_utilization(versions, {"digits": 2.0, "parity": 4.0}, "pi") == pytest.approx(0.4)
    assert expected_utilization(versions, {"digits": 2.0, "parity": None}, "pi") == pytest.approx(0.2)
    assert expected_utilization(versions, {"digits": 2.0, "parity": 4.0}, "n100") is None
    assert expected_utilization(versions, {}, "pi") is None


@pytest.mark.parametrize(
    ("factors", "expected"),
    [((1.25, None), 0.5), ((1.25, 1.5), 0.6), ((None, None), 0.4), ((float("nan"), -3.0), 0.4), ((1e9, 0.0), 0.4)],
)
def test_tasks_side_by_side_cost_the_larger_of_their_measured_factors_more(
    factors: tuple[float | None, float | None], expected: float
) -> None:
    versions = {"digits": version(10.0, factors[0]), "parity": version(20.0, factors[1])}
    assert expected_utilization(versions, {"digits": 2.0, "parity": 4.0}, "pi") == pytest.approx(expected)
    assert expected_utilization(versions, {"digits": 2.0, "parity": 0.0}, "pi") == pytest.approx(0.2), "it is alone"
