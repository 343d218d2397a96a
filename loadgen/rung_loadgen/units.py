"""Durations as people and Kubernetes write them."""

from __future__ import annotations

import math
import re

import click

_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration_seconds(text: str) -> float:
    """Return the seconds that `400ms`, `15s`, `2m` or `1h` stand for; raises ValueError that says what to write."""
    match = _PATTERN.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"{text[:40]!r} is no duration; write a number above 0 and its unit, as in 400ms, 15s or 5m")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a duration as Kubernetes writes it: whole milliseconds below ten seconds, else whole seconds."""
    if seconds < 10:
        return f"{max(1, round(seconds * 1000))}ms"
    return f"{round(seconds)}s"


def duration_option(text: str) -> float:
    """Read a duration given as a click option; used as the option's `type`."""
    try:
        return parse_duration_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
