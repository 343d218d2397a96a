"""What the experiments share: the thesis' three tasks, its demand, many runs side by side, and what they come to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import yaml

from rung.core.decide import Settings
from rung.core.policies.base import Policy
from rung.core.policies.frontier import Frontier
from rung.core.policies.frontier_parameters import FrontierParameters
from rung.core.policies.infaas import InFaaS
from rung.core.policies.infadapter import InfAdapter, InfAdapterParameters
from rung.core.policies.model_switching import ModelSwitching
from rung.core.policies.proteus import Proteus
from rung.core.policies.static import Static, StaticChoice
from rung.core.policies.stepwise import Stepwise, StepwiseParameters
from rung_loadgen.trace import read_trace
from rung_sim import demand
from rung_sim.contenders import ALL_RUNGS, Oracle
from rung_sim.engine import Floats
from rung_sim.outcome import Outcome, outcome_of
from rung_sim.simulation import Choosing, Options, Run, Simulation
from rung_sim.world import SimulatedServer, World, build_world

TASKS = ("ants", "cifar10", "cifar100")
MEAN_RPS = {"ants": 9.0, "cifar10": 7.0, "cifar100": 4.5}
"""Chosen so that Stepwise comes to what it came to in the thesis: half of the CPU, three quarters of the accuracy."""
WAVE = 0.6
"""The random waves reach this share of the mean."""
SECONDS, WARM_UP_SECONDS = 1500, 60
SEEDS = tuple(range(10))
ONE_SERVER = (SimulatedServer("edge-0", 1.0),)
NEEDS_DATA = (
    "this experiment replays real traces, which are not part of the project; say where they are: --data FOLDER with {}"
)
TWITTER_DAY, TWITTER_EVAL, CAPACITIES = "twitter-day-03.txt", "twitter-infadapter-eval.txt", "infadapter-capacity.csv"
# The 97.5 % quantiles of Student's t by degrees of freedom.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


class NoDataError(RuntimeError):
    """A file of facts measured by others is not there; the message says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an experiment: a policy with a setting, and what is around it."""

    label: str
    """The policy, as legends have it; entries of one label are one curve."""
    setting: str
    make: Callable[[Mapping[str, Floats]], Policy]
    """Gets the demand, for who knows the future."""
    settings: Settings = field(default_factory=Settings)
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True)
class Job:
    """One run: everything it needs, to be sent to another process."""

    entry: Entry
    world: World
    rates_rps: Mapping[str, Floats]
    options: Options


def need(folder: Path, name: str) -> Path:
    """Return the path of a file of measured facts. Raises NoDataError where it is absent."""
    path = folder / name
    if not path.is_file():
        raise NoDataError(NEEDS_DATA.format(name))
    return path


@lru_cache(maxsize=4)
def trace(path: Path) -> Floats:
    """Read a trace once."""
    return read_trace(path).rates_rps


def three_tasks(
    servers: Sequence[SimulatedServer] = ONE_SERVER, servers_of: Mapping[str, Sequence[str]] | None = None
) -> World:
    """Return the thesis' three tasks on some servers; `servers_of` says where a task is served, if not everywhere."""
    text = (files("rung_sim.experiments") / "three-tasks.yaml").read_text(encoding="utf-8")
    world = build_world("three-tasks.yaml", yaml.safe_load_all(text), tuple(servers))
    if servers_of is None:
        return world
    tasks = tuple(
        replace(task, state=replace(task.state, servers=frozenset(servers_of[task.state.name]))) for task in world.tasks
    )
    return replace(world, tasks=tasks)


def thesis_demand(day: Floats, seed: int, seconds: int = SECONDS, scale: float = 1.0) -> dict[str, Floats]:
    """Return the demand of the three tasks as the thesis manipulated it: parts of the trace with waves on top."""
    rng = np.random.default_rng([2023, seed])
    rates = {}
    for task in TASKS:
        mean = scale * MEAN_RPS[task]
        start = int(rng.integers(0, day.size - seconds))
        waves = demand.random_waves(WAVE * mean, seconds, rng)
        rates[task] = demand.manipulated(day[start : start + seconds], mean, waves, WARM_UP_SECONDS)
    return rates


def fixed(label: str, setting: str, policy: Policy, **more: Any) -> Entry:
    """Return an entry whose policy knows nothing of the future."""
    return Entry(label, setting, lambda rates: policy, **more)


def entries() -> list[Entry]:
    """Return every policy, with the settings that trade late answers for accuracy."""
    found = [
        fixed("Best", "", Static(StaticChoice.BEST)),
        fixed("Cheapest", "", Static(StaticChoice.CHEAPEST)),
        fixed("InFaaS", "", InFaaS()),
        fixed("ModelSwitching", "", ModelSwitching()),
    ]
    for limit in (0.7, 0.6, 0.5, 0.4):
        stepwise = Stepwise(StepwiseParameters(down_above=limit, up_below=limit - 0.2, goal=limit - 0.05))
        found.append(fixed("Stepwise", f"down above {limit:.0%}", stepwise))
    for reserve in (1.0, 0.8, 0.65, 0.5):
        found.append(fixed("Proteus", f"{reserve:.0%} planned", Proteus(reserve=reserve)))
    for reserve in (0.8, 0.6, 0.45):
        infadapter = InfAdapter(InfAdapterParameters(reserve=reserve, weighted=True))
        found.append(fixed("InfAdapter", f"{reserve:.0%} planned", infadapter))
    for late in (0.001, 0.003, 0.01):
        found.append(fixed("Frontier", f"{100 * late:g} % late", Frontier(FrontierParameters(late_share=late))))
    fit = Options(choosing=Choosing.SLACK_FIT, free_swaps=True)
    all_rungs = Settings(standby_below=ALL_RUNGS)
    found.append(fixed("SlackFit", "", Static(StaticChoice.BEST), settings=all_rungs, options=fit))
    found += [_oracle(late) for late in (0.001, 0.01, 0.03)]
    return found


def _oracle(late: float) -> Entry:
    return Entry(
        "Oracle", f"{100 * late:g} % late", lambda rates: Oracle(rates, late), options=Options(free_swaps=True)
    )


def with_reflex(entry: Entry, standby_below: int) -> Entry:
    """Return an entry with the reflex below it and some rungs loaded for it."""
    below = "all rungs loaded" if standby_below >= ALL_RUNGS else f"{standby_below} below loaded"
    return Entry(
        f"{entry.label}+reflex", f"{entry.setting}, {below}" if entry.setting else below, entry.make,
        replace(entry.settings, standby_below=standby_below), replace(entry.options, choosing=Choosing.REFLEX),
    )  # fmt: skip


def simulate(job: Job) -> tuple[Run, Outcome]:
    """Run one job."""
    entry = job.entry
    run = Simulation(job.world, job.rates_rps, entry.make(job.rates_rps), entry.settings, job.options).run()
    return run, outcome_of(run)


def outcomes(jobs: Sequence[Job], say: Callable[[str], None] = print) -> list[Outcome]:
    """Run many jobs, as many at a time as there are cores, and return their outcomes in the same order."""
    # Forked processes see the jobs as they are: nothing has to be pickled but the answers.
    _JOBS[:] = jobs
    found = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        for outcome in pool.map(_outcome, range(len(jobs))):
            found.append(outcome)
            if len(found) % 20 == 0 or len(found) == len(jobs):
                say(f"{len(found)} of {len(jobs)} runs")
    return found


_JOBS: list[Job] = []


def _outcome(place: int) -> Outcome:
    return simulate(_JOBS[place])[1]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % confidence interval (Student's t; 0 for one value)."""
    if len(values) < 2:
        return fmean(values), 0.0
    # Above the table, its last: a little too wide.
    quantile = _T.get(len(values) - 1, _T[9])
    return fmean(values), quantile * stdev(values) / len(values) ** 0.5
