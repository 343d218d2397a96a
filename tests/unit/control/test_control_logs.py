"""The log: a JSON object a line, and few words about an API server that is away."""

from __future__ import annotations

import json
import logging

from rung.control.logs import REPEAT_SECONDS, FewRepeats, JsonFormatter


def _record(message: str, *arguments: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    return logging.getLogger("rung.test").makeRecord(
        "rung.test", level, "file.py", 1, message, arguments, None, extra=extra or None
    )


def test_a_line_is_one_json_object_with_what_was_added() -> None:
    line = JsonFormatter().format(_record("two\nlines of %s", "text", pool="n/edge", numbers={1}))
    assert "\n" not in line
    read = json.loads(line)
    assert read["message"] == "two\nlines of text"
    assert (read["level"], read["logger"], read["pool"], read["numbers"]) == ("INFO", "rung.test", "n/edge", "{1}")
    assert read["time"].endswith("+00:00")


def test_an_exception_is_in_the_line() -> None:
    try:
        int("wrong")
    except ValueError as error:
        record = _record("failed")
        record.exc_info = (ValueError, error, error.__traceback__)
    assert "ValueError: invalid literal" in json.loads(JsonFormatter().format(record))["exception"]


def test_attempts_are_told_once_in_half_a_minute_and_the_rest_is_left_alone() -> None:
    now = 0.0
    few = FewRepeats(lambda: now)
    long = "Request attempt #7 failed; will retry: GET https://x/apis -> " + "very " * 100 + "long"
    first = _record(long, level=logging.ERROR)
    assert few.filter(first)
    assert first.levelname == "WARNING"
    assert first.getMessage().endswith("long")
    assert len(first.getMessage()) < 350
    assert not few.filter(_record(long))
    assert few.filter(_record("anything else"))
    now = REPEAT_SECONDS
    assert few.filter(_record(long))
