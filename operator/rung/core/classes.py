"""Hardware classes that nobody profiled: until somebody does, the nearest class's profiles count there, with caution.

Nearest is the class whose measured servers had most nearly as many cores; of several, the one on which the version
costs most. An inference is taken to cost twice as much there: too careful at first costs accuracy, too bold makes
answers late. What it costs in truth, Frontier learns as it goes (`core.policies.learning`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf, isfinite, log

from rung.core.snapshot import Profile, Version

CAUTION = 2.0


def with_assumed_profiles(versions: tuple[Version, ...], classes: Mapping[str, float]) -> tuple[Version, ...]:
    """Return a task's versions with profiles for every class.

    A class for which any version of the task has a profile is left as it is: what was measured there counts alone.

    Args:
        versions: of one task.
        classes: the cores of a server, by hardware class.
    """
    profiled = {name for version in versions for name in version.profiles}
    missing = {name: cores for name, cores in classes.items() if name not in profiled}
    if not missing or not profiled:
        return versions
    return tuple(_completed(version, missing) for version in versions)


def _completed(version: Version, missing: Mapping[str, float]) -> Version:
    if not version.profiles:
        return version
    assumed = {name: _assumed(version.profiles, cores) for name, cores in missing.items()}
    return replace(version, profiles={**version.profiles, **assumed})


def _assumed(profiles: Mapping[str, Profile], cores: float) -> Profile:
    nearest = min(
        profiles, key=lambda name: (_distance(profiles[name], cores), profiles[name].max_throughput_rps, name)
    )
    profile = profiles[nearest]

    def dearer(value: float | None) -> float | None:
        return value * CAUTION if value is not None else None

    return replace(
        profile,
        max_throughput_rps=profile.max_throughput_rps / CAUTION,
        latency_p95_seconds=dearer(profile.latency_p95_seconds),
        cpu_seconds_per_inference=dearer(profile.cpu_seconds_per_inference),
        load_seconds=dearer(profile.load_seconds),
        assumed_from=nearest,
    )


def _distance(profile: Profile, cores: float) -> float:
    measured = profile.cpu_cores
    if measured is None or not (isfinite(measured) and measured > 0 and isfinite(cores) and cores > 0):
        return inf
    return abs(log(measured) - log(cores))
