"""The frontier of a task's versions, and the ladder that a policy climbs.

A version is on the frontier of a hardware class when no other version of the task beats it: has at least its accuracy
at no more cost, and is better in one of the two. Cost is a `Metric`; with the usual one, the inverse of the maximal
throughput, this is the Pareto frontier in (accuracy, maximal throughput).

Rules where the definition alone leaves a choice:

- Of two versions with the same accuracy and the same cost, the higher number (the later generation) stays.
- A version without a usable profile for the class can't be compared, so it is on the frontier only when *no* version of
  the task has one: then the ladder is the single most accurate version. A task that was never profiled anywhere is thus
  served, as well as it can be, and never stepped. (Of a class that was not, `core.classes` takes the nearest one's.)
- A version whose accuracy is not a number from 0 to 1 is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache

from rung.core.snapshot import TaskState, Version

SMALLEST_METRIC = 1e-12
LARGEST_METRIC = 1e12
REMEMBERED = 8192
"""Of so many tasks is kept what follows from their versions alone, which seldom change."""


class Metric(StrEnum):
    """What a version costs: lower is smaller."""

    INVERSE_THROUGHPUT = "InverseThroughput"  # seconds of the whole server for one inference
    LATENCY = "Latency"  # 95th percentile, seconds
    FLOPS = "Flops"  # floating-point operations of one inference


def metric_of(version: Version, hardware_class: str, metric: Metric = Metric.INVERSE_THROUGHPUT) -> float | None:
    """Return the version's cost on the class, or None when nobody measured it (or the value makes no sense)."""
    profile = version.profiles.get(hardware_class)
    value: float | None
    if metric is Metric.FLOPS:
        value = version.flops
    elif profile is None:
        value = None
    elif metric is Metric.LATENCY:
        value = profile.latency_p95_seconds
    else:
        throughput = profile.max_throughput_rps
        value = 1.0 / throughput if throughput > 0 else None
    # What is no number is within no bounds.
    return value if value is not None and SMALLEST_METRIC <= value <= LARGEST_METRIC else None


def ladder(
    versions: Iterable[Version], hardware_class: str, metric: Metric = Metric.INVERSE_THROUGHPUT
) -> tuple[Version, ...]:
    """Return the frontier as a ladder: rung 0 is the cheapest and least accurate version, the last rung the best.

    Cost and accuracy both rise strictly from rung to rung. Empty only when no version has a usable accuracy.
    """
    return _ladder(tuple(versions), hardware_class, metric)


@lru_cache(REMEMBERED)
def _ladder(versions: tuple[Version, ...], hardware_class: str, metric: Metric) -> tuple[Version, ...]:
    usable = {version.number: version for version in versions if is_accuracy(version.accuracy)}
    priced = sorted(
        (cost, -version.accuracy, -number)
        for number, version in usable.items()
        if (cost := metric_of(version, hardware_class, metric)) is not None
    )
    if not priced:
        return tuple(sorted(usable.values(), key=lambda version: (version.accuracy, version.number))[-1:])
    rungs: list[Version] = []
    best = -1.0
    for _, negative_accuracy, negative_number in priced:
        if -negative_accuracy > best:
            best = -negative_accuracy
            rungs.append(usable[-negative_number])
    return tuple(rungs)


def dominated_by(
    version: Version,
    versions: Iterable[Version],
    hardware_class: str,
    metric: Metric = Metric.INVERSE_THROUGHPUT,
) -> Version | None:
    """Return the most accurate frontier version that beats this one on the class, or None when none does.

    A version without a usable profile is never dominated: it was not compared.
    """
    cost = metric_of(version, hardware_class, metric)
    if cost is None:
        return None
    for rival in reversed(ladder(versions, hardware_class, metric)):
        rival_cost = metric_of(rival, hardware_class, metric)
        if rival.number == version.number or rival_cost is None:
            continue
        if rival.accuracy >= version.accuracy and rival_cost <= cost:
            return rival
    return None


def normalized_accuracy(version: Version, task: TaskState) -> float:
    """Return the accuracy divided by that of the task's best registered version, 0 to 1.

    The best version counts even where it may not be served: a floor or a missing file does not make the rest better.
    When the best accuracy is 0 every version is equally good: 1.
    """
    (normalized,) = normalized_accuracies((version,), task)
    return normalized


def normalized_accuracies(versions: Iterable[Version], task: TaskState) -> tuple[float, ...]:
    """Return the normalised accuracy of each of some versions of one task, whose best is looked up once."""
    best = best_accuracy(task)
    return tuple(version.accuracy / best if best > 0 else 1.0 for version in versions)


def best_accuracy(task: TaskState) -> float:
    """Return the accuracy of the task's best registered version; 0 when there is none."""
    return _best_accuracy(task.versions)


@lru_cache(REMEMBERED)
def _best_accuracy(versions: tuple[Version, ...]) -> float:
    return max((version.accuracy for version in versions if is_accuracy(version.accuracy)), default=0.0)


def is_accuracy(value: float) -> bool:
    """Tell whether a value can be an accuracy."""
    return 0 <= value <= 1
