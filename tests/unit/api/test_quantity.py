from __future__ import annotations

import math
import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from rung.api import Cpu, Duration, Memory
from rung.api.quantity import PositiveDuration

BUSY = settings(deadline=None, max_examples=60)  # the machine has other work
UNITS = {"us": "0.000001", "ms": "0.001", "s": "1", "m": "60", "h": "3600"}


class Holder(BaseModel):
    duration: Duration | None = None
    positive: PositiveDuration | None = None
    cpu: Cpu | None = None
    memory: Memory | None = None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("400ms", 0.4),
        ("15s", 15.0),
        ("1m30s", 90.0),
        ("1h2m3.5s", 3723.5),
        ("0.5us", 5e-7),
        ("0s", 0.0),
        ("2562047h", 2562047 * 3600.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    duration = Duration(text)
    assert duration.seconds == seconds
    assert duration == text
    assert Holder(duration=text).model_dump(mode="json")["duration"] == text


@pytest.mark.parametrize(
    "text",
    ["", "400", "s", "-1s", "+1s", "1 s", "1s ", "1s\n", "1d", "1e3s", ".5s", "5.s", "1µs", "\u0661s", "9" * 40 + "s"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="write for example 400ms, 15s or 1m30s"):
        Duration(text)
    with pytest.raises(ValidationError, match="write for example 400ms, 15s or 1m30s"):
        Holder(duration=text)


def test_a_duration_beyond_gos_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 292 years"):
        Duration("2562048h")


def test_zero_is_no_positive_duration() -> None:
    with pytest.raises(ValidationError, match="must be longer than 0s"):
        Holder(positive="0m0.0s")
    assert Holder(positive="1us").positive == "1us"


@pytest.mark.parametrize("value", [1, 1.5, True, ["1s"], {"seconds": 1}])
def test_numbers_are_asked_to_be_written_in_quotes(value: object) -> None:
    with pytest.raises(ValidationError, match="is not a string; write for example"):
        Holder.model_validate({"duration": value})


@BUSY
@given(
    st.lists(
        st.tuples(st.integers(0, 999), st.integers(0, 999), st.sampled_from(sorted(UNITS))), min_size=1, max_size=3
    )
)
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, int, str]]) -> None:
    text = "".join(f"{whole}.{fraction:03}{unit}" for whole, fraction, unit in parts)
    exact = sum(Decimal(f"{whole}.{fraction:03}") * Decimal(UNITS[unit]) for whole, fraction, unit in parts)
    assert Duration(text).seconds == float(exact)


@BUSY
@given(st.floats(0, 1e6))
def test_seconds_survive_to_the_microsecond(seconds: float) -> None:
    duration = Duration.from_seconds(seconds)
    assert math.isclose(duration.seconds, seconds, rel_tol=0, abs_tol=0.51e-6)
    assert Duration(duration) == duration


@BUSY
@given(st.text(max_size=7) | st.from_regex(r"([0-9]{1,3}(\.[0-9])?(us|ms|s|m|h)){1,3}", fullmatch=True))
def test_any_text_is_a_duration_or_a_clear_error(text: str) -> None:
    if re.fullmatch(Duration.PATTERN, text):
        assert 0 <= Duration(text).seconds <= 2**63 / 1e9
    else:
        with pytest.raises(ValueError, match="write for example"):
            Duration(text)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_what_no_duration_can_say(seconds: float) -> None:
    with pytest.raises(ValueError, match="a duration can't be"):
        Duration.from_seconds(seconds)


@pytest.mark.parametrize(("text", "cores"), [("1", 1.0), ("500m", 0.5), ("0.5", 0.5), ("1500m", 1.5), ("0", 0.0)])
def test_cpu(text: str, cores: float) -> None:
    assert Cpu(text).cores == cores


@pytest.mark.parametrize("text", ["", "m", "1.5m", "-1", "1 core", "1e3", "2k"])
def test_what_is_no_cpu(text: str) -> None:
    with pytest.raises(ValueError, match=r"write for example 2, 0\.5 or 500m"):
        Cpu(text)


@BUSY
@given(st.floats(0, 1e6))
def test_cores_are_never_rounded_down(cores: float) -> None:
    written = Cpu.from_cores(cores)
    assert cores - 1e-9 <= written.cores <= cores + 0.001 + 1e-9


@pytest.mark.parametrize("cores", [-0.001, math.nan, math.inf])
def test_what_no_cpu_can_say(cores: float) -> None:
    with pytest.raises(ValueError, match="CPU can't be"):
        Cpu.from_cores(cores)


@pytest.mark.parametrize(
    ("text", "number"),
    [("536870912", 2**29), ("512Mi", 2**29), ("1.5Gi", 3 * 2**29), ("1k", 1000), ("2M", 2_000_000), ("0.0001Ki", 1)],
)
def test_memory(text: str, number: int) -> None:
    assert Memory(text).bytes == number


@pytest.mark.parametrize("text", ["", "Mi", "1 Mi", "1MiB", "1K", "-1", "1e3", "1kk"])
def test_what_is_no_memory(text: str) -> None:
    with pytest.raises(ValueError, match="write for example 512Mi, 2Gi or 1000000"):
        Memory(text)


@BUSY
@given(st.integers(0, 2**50), st.sampled_from(["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"]))
def test_memory_units_scale(number: int, unit: str) -> None:
    assert Memory(f"{number}{unit}").bytes == number * Memory(f"1{unit}").bytes
