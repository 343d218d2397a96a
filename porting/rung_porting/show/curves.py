"""Latency over load, as profile files may hold it under `curve`, beside the API's fields. Pure.

Whoever measured may have left it out, and files in a bucket are anybody's: what can't be read is no curve, never an
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from rung.api.base import Count, Model, Positive, Share

MOST_POINTS = 256
Seconds = Annotated[Positive, Field(ge=1e-9, le=1e6)]


class CurvePoint(Model):
    """Latency under one load, an open loop of Poisson arrivals."""

    rate: Annotated[Positive, Field(ge=1e-6, le=1e12)]
    """Inferences asked for per second."""
    p50_seconds: Seconds
    p95_seconds: Seconds
    p99_seconds: Seconds
    late_share: Share | None = None
    """Share of the requests answered after the service level, or not at all."""
    requests: Count | None = None
    """How many requests this is of."""

    @model_validator(mode="after")
    def _in_order(self) -> CurvePoint:
        if not self.p50_seconds <= self.p95_seconds <= self.p99_seconds:
            raise ValueError("p50, p95 and p99 must not fall")
        return self


class Interval(Model):
    """Where the true number lies."""

    low: Positive
    high: Positive


def read_curve(document: Mapping[str, Any]) -> tuple[CurvePoint, ...]:
    """Return the curve in the document of a profile, by rate; empty where there is none of two points or more.

    Points that can't be read are left out: each is a measurement of its own.
    """
    found = document.get("curve")
    points: dict[float, CurvePoint] = {}
    for each in found[:MOST_POINTS] if isinstance(found, list) else ():
        try:
            point = CurvePoint.model_validate(each)
        except (ValidationError, RecursionError):
            continue
        points[point.rate] = point
    return tuple(points[rate] for rate in sorted(points)) if len(points) > 1 else ()


def read_interval(document: Mapping[str, Any], throughput_rps: float) -> tuple[float, float] | None:
    """Return the interval around the maximal throughput, in inferences per second, where there is one around it."""
    try:
        found = Interval.model_validate(document.get("throughputInterval"))
    except (ValidationError, RecursionError):
        return None
    return (found.low, found.high) if found.low <= throughput_rps <= found.high else None
