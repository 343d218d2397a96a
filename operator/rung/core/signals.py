"""From raw samples, as they were scraped, to the two signals that policies read: CPU utilisation and demand.

Rates are computed here, from samples with their times, and not by Prometheus: so each has a known age, and a restarted
operator has its whole window at once. Input is never trusted: counters reset, scrapes fail, times repeat, values are
not numbers, and the same server may be scraped by two jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from math import inf, isfinite

from rung.core.snapshot import Sample, ServerState, TaskState

LONGEST_GAP_SECONDS = 20.0
"""Nothing is said about the time between two samples that are further apart (cAdvisor is often scraped every 15 s)."""
SHORTEST_INTERVAL_SECONDS = 0.5
"""Samples closer than this are joined: over so short a time, the moment of the scrape decides the rate."""
HIGHEST_UTILIZATION = 2.0
"""A limit is enforced per period and scrapes jitter, so 1 is passed for a moment; beyond 2 it is a fault of measuring,
which must not outweigh ten honest samples in a mean."""
HIGHEST_DEMAND_RPS = 1e9


@dataclass(frozen=True, slots=True)
class RawSeries:
    """One time series as it was scraped: its labels and its samples, in any order."""

    labels: Mapping[str, str] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()


def utilization_samples(cpu_seconds: Sequence[RawSeries], capacity_cores: float) -> tuple[Sample, ...]:
    """Turn CPU-seconds counters of one server into utilisation, one sample a second, oldest first.

    The interval in which a counter was reset is left out, because what was used before the reset is not known. An
    interval of several seconds gives one sample for each second, all of the same value. Series that were scraped at
    the same moment are added (several containers). Empty when the capacity is not a positive number.
    """
    if not (isfinite(capacity_cores) and capacity_cores > 0):
        return ()
    intervals: dict[tuple[float, float], float] = {}
    for series in one_target(cpu_seconds):
        last: Sample | None = None
        for sample in _clean(series.samples):
            if last is not None and sample.time_seconds - last.time_seconds < SHORTEST_INTERVAL_SECONDS:
                continue
            if last is not None and sample.value >= last.value:
                key = (last.time_seconds, sample.time_seconds)
                intervals[key] = intervals.get(key, 0.0) + sample.value - last.value
            last = sample
    rates: list[tuple[float, float, float]] = []
    for (start, end), used in sorted(intervals.items(), key=lambda item: (item[0][1], item[0])):
        # Series with times of their own (a container that ended and its successor) must not speak of one second twice.
        if not rates or start >= rates[-1][1]:
            rates.append((start, end, min(used / (end - start) / capacity_cores, HIGHEST_UTILIZATION)))
    return _one_a_second(rates)


def demand_samples(
    success: Sequence[RawSeries], failure: Sequence[RawSeries], pending: Sequence[RawSeries]
) -> dict[str, tuple[Sample, ...]]:
    """Turn all of one server's request counters into arrivals per second by model, one sample a second, oldest first.

    Arrivals = completions (success and failure) + change of pending. Each series is one version of a model (label
    `model`; `version` and others tell series apart), and versions come and go as Rung loads them:

    - A series that appears counts from 0 only if the server was scraped just before; at the first scrape that is known
      it is where counting begins.
    - A series that was gone for a scrape and is back was unloaded and loaded again: it counts from 0 too.
    - A series that vanishes takes its pending requests with it: they were answered, unseen, before it was unloaded.
    - A counter that fell was reset: its value is what was counted since.
    - A model without any series at a scrape has no sample: nobody could have counted what clients asked of it.
    """
    target = _newest_target((*success, *failure, *pending))
    tracked = [
        _Tracked(series, counter)
        for group, counter in ((success, True), (failure, True), (pending, False))
        for series in group
        if _target(series) == target and series.labels.get("model")
    ]
    scrapes = _scrapes({time for series in tracked for time in series.values})
    rates: dict[str, list[tuple[float, float, float]]] = {}
    for start, end in pairwise(scrapes):
        arrivals: dict[str, float] = {}
        for series in tracked:
            change = series.change(start, end)
            if change is not None:
                arrivals[series.model] = arrivals.get(series.model, 0.0) + change
        for model, count in arrivals.items():
            rate = min(max(count, 0.0) / (end - start), HIGHEST_DEMAND_RPS)
            rates.setdefault(model, []).append((start, end, rate))
    return {model: _one_a_second(values) for model, values in sorted(rates.items())}


def pending_samples(pending: Sequence[RawSeries]) -> dict[str, tuple[Sample, ...]]:
    """Return how many requests of each model waited at one server at each scrape, oldest first: all versions together.

    Values that are no counts are left out; so is a version while it has no series.
    """
    waiting: dict[str, dict[float, float]] = {}
    for series in one_target(pending):
        model = series.labels.get("model", "")
        for sample in _clean(series.samples) if model else ():
            if sample.value >= 0:
                counts = waiting.setdefault(model, {})
                counts[sample.time_seconds] = counts.get(sample.time_seconds, 0.0) + sample.value
    return {
        model: tuple(Sample(time, min(counts[time], HIGHEST_DEMAND_RPS)) for time in sorted(counts))
        for model, counts in sorted(waiting.items())
    }


def one_target(series: Sequence[RawSeries]) -> list[RawSeries]:
    """Keep the series of one scrape target: a server that two jobs scrape must not count double.

    The target (labels `job` and `instance`) with the newest sample stays; of equal ones the first by name.
    """
    target = _newest_target(series)
    return [one for one in series if _target(one) == target]


def age_seconds(samples: Iterable[Sample], now_seconds: float) -> float | None:
    """Return how old the newest finite sample is (0 when its clock is ahead of ours), or None when there is none."""
    times = [s.time_seconds for s in samples if isfinite(s.time_seconds) and isfinite(s.value)]
    return max(0.0, now_seconds - max(times)) if times else None


def is_fresh(samples: Sequence[Sample], now_seconds: float, max_age_seconds: float) -> bool:
    """Tell whether a finite sample is not older than that. Quick where the newest is the last."""
    oldest = now_seconds - max_age_seconds
    return any(isfinite(s.value) and isfinite(s.time_seconds) and s.time_seconds >= oldest for s in reversed(samples))


def recent_values(samples: Sequence[Sample], now_seconds: float, window_seconds: float) -> list[float]:
    """Return the finite values of the last `window_seconds`, of samples that are in order of time.

    A sample from a clock slightly ahead of ours counts.
    """
    after = now_seconds - window_seconds
    recent = takewhile(lambda s: not s.time_seconds <= after, reversed(samples))
    return [s.value for s in recent if isfinite(s.time_seconds) and isfinite(s.value)][::-1]


def rates(samples: Sequence[Sample]) -> list[float]:
    """Return the values that can be rates or counts; none is higher than `HIGHEST_DEMAND_RPS`."""
    values = [value for s in samples if 0.0 <= (value := s.value) < inf]
    return (
        [min(value, HIGHEST_DEMAND_RPS) for value in values] if values and max(values) > HIGHEST_DEMAND_RPS else values
    )


def demand_rps(
    task: TaskState, server: ServerState, sharing_servers: int, now_seconds: float, window_seconds: float
) -> float | None:
    """Return the demand of a task at a server: what its owner declared, shared evenly, else the mean of the window.

    None when neither is known. Never negative.
    """
    declared = task.declared_demand_rps
    if declared is not None and isfinite(declared) and declared >= 0:
        return min(declared, HIGHEST_DEMAND_RPS) / max(1, sharing_servers)
    values = recent_values(server.demand.get(task.name, ()), now_seconds, window_seconds)
    if not values:
        return None
    return min(max(0.0, sum(min(value, HIGHEST_DEMAND_RPS) for value in values) / len(values)), HIGHEST_DEMAND_RPS)


class _Tracked:
    """One series by scrape time, with the rules of what a change between two scrapes means."""

    def __init__(self, series: RawSeries, counter: bool) -> None:
        self.model = series.labels.get("model", "")
        self.counter = counter
        self.values: dict[float, float] = {}
        self.unknown_start = False
        """True when the first values were no numbers: then the first good one says nothing about an increase."""
        for sample in sorted(series.samples, key=lambda s: s.time_seconds if isfinite(s.time_seconds) else 0.0):
            if not isfinite(sample.time_seconds):
                continue
            value = sample.value
            if not isfinite(value) or value < 0:
                # The series was there, its value is not known: it stays where it was until the next good value.
                if not self.values:
                    self.unknown_start = True
                    continue
                value = self.values[max(self.values)]
            self.values[sample.time_seconds] = value
        self.first = min(self.values, default=None)

    def change(self, start: float, end: float) -> float | None:
        """Return what a scrape added to the one before it, or None when the series was not in it."""
        now = self.values.get(end)
        if now is None:
            return None
        before = self.values.get(start)
        if before is None:
            return 0.0 if self.unknown_start and end == self.first else now
        if self.counter and now < before:
            return now
        return now - before


def _target(series: RawSeries) -> tuple[str, str]:
    return series.labels.get("job", ""), series.labels.get("instance", "")


def _newest_target(series: Iterable[RawSeries]) -> tuple[str, str] | None:
    by_target: dict[tuple[str, str], list[RawSeries]] = {}
    for one in series:
        by_target.setdefault(_target(one), []).append(one)
    if len(by_target) < 2:
        return next(iter(by_target), None)
    newest: dict[tuple[str, str], float] = {}
    for target, one in ((target, one) for target, found in by_target.items() for one in found):
        times = (sample.time_seconds for sample in one.samples if isfinite(sample.time_seconds))
        newest[target] = max(newest.get(target, float("-inf")), max(times, default=float("-inf")))
    return min(newest, key=lambda target: (-newest[target], target), default=None)


def _clean(samples: Iterable[Sample]) -> list[Sample]:
    """Return finite samples in order of time; of several with one time, the last."""
    by_time = {s.time_seconds: s for s in samples if isfinite(s.time_seconds) and isfinite(s.value)}
    return [by_time[time] for time in sorted(by_time)]


def _scrapes(times: set[float]) -> list[float]:
    """Return scrape times in order, without those that follow the one before too closely."""
    kept: list[float] = []
    for time in sorted(times):
        if not kept or time - kept[-1] >= SHORTEST_INTERVAL_SECONDS:
            kept.append(time)
    return kept


def _one_a_second(intervals: Sequence[tuple[float, float, float]]) -> tuple[Sample, ...]:
    """Spread (start, end, rate) evenly: as many samples as the interval has seconds, the last one at its end."""
    samples: list[Sample] = []
    for start, end, rate in intervals:
        length = end - start
        if length > LONGEST_GAP_SECONDS:
            continue
        count = max(1, round(length))
        samples.extend(Sample(start + length * (k + 1) / count, rate) for k in range(count))
    return tuple(samples)
