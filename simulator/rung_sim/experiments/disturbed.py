"""Experiment 5: profiles that are wrong, and a neighbour that takes a part of the CPU for a minute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rung.core.policies.frontier import Frontier
from rung.core.policies.frontier_parameters import FrontierParameters
from rung_sim import figures
from rung_sim.engine import Floats
from rung_sim.experiments import setting
from rung_sim.experiments.page import Page, Table, summary
from rung_sim.experiments.setting import Entry, Job
from rung_sim.faults import Fault, FaultKind

FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)
BEGIN_SECONDS, MINUTE_SECONDS = 600, 60
NEIGHBOURS_CORES = (0.3, 0.6)
BIN_SECONDS = 10
WINDOW_SECONDS = 240
RECOVERED = 0.01
"""A service has recovered when no later ten seconds of the window have more late answers than this."""


def _entries() -> list[Entry]:
    first = setting.entries()
    names = ("Stepwise", "ModelSwitching", "Proteus", "Frontier")
    found = [next(each for each in first if each.label == name) for name in names]
    found.append(setting.fixed("Frontier, not calibrated", "", Frontier(FrontierParameters(calibrate=False))))
    found.append(setting.fixed("Frontier, by its limit", "", Frontier(FrontierParameters(see_cores=False))))
    found.append(setting.with_reflex(found[3], 2))
    return found


def wrong_profiles(data: Path, seeds: Sequence[int], say: Callable[[str], None]) -> Page:
    """Experiment 5."""
    day = setting.trace(setting.need(data, setting.TWITTER_DAY))
    world, entries = setting.three_tasks(), _entries()
    tables: list[Table] = []
    drawn: dict[str, list[tuple[float, float]]] = {entry.label: [] for entry in entries}
    for factor in FACTORS:
        jobs = [
            Job(entry, world, setting.thesis_demand(day, seed),
                replace(entry.options, seed=seed, warm_up_seconds=setting.WARM_UP_SECONDS, cost_factor=factor))
            for entry in entries for seed in seeds
        ]  # fmt: skip
        found = setting.outcomes(jobs, say)
        by_entry = [found[n * len(seeds) : (n + 1) * len(seeds)] for n in range(len(entries))]
        tables.append(summary(entries, by_entry, f"**An inference costs {factor:g} times what its profile says**"))
        for entry, runs in zip(entries, by_entry, strict=True):
            late = float(np.mean([each.late_share for each in runs]))
            drawn[entry.label].append((late, float(np.mean([each.normalized_accuracy for each in runs]))))
    columns = ["policy", "late in its minute, %", "late in the minute after, %", "recovered after, s"]
    for cores in NEIGHBOURS_CORES:
        rows, shares = _neighbour(entries, data, seeds, cores)
        tables.append(Table(columns, rows, f"**A neighbour takes {cores:g} of the core from second 600 to 660**"))
    return Page(
        title="Wrong profiles, and a noisy neighbour",
        question=(
            "Every policy trusts what was measured offline. What if it is wrong by a half to twice, or another program "
            "takes 30 or 60 % of the core for a minute? The setting of the co-location experiment. "
            f"Recovered: from then on less than {RECOVERED:.0%} late in every ten seconds, counted from when the "
            "neighbour came, over all seeds together."
        ),
        command="make experiment NAME=disturbed",
        tables=tables,
        figures={
            "disturbed": figures.scatter(drawn, "Costs 0.5, 0.75, 1, 1.5 and 2 times the profile's"),
            "neighbour": figures.shares_over_time(
                shares, BIN_SECONDS, "Late answers while a neighbour takes 0.6 of the core"
            ),
        },
    )


def _neighbour(
    entries: Sequence[Entry], data: Path, seeds: Sequence[int], cores: float
) -> tuple[list[list[str]], dict[str, Floats]]:
    """Return the table's rows, and the late share by ten seconds from a minute before the neighbour on."""
    neighbour = Fault(FaultKind.NEIGHBOUR, begin_seconds=BEGIN_SECONDS, seconds=MINUTE_SECONDS, cores=cores)
    day = setting.trace(setting.need(data, setting.TWITTER_DAY))
    world = setting.three_tasks()
    (slo_seconds,) = {task.state.slo_latency_seconds for task in world.tasks}
    begin = BEGIN_SECONDS
    bins = (60 + WINDOW_SECONDS) // BIN_SECONDS
    rows, shares = [], {}
    for entry in entries:
        late, all_of = np.zeros(bins), np.zeros(bins)
        for seed in seeds:
            rates = {name: each[: begin + WINDOW_SECONDS] for name, each in setting.thesis_demand(day, seed).items()}
            options = replace(entry.options, seed=seed, faults=(neighbour,))
            run, _ = setting.simulate(Job(entry, world, rates, options))
            place = ((run.arrival_seconds - (begin - 60)) // BIN_SECONDS).astype(int)
            seen = (place >= 0) & (place < bins)
            all_of += np.bincount(place[seen], minlength=bins)[:bins]
            late += np.bincount(place[seen & (run.latency_seconds > slo_seconds)], minlength=bins)[:bins]
        share = late / np.maximum(all_of, 1)
        shares[entry.label] = share
        minute, after = slice(6, 12), slice(12, 18)
        bad = np.flatnonzero(share[6:] > RECOVERED)
        recovered = "at once" if bad.size == 0 else f"{(bad[-1] + 1) * BIN_SECONDS}"
        if bad.size and bad[-1] == bins - 7:
            recovered = f"more than {WINDOW_SECONDS}"
        rows.append(
            [
                entry.label, f"{100 * late[minute].sum() / all_of[minute].sum():.2f}",
                f"{100 * late[after].sum() / all_of[after].sum():.2f}", recovered,
            ]
        )  # fmt: skip
    return rows, shares
