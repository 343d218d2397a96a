"""The options of `rung-port profile`, each read strictly and refused in a sentence that says what to write."""

from __future__ import annotations

import math
import re

import click

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(:[1-9][0-9]{0,18})?")
_CLASS = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LARGEST_COUNT = 1024


def address_option(text: str) -> str:
    """Read HOST:PORT."""
    host, _, port = text.rpartition(":")
    if "://" in text or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise click.BadParameter(f"{text[:80]!r} is no gRPC address; write HOST:PORT, Triton's port is 8001 by default")
    return text


def class_option(text: str) -> str:
    """Read a hardware class: a value that a Kubernetes label may have."""
    if _CLASS.fullmatch(text) is None:
        raise click.BadParameter(f"{text[:80]!r} can't be a Kubernetes label; write for example rpi5 or jetson-orin")
    return text


def names_option(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """Read TASK[:VERSION],..."""
    if isinstance(text, tuple):
        return text
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise click.BadParameter(f"{name[:80]!r} is no TASK or TASK:VERSION, for example digits:1098820")
    return names


def cpu_option(text: str) -> float:
    """Read a number of cores."""
    try:
        cores = float(text)
    except ValueError:
        cores = math.nan
    if not 0 < cores <= 4096:
        raise click.BadParameter(f"{text[:40]!r} is no number of cores; write for example 2 or 0.5")
    return cores


def counts_option(text: str | tuple[int, ...]) -> tuple[int, ...]:
    """Read whole numbers of 1 and more, separated by commas."""
    if isinstance(text, tuple):
        return text
    try:
        counts = tuple(int(word) for word in text.split(","))
    except ValueError:
        counts = ()
    if not counts or not all(1 <= count <= LARGEST_COUNT for count in counts):
        raise click.BadParameter(f"{text[:40]!r}: whole numbers from 1 to {LARGEST_COUNT} by commas, for example 1,4")
    return counts


def shares_option(text: str | tuple[float, ...]) -> tuple[float, ...]:
    """Read shares above 0 and below 1, separated by commas."""
    if isinstance(text, tuple):
        return text
    try:
        shares = tuple(sorted({float(word) for word in text.split(",")}))
    except ValueError:
        shares = ()
    if not shares or not all(0 < share < 1 for share in shares) or len(shares) > 5:
        raise click.BadParameter(f"{text[:40]!r}: up to five shares between 0 and 1 by commas, for example 0.3,0.6")
    return shares


def shape_option(text: str) -> tuple[str, tuple[int, ...]]:
    """Read INPUT:SIZE,SIZE,..."""
    name, _, sizes = text.rpartition(":")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not name or not shape or not all(1 <= size <= 2**31 for size in shape):
        raise click.BadParameter(f"{text[:80]!r} is no shape; write INPUT:SIZE,SIZE,... for example image:3,224,224")
    return name, shape
