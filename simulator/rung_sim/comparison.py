"""Several policies on the same demand: the same requests at the same moments for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from rung.api import ReflexMode
from rung.control.policies import decide_settings
from rung_loadgen.trace import read_trace
from rung_sim import demand
from rung_sim.contenders import Contender, UnknownPolicy, contender
from rung_sim.engine import Floats
from rung_sim.outcome import Outcome, outcome_of
from rung_sim.simulation import Choosing, Options, Run, Simulation
from rung_sim.world import World


class Bad(ValueError):  # noqa: N818 - what was given is bad
    """What was asked for can't be simulated; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Result:
    """One policy's run."""

    label: str
    run: Run
    outcome: Outcome


def read_demand(given: Iterable[str]) -> dict[str, Floats]:
    """Read `TASK=FILE` words. Raises Bad and rung_loadgen.trace.TraceError."""
    rates: dict[str, Floats] = {}
    for word in given:
        task, equals, file = word.partition("=")
        if not (task and equals and file):
            raise Bad(f"{word!r} is no TASK=FILE, for example digits=digits.txt")
        if task in rates:
            raise Bad(f"{task} has two traces; give one")
        try:
            shaped = demand.shape(file)
        except ValueError as error:
            raise Bad(f"{task}: {error}") from None
        rates[task] = read_trace(Path(file)).rates_rps if shaped is None else shaped
    return rates


def compare(
    world: World,
    rates_rps: Mapping[str, Floats],
    names: Sequence[str],
    *,
    seed: int = 0,
    warm_up_seconds: int = 0,
    reflex: bool = False,
    progress: bool = False,
) -> list[Result]:
    """Simulate a world once for each policy.

    Args:
        world: pool, tasks and servers.
        rates_rps: by task, one number a second; a shorter one ends earlier.
        names: of policies, see `contenders.NAMES`.
        seed: decides when requests arrive.
        warm_up_seconds: seconds at the start that don't count.
        reflex: also each of them with the reflex, where the pool has it not.
        progress: show it, on standard error.

    Raises:
        Bad: when tasks and traces don't match, or a name is of no policy.
    """
    _match(world, rates_rps)
    if warm_up_seconds >= max(rates.size for rates in rates_rps.values()):
        raise Bad(f"a warm-up of {warm_up_seconds} s leaves nothing of the trace to count")
    pools = [world.pool.spec]
    if reflex and world.pool.spec.reflex is ReflexMode.OFF:
        pools.append(world.pool.spec.model_copy(update={"reflex": ReflexMode.ON}))
    contenders: list[Contender] = []
    for name in dict.fromkeys(names):
        for place, spec in enumerate(pools):
            choosing = Choosing.REFLEX if spec.reflex is ReflexMode.ON else Choosing.TRITON
            options = Options(seed=seed, warm_up_seconds=warm_up_seconds, choosing=choosing)
            try:
                made = contender(name, spec.policy, decide_settings(spec), options, rates_rps)
            except UnknownPolicy as error:
                raise Bad(str(error)) from None
            contenders.append(replace(made, label=f"{made.label}+reflex") if place else made)
    results = []
    with Progress(console=Console(stderr=True), disable=not progress, transient=True) as bar:
        for each in contenders:
            line = bar.add_task(each.label, total=1.0)
            simulation = Simulation(world, rates_rps, each.policy, each.settings, each.options)
            run = simulation.run(lambda share, line=line: bar.update(line, completed=share))  # type: ignore[misc]
            results.append(Result(each.label, run, outcome_of(run)))
    return results


def _match(world: World, rates_rps: Mapping[str, Floats]) -> None:
    there = {task.state.name for task in world.tasks}
    if unknown := sorted(set(rates_rps) - there):
        raise Bad(f"the pool has no task {', '.join(unknown)}; it has {', '.join(sorted(there))}")
    if missing := sorted(there - set(rates_rps)):
        raise Bad(f"{', '.join(missing)} has no trace; give {' '.join(f'{name}=FILE' for name in missing)}")
