"""What the command prints: a line of JSON for each version on stdout, and one for people on stderr."""

from __future__ import annotations

import json
from typing import Any

import click

from rung_porting.profiler.document import ProfileDocument
from rung_porting.profiler.measure import Measured
from rung_porting.profiler.search import QUICK
from rung_porting.profiler.versions import ProfiledVersion

DISTURBED_SHARE = 0.1
"""Neighbours that use more than this of the cores are worth a word."""


def say(line: str) -> None:
    """Tell people one line."""
    click.echo(line, err=True)


def tell_version(done: ProfiledVersion, position: str) -> None:
    """Print one version of a repository. `position` is as in 2/7."""
    line = {"kind": "profile", "task": done.task, "version": done.number, "seconds": round(done.seconds, 2)}
    _print(line, done.profile, done.measured)
    loaded = f", loaded in {done.profile.load_time}" if done.profile.load_time else ""
    say(f"{done.task} {done.number} ({position}): {_summary(done.profile)}{loaded}, took {done.seconds:.1f} s")
    for failed in done.profile.failed_configurations:
        say(f"  no number with {failed}")
    for each in done.profile.configurations:
        say(f"  batch size {each.batch_size}, instances {each.instances}: {each.max_throughput:.1f} inferences/s")
    if done.note:
        say(f"  {done.note}")
    _warn(done.profile)


def tell_served(profile: ProfileDocument, measured: Measured) -> None:
    """Print one model that is served, with its curve."""
    _print({"kind": "profile", "task": profile.model, "version": profile.version}, profile, measured)
    say(f"{profile.model} {profile.version}: {_summary(profile)}")
    say(f"  {'inferences/s':>12} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'late':>7}")
    for point in profile.curve:
        milliseconds = (each * 1e3 for each in (point.p50_seconds, point.p95_seconds, point.p99_seconds))
        say(f"  {point.rate:12.1f} " + " ".join(f"{each:8.1f}" for each in milliseconds) + f" {point.late_share:7.1%}")
    _warn(profile)


def _print(line: dict[str, Any], profile: ProfileDocument, measured: Measured) -> None:
    line |= {
        "saturation_rps": round(measured.saturation_rps, 2),
        "client_cpu_share": round(measured.client_cpu_share, 3),
        "client_lateness_p99_milliseconds": round(measured.client_lateness_p99_seconds * 1e3, 2),
        "probes": [[round(rate, 2), kept] for rate, kept in measured.probes],
        "profile": profile.to_json(),
    }
    click.echo(json.dumps(line, separators=(",", ":")))


def _summary(profile: ProfileDocument) -> str:
    interval, latency = profile.throughput_interval, profile.latency
    assert interval is not None
    assert latency is not None
    cost = profile.cpu_seconds_per_inference
    return (
        f"{profile.max_throughput:.1f} inferences/s ({interval.low:.1f} to {interval.high:.1f}) within "
        f"{profile.slo_latency}, p95 {latency.p95} at {QUICK.moderate_share:.0%} of it"
        + (f", {cost * 1e3:.2f} ms CPU each" if cost else "")
    )


def disturbance(profile: ProfileDocument) -> str:
    """Say what neighbours took while a version was measured; empty where that was too little to matter."""
    machine = profile.machine
    if machine is None or machine.neighbour_cores is None:
        return ""
    if (
        machine.neighbour_cores > DISTURBED_SHARE * machine.cores
        and machine.idle_cores < DISTURBED_SHARE * machine.cores
    ):
        return f"others used {machine.neighbour_cores:.2f} of {machine.cores} cores and none was idle"
    return ""


def _warn(profile: ProfileDocument) -> None:
    disturbed = disturbance(profile)
    if disturbed:
        say(f"  disturbed: {disturbed}; measure again when the machine is quiet")
