"""Reads the demand of a task out of a Prometheus, second by second, as the simulator takes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite

from rung.adapters.prometheus import PrometheusLine

SECONDS_A_QUERY = 10_000
"""Prometheus answers with 11,000 points a series at most."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Requests of each second, oldest first; a second of which nothing is known is 0."""

    rates_rps: tuple[float, ...]
    missing_seconds: int


def record(
    line: PrometheusLine, namespace: str, model: str, end_seconds: int, seconds: int, window_seconds: int
) -> Recording:
    """Return how many requests of a model all servers of a namespace answered in each second.

    Args:
        line: the Prometheus.
        namespace: of the servers' pods.
        model: the task.
        end_seconds: the last second, since the epoch.
        seconds: how many.
        window_seconds: each rate is taken over so long; twice the scrape interval at least.

    Raises:
        rung.adapters.prometheus.MetricsUnavailable: when it can't be had.
    """
    labels = f"namespace={json.dumps(namespace)},model={json.dumps(model)}"
    # The agent passes on Triton's counters: where both are scraped, each must count once.
    success, failure = (
        f"sum(max by (pod, version, reason) (rate(nv_inference_request_{kind}{{{labels}}}[{window_seconds}s])))"
        for kind in ("success", "failure")
    )
    found: dict[int, float] = {}
    begin = end_seconds - seconds + 1
    for start in range(begin, end_seconds + 1, SECONDS_A_QUERY):
        until = min(end_seconds, start + SECONDS_A_QUERY - 1)
        query = f"({success} + ({failure} or vector(0)))[{until - start + 1}s:1s] @ {until}"
        for series in line.query(query):
            found |= {round(s.time_seconds): s.value for s in series.samples if isfinite(s.value)}
    rates = tuple(max(0.0, found.get(second, 0.0)) for second in range(begin, end_seconds + 1))
    return Recording(rates, sum(1 for second in range(begin, end_seconds + 1) if second not in found))
