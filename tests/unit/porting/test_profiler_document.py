"""The profile's file: what is written can be read, by the profiler and by `register`, and what is wrong is named."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import yaml

from rung.adapters.repository_documents import LARGEST_YAML_CHARACTERS, parse_yaml_mapping
from rung.api.quantity import Duration
from rung.api.version import LatencyPercentiles, Profile
from rung_porting.profiler.colocation import co_location, cpu_factor, shared_load, with_co_location
from rung_porting.profiler.document import (
    MOST_CONFIGURATIONS,
    MOST_POINTS,
    Configuration,
    CurvePoint,
    Interval,
    ProfileDocument,
    read_document,
    write_document,
)

LATENCY = LatencyPercentiles(p50=Duration("4ms"), p95=Duration("9ms"), p99=Duration("12ms"))


def point(rate: float, p50: float = 0.004) -> CurvePoint:
    return CurvePoint(
        rate=rate, p50_seconds=p50, p95_seconds=2 * p50, p99_seconds=3 * p50, late_share=0.0, requests=1234,
        cpu_seconds_per_inference=0.0012345,
    )  # fmt: skip


def configuration(batch_size: int, points: int) -> Configuration:
    return Configuration(
        batch_size=batch_size, instances=2, max_throughput=100.0 * batch_size, saturation=120.0 * batch_size,
        throughput_interval=Interval(low=98.0, high=102.0), latency=LATENCY,
        curve=tuple(point(1.0 + rate) for rate in range(points)),
    )  # fmt: skip


def document(**more: object) -> ProfileDocument:
    return ProfileDocument(
        hardware_class="rpi5",
        slo_latency=Duration("400ms"),
        max_throughput=123.4,
        latency=LATENCY,
        profiled_at=datetime(2026, 5, 1, tzinfo=UTC),
        throughput_interval=Interval(low=120.0, high=126.0),
        curve=tuple(point(10.0 * rate) for rate in range(1, 13)),
        **more,
    )


def test_what_is_written_is_read_again() -> None:
    written = document(configurations=(configuration(1, 5), configuration(4, 5)))
    assert read_document("x", write_document(written)) == written


def test_register_reads_the_same_file_as_a_profile_and_drops_the_rest() -> None:
    text = write_document(document(co_location_factor=1.25))
    profile = Profile.model_validate(parse_yaml_mapping("x", text))

    assert profile.max_throughput == 123.4
    assert profile.co_location_factor == 1.25
    assert "curve" not in profile.to_json()


def test_keys_that_nobody_knows_are_dropped_and_wrong_ones_are_named() -> None:
    content = yaml.safe_load(write_document(document()))
    assert read_document("x", yaml.safe_dump({**content, "moonPhase": "full"})) == document()
    content["curve"][3]["rate"] = "fast"
    with pytest.raises(ValueError, match=r"^digits/1/profiles/a.yaml: curve.3.rate: "):
        read_document("digits/1/profiles/a.yaml", yaml.safe_dump(content))
    for text in ("", "- 1", "a: &x [*x]", "\0"):
        with pytest.raises(ValueError, match=r"^x"):
            read_document("x", text)


def test_the_largest_file_can_still_be_read_by_the_operators_reader() -> None:
    most = tuple(configuration(size + 1, MOST_POINTS) for size in range(MOST_CONFIGURATIONS))
    text = write_document(document(configurations=most))

    assert len(text) <= LARGEST_YAML_CHARACTERS
    read = read_document("x", text)
    assert len(read.configurations) == MOST_CONFIGURATIONS
    assert len(read.curve) == 12, "the best one's curve stays"


def test_a_co_location_takes_the_place_of_the_one_before_and_the_largest_factor_counts() -> None:
    calm, rough = (
        co_location("parity", 7, [shared_load(0.3, 0.3, point(3, p50), point(3), factor)])
        for p50, factor in ((0.005, 1.05), (0.008, 1.3))
    )
    other = co_location("faces", 3, [shared_load(0.3, 0.3, point(3), point(3), None)])

    once = with_co_location(with_co_location(document(), calm), other)
    assert once.co_location_factor == 1.05
    twice = with_co_location(once, rough)
    assert [each.task for each in twice.co_location] == ["faces", "parity"]
    assert twice.co_location_factor == 1.3
    assert twice.co_location[1].loads[0].p50_factor == 2.0
    assert read_document("x", write_document(twice)) == twice


def test_the_cpu_factor_is_what_the_sum_lacks() -> None:
    assert cpu_factor(3.0, 1.0, 1.5) == 1.2
    assert cpu_factor(None, 1.0, 1.5) is None
    assert cpu_factor(3.0, None, 1.5) is None
    assert cpu_factor(3.0, 0.0, 0.0) is None
