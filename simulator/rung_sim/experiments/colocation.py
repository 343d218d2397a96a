"""Experiments 1, 4, 6 and 7: the three tasks of the thesis under every policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rung.core.decide import Settings
from rung.core.forecast import Trend
from rung.core.policies.frontier import Frontier
from rung.core.policies.frontier_parameters import FrontierParameters
from rung.core.policies.stepwise import Stepwise
from rung_sim import figures
from rung_sim.contenders import ALL_RUNGS
from rung_sim.experiments import setting
from rung_sim.experiments.page import Page, accuracy_of, late_of, points, summary
from rung_sim.experiments.setting import Entry, Job
from rung_sim.outcome import Outcome
from rung_sim.simulation import Options
from rung_sim.world import World

Say = Callable[[str], None]
RELAXED = Frontier(FrontierParameters(late_share=0.5, strictness=1.0))
"""Where the reflex is, Frontier plans as if half of the answers might be late. This is that plan without a reflex."""
CAREFUL = Frontier(FrontierParameters(reflex_late_share=0.001))
"""And this the plan of who has no reflex, with one."""


def run_all(
    entries: Sequence[Entry], data: Path, seeds: Sequence[int], say: Say, *, world: World | None = None,
    scale: float = 1.0, more: Options | None = None,
) -> list[list[Outcome]]:  # fmt: skip
    """Return the outcomes of each entry, one for each seed; every entry gets the same demand.

    Args:
        entries: who is compared.
        data: folder of the traces.
        seeds: of the runs.
        say: is told how far it is.
        world: one server with the three tasks unless given.
        scale: of the demand.
        more: whose cost factor and faults count for all.

    Raises:
        NoDataError: without the traces.
    """
    day = setting.trace(setting.need(data, setting.TWITTER_DAY))
    world = world or setting.three_tasks()
    jobs = []
    for entry in entries:
        for seed in seeds:
            options = replace(entry.options, seed=seed, warm_up_seconds=setting.WARM_UP_SECONDS)
            if more is not None:
                options = replace(options, cost_factor=more.cost_factor, faults=more.faults)
            jobs.append(Job(entry, world, setting.thesis_demand(day, seed, scale=scale), options))
    found = setting.outcomes(jobs, say)
    return [found[place * len(seeds) : (place + 1) * len(seeds)] for place in range(len(entries))]


def _reflex_entries() -> list[Entry]:
    stepwise = next(each for each in setting.entries() if each.label == "Stepwise")
    frontier = setting.fixed("Frontier", "50 % late planned", Frontier())
    return [setting.with_reflex(stepwise, 2), setting.with_reflex(frontier, 2)]


def find(entries: Sequence[Entry], label: str) -> int:
    """Return the place of the first entry of a label. Raises StopIteration without any."""
    return next(n for n, e in enumerate(entries) if e.label == label)


def against_stepwise(entries: Sequence[Entry], found: Sequence[Sequence[Outcome]]) -> list[str]:
    """Return what Frontier is worth against Stepwise, without the reflex and with it, in a sentence each."""
    stepwise = found[find(entries, "Stepwise")]
    lines = []
    for label in ("Frontier", "Frontier+reflex"):
        try:
            mine = found[find(entries, label)]
        except StopIteration:
            continue
        fewer = late_of(stepwise) / max(late_of(mine), 1e-12)
        words = f"one {fewer:,.0f}th of Stepwise's {late_of(stepwise):.3%}" if late_of(mine) > 0 else "none"
        lines.append(
            f"{label}: {late_of(mine):.4%} late ({words}), "
            f"{100 * (accuracy_of(mine) - accuracy_of(stepwise)):+.2f} points of normalised accuracy against "
            f"Stepwise's {accuracy_of(stepwise):.2%}."
        )
    return lines


def one_server(data: Path, seeds: Sequence[int], say: Say) -> Page:
    """Experiment 1."""
    entries = [*setting.entries(), *_reflex_entries()]
    found = run_all(entries, data, seeds, say)
    by_task = found[find(entries, "Stepwise")]
    tasks = ", ".join(
        f"{name} {np.mean([each.normalized_accuracy_by_task[name] for each in by_task]):.2%}" for name in setting.TASKS
    )
    return Page(
        title="Co-location: three tasks on one core",
        question=(
            "The thesis' research question 2 (Buijnsters, section 5.4.2): three tasks share a server of one core, each "
            "answer is due in 0.4 s, demand is a part of a Twitter trace with eight random waves on top. Every policy "
            f"gets the same requests: {len(seeds)} seeds of {setting.SECONDS - setting.WARM_UP_SECONDS} s; ± is the "
            "95 % confidence interval. One standby below is kept loaded for every policy (the thesis had none)."
        ),
        command="make experiment NAME=colocation",
        tables=[summary(entries, found)],
        figures={"colocation": figures.scatter(points(entries, found), "One server, three tasks")},
        findings=[
            *against_stepwise(entries, found),
            f"Stepwise by task: {tasks}. The thesis measured 0.66 % late at 57.5 % CPU with 85.96, 78.91 and 67.56 % "
            "on its own networks and ten minutes of demand.",
            "The Oracle knows the rate of every second and swaps for free, but not when the requests of a second come; "
            "SlackFit has every version loaded at no cost.",
        ],
    )


def whole_day(data: Path, seeds: Sequence[int], say: Say) -> Page:
    """Experiment 4."""
    day = setting.trace(setting.need(data, setting.TWITTER_DAY))
    world = setting.three_tasks()
    # The same day for each task, some hours apart, so that calm and storm meet.
    rates = {
        task: np.roll(day, 2 * 3600 * place) * (setting.MEAN_RPS[task] / day.mean())
        for place, task in enumerate(setting.TASKS)
    }
    first = setting.entries()
    chosen = [e for n, e in enumerate(first) if n == find(first, e.label) and e.label not in ("SlackFit", "Oracle")]
    jobs = [Job(entry, world, rates, replace(entry.options, seed=seeds[0], warm_up_seconds=60)) for entry in chosen]
    found = [[each] for each in setting.outcomes(jobs, say)]
    return Page(
        title="A whole day",
        question=(
            "86,400 s of the Twitter trace as they were, scaled to the tasks' means, the tasks two hours apart: "
            f"{found[0][0].requests:,} requests, one run."
        ),
        command="make experiment NAME=day",
        tables=[summary(chosen, found)],
        figures={"day": figures.scatter(points(chosen, found), "One day, three tasks, one server")},
        findings=against_stepwise(chosen, found),
    )


def reflex(data: Path, seeds: Sequence[int], say: Say) -> Page:
    """Experiment 6."""
    first = setting.entries()
    plain = [
        first[find(first, label)] for label in ("Best", "Cheapest", "ModelSwitching", "Stepwise", "Proteus", "Frontier")
    ]
    below = (1, 2, ALL_RUNGS)
    entries: list[Entry] = []
    for each in plain:
        entries += [each, *(setting.with_reflex(each, standby) for standby in below)]
    entries.append(setting.fixed("Frontier, relaxed", "50 % late", RELAXED))
    careful = setting.fixed("Frontier, careful", "0.1 % late", CAREFUL)
    entries += [setting.with_reflex(careful, standby) for standby in below]
    found = run_all(entries, data, seeds, say)
    return Page(
        title="Reflex: choosing for each request below the allocation",
        question=(
            "The policy decides once a second; a burst is faster. With the reflex each request is answered, when its "
            "turn comes, by the allocated version if everything that waits can still be in time behind it, else by a "
            "loaded rung below (`rung.core.reflex`). How many rungs have to be loaded for it to pay?"
        ),
        command="make experiment NAME=reflex",
        tables=[summary(entries, found)],
        figures={"reflex": figures.scatter(points(entries, found), "With the reflex and without")},
        findings=[
            f"{entry.label}, {entry.setting or 'no reflex'}: {late_of(runs):.4%} late at {accuracy_of(runs):.2%}."
            for entry, runs in zip(entries, found, strict=True)
            if entry.label.startswith(("Stepwise", "Frontier"))
        ],
    )


def ablations(data: Path, seeds: Sequence[int], say: Say) -> Page:
    """Experiment 7."""

    def frontier(label: str, parameters: FrontierParameters, settings: Settings | None = None) -> Entry:
        return setting.fixed("Frontier", label, Frontier(parameters), settings=settings or Settings())

    blind = Trend(damping=0.0, deviations=0.0, horizon_seconds=1)
    entries = [
        frontier("as it is", FrontierParameters()),
        frontier("without standby", FrontierParameters(), Settings(standby_below=0)),
        frontier("without calibration", FrontierParameters(calibrate=False)),
        frontier("without forecast (the mean of the last seconds)", FrontierParameters(forecast=blind)),
        frontier("without memory of the last half minute", FrontierParameters(remember_seconds=8.0)),
        frontier("utilisation limit of 50 % in place of the latency tail", FrontierParameters(utilization_limit=0.5)),
        frontier("utilisation limit of 60 % in place of the latency tail", FrontierParameters(utilization_limit=0.6)),
        frontier("without error budget, planned 0.1 % late", FrontierParameters(strictness=1.0)),
        frontier("without error budget, planned 3 % late", FrontierParameters(strictness=1.0, late_share=0.03)),
        frontier("without error budget, planned 10 % late", FrontierParameters(strictness=1.0, late_share=0.1)),
        frontier("loads cost nothing in the plan", FrontierParameters(load_price=0.0)),
        frontier("a step down for another's step up costs nothing in the plan", FrontierParameters(trade_price=0.0)),
        frontier("what waits is left to the queue", FrontierParameters(drain_seconds=0.0)),
        setting.fixed("Stepwise", "for comparison", Stepwise()),
    ]
    tables = []
    for words, factor in (("Profiles are right", 1.0), ("Inferences cost 1.5 times what the profiles say", 1.5)):
        found = run_all(entries, data, seeds, say, more=Options(cost_factor=factor))
        tables.append(summary(entries, found, f"**{words}**"))
    return Page(
        title="Ablations of Frontier",
        question="What is each part of Frontier worth? The co-location experiment, without one part each.",
        command="make experiment NAME=ablations",
        tables=tables,
    )
