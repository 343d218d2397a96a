"""`rung-port run`: rounds of trials, each trial in a process of its own, then the numbered versions in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from rung.api.porting import PortingPlan
from rung_porting.errors import PortingError
from rung_porting.importing import look_beside
from rung_porting.ladder_files import write_ladder
from rung_porting.outcome import Outcome
from rung_porting.recipe import Recipe
from rung_porting.search.explorer import Explorer
from rung_porting.stages import Workshop
from rung_porting.store import Missing, Store
from rung_porting.worker import Order
from rung_porting.workers import Workers


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search came to."""

    plan: PortingPlan
    outcomes: tuple[Outcome, ...]
    why_over: str
    earlier: tuple[int, ...] = ()
    """Versions of earlier runs that lie in the same folder."""


def run(
    plans: Sequence[tuple[PortingPlan, Path]], output: Path, store: Store, jobs: int, console: Console
) -> list[Searched]:
    """Make the versions of these plans and write them into the output folder.

    Args:
        plans: one for each task, with the folder where its own classes may be.
        output: gets `TASK/{config.pbtxt, VERSION/{model.onnx, version.yaml}}`.
        store: where results of stages are kept.
        jobs: trials at a time; each uses one core.
        console: shows progress.

    Raises:
        PortingError: a task failed; the others are finished and written first.
    """
    found: list[Searched] = []
    faults: list[str] = []
    columns = (TextColumn("{task.fields[name]:12}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, TextColumn("{task.description}"), console=console) as progress,
        ThreadPoolExecutor(len(plans)) as pool,
        Workers(jobs) as workers,
    ):
        futures = {
            plan.task: pool.submit(_search, _Bench(plan, beside, store, workers, progress)) for plan, beside in plans
        }
        for name, future in futures.items():
            try:
                found.append(future.result())
            except PortingError as error:
                faults.append(f"{name}: {error}")
    written = [replace(each, earlier=write_ladder(each.plan, each.outcomes, each.why_over, output)) for each in found]
    if faults:
        raise PortingError("\n".join(faults))
    return written


@dataclass(frozen=True, slots=True)
class _Bench:
    """What the search of one plan works with."""

    plan: PortingPlan
    beside: Path
    store: Store
    workers: Workers
    progress: Progress


def _search(bench: _Bench) -> Searched:
    """Make round after round until the search is over."""
    plan = bench.plan
    look_beside(bench.beside)
    explorer = Explorer(plan)
    total = 1 + (len(plan.methods.family.members) if plan.methods.family else 0)
    total += plan.budget.trials if plan.methods.prune else 0
    bar = bench.progress.add_task("the unpruned network first", total=total, name=plan.task)
    with ThreadPoolExecutor(max(plan.budget.parallel, total)) as pool:
        while recipes := explorer.next_round():
            outcomes = list(pool.map(lambda recipe: _make(bench, recipe), recipes))
            if not explorer.outcomes and outcomes[0].failure is not None:
                raise PortingError(outcomes[0].failure)
            explorer.tell(outcomes)
            versions = sum(len(outcome.versions) for outcome in explorer.outcomes)
            bench.progress.update(bar, completed=len(explorer.outcomes), description=f"{versions} versions")
    why = explorer.why_over() or "nothing is left to try"
    bench.progress.update(bar, completed=total, description=f"done: {why}")
    return Searched(plan, tuple(explorer.outcomes), why)


def _make(bench: _Bench, recipe: Recipe) -> Outcome:
    """Make one recipe in a process of its own, unless all of it is in the store."""
    try:
        return Workshop(bench.plan, Store(bench.store.root, only_look=True)).outcome(recipe)
    except Missing:
        pass
    order = Order(plan=bench.plan.to_json(), recipe=recipe, store=bench.store.root, beside=bench.beside)
    bar = bench.progress.add_task("waits for a core", total=1.0, name=f"  {recipe.method()}"[:12])
    try:
        return bench.workers.make(
            order, lambda what, share: bench.progress.update(bar, completed=share, description=what)
        )
    finally:
        bench.progress.remove_task(bar)
