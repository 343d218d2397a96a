"""Experiment 2: three servers, each task on two of them, and what a balancer that knows the plan is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rung.core.decide import Settings
from rung.core.policies.frontier import Frontier
from rung.core.policies.stepwise import Stepwise
from rung_sim import figures
from rung_sim.experiments import setting
from rung_sim.experiments.colocation import against_stepwise, find, run_all
from rung_sim.experiments.page import Page, accuracy_of, late_of, points, summary
from rung_sim.experiments.setting import Entry
from rung_sim.outcome import Outcome
from rung_sim.simulation import Balancer, Choosing, Options
from rung_sim.world import SimulatedServer

THREE_SERVERS = tuple(SimulatedServer(f"edge-{place}", 1.0) for place in range(3))
ONE_SLOW = (*THREE_SERVERS[:2], SimulatedServer("edge-2", 0.5))
TWO_EACH = {"ants": ("edge-0", "edge-1"), "cifar10": ("edge-1", "edge-2"), "cifar100": ("edge-2", "edge-0")}
WORDS = {
    Balancer.EVEN: "by chance",
    Balancer.FEWEST: "fewest under way, weights",
    Balancer.COORDINATED: "and drained for loads",
}
THESIS = {"low": (97.09, 86.31, 85.86), "high": (86.79, 79.19, 67.89)}
"""Normalised accuracies of its three tasks, per cent (Buijnsters, section 5.5)."""


def _entries() -> list[Entry]:
    plain = [e for e in setting.entries() if e.label not in ("SlackFit", "Oracle", "Frontier")]
    found = [e for n, e in enumerate(plain) if n == find(plain, e.label)]
    for balancer, words in WORDS.items():
        options = Options(balancer=balancer)
        if balancer is not Balancer.EVEN:
            found.append(setting.fixed("Stepwise, balanced", words, Stepwise(), options=options))
        found.append(setting.fixed("Frontier", words, Frontier(), options=options))
        reflex = replace(options, choosing=Choosing.REFLEX)
        below = Settings(standby_below=2)
        found.append(setting.fixed("Frontier+reflex", words, Frontier(), settings=below, options=reflex))
    return found


def distributed(data: Path, seeds: Sequence[int], say: Callable[[str], None]) -> Page:
    """Experiment 2."""
    entries = _entries()
    tables, drawn, lines = [], {}, []
    for words, servers, scale, theirs in (
        ("low load (as on one server)", THREE_SERVERS, 1.0, "low"),
        ("high load (three times as much)", THREE_SERVERS, 3.0, "high"),
        ("high load, one server half as fast (2.5 times as much)", ONE_SLOW, 2.5, ""),
    ):
        world = setting.three_tasks(servers, TWO_EACH)
        found = run_all(entries, data, seeds, say, world=world, scale=scale)
        tables.append(summary(entries, found, f"**{words[0].upper()}{words[1:]}**"))
        drawn[f"distributed-{len(tables)}"] = figures.scatter(points(entries, found), f"Three servers, {words}")
        lines += [f"{words}: {line}" for line in against_stepwise(entries, found)]
        lines += [
            f"{words}, {entry.label}, {entry.setting}: {late_of(runs):.4%} late at {accuracy_of(runs):.2%}."
            for entry, runs in zip(entries, found, strict=True)
            if entry.label.startswith("Frontier")
        ]
        if theirs:
            lines.append(f"{words}: {_by_task(found[-1])}; the thesis' Stepwise had {_listed(THESIS[theirs])}.")
    return Page(
        title="Distributed: three servers behind a balancer",
        question=(
            "The thesis' research question 3 (section 5.5): three servers of one core, each task on two of them. The "
            "thesis measured 0.72 % late with Stepwise, requests spread evenly; the policies of others are shown so "
            "(InfAdapter: by its weights). Rung's balancer gives a request to the server with fewer of them, by the "
            "weights that the plan has, and none to a server that loads while the others have room for its part. One "
            "server at a time loads a version of a task."
        ),
        command="make experiment NAME=distributed",
        tables=tables, figures=drawn, findings=lines,
    )  # fmt: skip


def _by_task(runs: Sequence[Outcome]) -> str:
    means = {name: np.mean([run.normalized_accuracy_by_task[name] for run in runs]) for name in setting.TASKS}
    return "Frontier with everything, by task: " + ", ".join(f"{name} {mean:.2%}" for name, mean in means.items())


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f} %" for value in values)
