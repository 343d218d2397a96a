from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.core.repository_layout import (
    FileKind,
    card_key,
    config_key,
    is_task_name,
    model_key,
    newest_profiles,
    parse_key,
    parse_repository_uri,
    parse_version_number,
    profile_key,
    version_key,
    version_number,
)

TASKS = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
NUMBERS = st.integers(1, 2**63 - 1)
CLASSES = st.from_regex(r"\A[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(
    lambda time: time.replace(microsecond=0, tzinfo=UTC)
)


@given(TASKS, NUMBERS, CLASSES, TIMES)
def test_every_key_is_read_back_as_it_was_written(task: str, number: int, hardware_class: str, time: datetime) -> None:
    for key, kind in ((model_key(task, number), FileKind.MODEL), (version_key(task, number), FileKind.VERSION)):
        parsed = parse_key(key)
        assert parsed is not None
        assert (parsed.kind, parsed.task, parsed.number) == (kind, task, number)
    card = parse_key(card_key(task, number))
    assert card is not None
    assert (card.kind, card.number, card.hardware_class) == (FileKind.CARD, number, None)
    config = parse_key(config_key(task))
    assert config is not None
    assert (config.kind, config.task, config.number) == (FileKind.CONFIG, task, None)
    profile = parse_key(profile_key(task, number, hardware_class, time))
    assert profile is not None
    assert (profile.kind, profile.number, profile.hardware_class) == (FileKind.PROFILE, number, hardware_class)
    assert profile.profiled_at == time


@given(st.text(alphabet="ab1/.-_% ~\\\n\0é:T0Z", max_size=40))
def test_no_key_that_is_read_leads_out_of_its_folder(key: str) -> None:
    parsed = parse_key(key)
    if parsed is not None:
        assert is_task_name(parsed.task)
        assert parsed.number is None or parsed.number >= 1
        assert ".." not in key.split("/")


@pytest.mark.parametrize(
    "key",
    [
        "", "/", "digits", "digits/", "/digits/1/model.onnx", "digits//1/model.onnx", "../digits/1/model.onnx",
        "digits/../x/1/model.onnx", "digits/0/model.onnx", "digits/01/model.onnx", "digits/+1/model.onnx",
        "digits/1/model.onnx/x", "digits/1/../2/model.onnx", "digits/1/other", "digits/1/readme.md", "digits/README.md",
        "Digits/1/model.onnx",
        "a_b/config.pbtxt", f"{'a' * 64}/config.pbtxt", "-a/config.pbtxt", "digits/9223372036854775808/model.onnx",
        "digits/1/profiles/rpi5.yaml", "digits/1/profiles/rpi5-20261340T000000Z.yaml",
        "digits/1/profiles/a/b-20260101T000000Z.yaml",
        "digits/\u0661/model.onnx", "digits/1/model.onnx\n",
    ],
)  # fmt: skip
def test_what_is_not_of_the_layout_is_nobody(key: str) -> None:
    assert parse_key(key) is None


def test_version_numbers_rise_with_accuracy_and_with_the_generation() -> None:
    assert version_number(1, 0.9882) == 1_098_820
    assert version_number(1, 0.9882, taken={1_098_820, 1_098_821}) == 1_098_822
    assert version_number(2, 0.0) == 2_000_000
    assert version_number(1, 1.0) == 1_100_000
    for generation, accuracy in ((0, 0.5), (1, 1.01), (1, -0.1), (1, float("nan"))):
        with pytest.raises(ValueError, match="accuracy"):
            version_number(generation, accuracy)


def test_a_version_number_is_a_plain_positive_integer_that_triton_can_hold() -> None:
    assert parse_version_number("1098820") == 1_098_820
    assert parse_version_number(str(2**63 - 1)) == 2**63 - 1
    for text in ("0", "-1", "1.0", "1e3", " 1", "", "latest", str(2**63), "1" * 5000):
        assert parse_version_number(text) is None


def test_the_newest_profile_of_each_class_counts() -> None:
    new, old = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 4, 30, tzinfo=UTC)
    keys = [profile_key("digits", 1, "jetson-orin", time) for time in (new, old)]
    keys += [profile_key("digits", 1, "rpi5", old), "digits/1/model.onnx", "digits/1/profiles/junk"]
    assert newest_profiles(keys) == {"jetson-orin": keys[0], "rpi5": keys[2]}


def test_the_time_of_a_profile_is_written_in_utc() -> None:
    time = datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert profile_key("digits", 1, "rpi5", time) == "digits/1/profiles/rpi5-20251231T230000Z.yaml"
    with pytest.raises(ValueError, match="time zone"):
        profile_key("digits", 1, "rpi5", datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="label value"):
        profile_key("digits", 1, "../rpi5", time)


def test_names_that_could_lead_out_are_refused_when_written() -> None:
    for task in ("..", "a/b", "", "A"):
        with pytest.raises(ValueError, match="DNS label"):
            model_key(task, 1)
    with pytest.raises(ValueError, match="version number"):
        model_key("digits", 0)


def test_repository_uris() -> None:
    uri = parse_repository_uri("s3://models/a/b/")
    assert (uri.bucket, uri.prefix, str(uri)) == ("models", "a/b", "s3://models/a/b")
    assert uri.uri_of("digits/1/model.onnx") == "s3://models/a/b/digits/1/model.onnx"
    assert str(parse_repository_uri("s3://models")) == "s3://models"
