"""Durations on the command line, as Kubernetes writes them: `400ms`, `15s`, `1m30s`."""

from __future__ import annotations

import click

from rung.api.quantity import Duration


def parse_duration_seconds(text: str) -> float:
    """Return the seconds that a duration stands for. Raises ValueError that says what to write."""
    seconds = Duration(text.strip()).seconds
    if seconds <= 0:
        raise ValueError(f"{text!r} must be longer than 0s")
    return seconds


def duration_option(text: str) -> float:
    """Read a duration given as a click option; used as the option's `type`."""
    try:
        return parse_duration_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
