"""Option types of the agent's command line: sizes and durations as Kubernetes users write them."""

from __future__ import annotations

import re
from typing import Any

import click

_SIZE = re.compile(r"([0-9]+)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_SIZE_UNITS = {
    None: 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Size(click.ParamType[int]):
    """A number of bytes: `2Gi`, `500Mi`, `1048576`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes of a size; click's error when it isn't one."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size: give bytes, or a number with Ki, Mi, Gi, Ti, k, M, G or T", param, ctx)
        return int(match[1]) * _SIZE_UNITS[match[2]]


class Duration(click.ParamType[float]):
    """A length of time: `500ms`, `10s`, `5m`; more than zero."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds of a duration; click's error when it isn't one."""
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(str(value).strip())
        seconds = float(match[1]) * _DURATION_UNITS[match[2]] if match else 0.0
        if seconds <= 0.0:
            self.fail(f"{value!r} is not a duration: give a number above zero with ms, s, m or h", param, ctx)
        return seconds


class Address(click.ParamType[tuple[str, int]]):
    """`HOST:PORT`."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Host and port; click's error when it isn't one."""
        if isinstance(value, tuple):
            return value
        host, separator, port = str(value).strip().rpartition(":")
        if not separator or not host or not port.isdigit() or int(port) > 65535:
            self.fail(f"{value!r} is not an address: give HOST:PORT", param, ctx)
        return host.strip("[]"), int(port)
