"""What INT8, distillation, the search and the knob are each worth: the frontier with and without.

Run it with `make bench-porting`, or `.venv-porting/bin/python bench/bench_porting.py --plan PLAN`. The plan is carried
out as it is, without distillation, and with a grid of sparsities in place of the search, each with the same number
of trials; without INT8 and without the knob the same versions are judged with those left out. The unpruned network is
trained once. Costs are the CPU time of one answer in ONNX Runtime on one thread, of all versions measured in turns at
the end.

For each it prints how many versions are on the frontier, how far it spans, the largest speed-up that costs at most one
point of accuracy, and the mean accuracy at hand: of the best version that fits a budget, over all budgets from the
cheapest version of all to the unpruned network, spread evenly over the logarithm of cost.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rung.api.porting import Allocation, PortingPlan
from rung_porting.data.source import load_data
from rung_porting.export import cpu_seconds_each
from rung_porting.outcome import Made, Outcome
from rung_porting.plan_file import read_plan
from rung_porting.recipe import Recipe, Turn
from rung_porting.run import run
from rung_porting.search.gaps import Point, frontier
from rung_porting.store import Store, default_root
from rung_porting.worker import Order
from rung_porting.workers import Workers

POINTS_LOST = 0.01
BUDGETS = 1000


@dataclass(frozen=True)
class Line:
    """One way of making versions, judged."""

    name: str
    seconds: float
    versions: int
    span: float
    speedup_within_a_point: float
    mean_accuracy: float


def grid(plan: PortingPlan) -> list[Recipe]:
    """Return as many recipes as the plan has trials: costs at equal ratios, settings in the middle."""
    prune = plan.methods.prune
    assert prune is not None
    epochs = sorted(prune.epochs)[len(prune.epochs) // 2]
    scales = prune.learning_rate_scale
    recipes = []
    for place in range(1, plan.budget.trials + 1):
        cost = plan.targets.flops_span ** (-place / plan.budget.trials)
        turn = Turn(
            sparsity=round(min(prune.max_sparsity, 1 - math.sqrt(cost)), 4),
            criterion=prune.criteria[0],
            allocation=Allocation.UNIFORM,
            epochs=epochs,
            learning_rate_scale=float(f"{math.sqrt(scales.min * scales.max):.3g}"),
            distill=plan.methods.distill is not None,
        )
        recipes.append(Recipe(turns=(turn,)))
    return recipes


def make_grid(plan: PortingPlan, beside: Path, store: Store, jobs: int) -> list[Outcome]:
    """Make the recipes of the grid after the unpruned network, `jobs` at a time."""

    def make(recipe: Recipe) -> Outcome:
        order = Order(plan=plan.to_json(), recipe=recipe, store=store.root, beside=beside)
        return workers.make(order, lambda what, share: None)

    with Workers(jobs) as workers, ThreadPoolExecutor(jobs) as pool:
        return [make(Recipe()), *pool.map(make, grid(plan))]


def mean_accuracy(points: Sequence[Point], low: float, high: float) -> float:
    """Return the accuracy of the best version within a budget, in the mean over budgets; 0 where none fits."""
    along = frontier(points)
    total = 0.0
    for place in range(BUDGETS):
        budget = low * (high / low) ** ((place + 0.5) / BUDGETS)
        total += max((point.accuracy for point in along if point.cost <= budget), default=0.0)
    return total / BUDGETS


def judge(name: str, seconds: float, versions: Sequence[Made], costs: Mapping[Path, float]) -> Line:
    """Judge versions by what their files cost; budgets begin with the cheapest of all."""
    points = [Point(costs[made.model], made.accuracy) for made in versions]
    along = frontier(points)
    base = next(made for made in versions if made.recipe.is_base and not made.int8)
    best = along[-1].accuracy
    good = [point.cost for point in along if point.accuracy >= best - POINTS_LOST]
    return Line(
        name,
        seconds,
        len(along),
        along[-1].cost / along[0].cost,
        costs[base.model] / min(good),
        mean_accuracy(points, min(costs.values()), costs[base.model]),
    )


def main() -> None:
    """Make all, judge all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", default="examples/porting/digits.yaml")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("out/bench-porting"))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    plan, store = read_plan(asked.plan), Store(default_root())
    beside = Path(asked.plan).resolve().parent
    console = Console(stderr=True)

    def searched(name: str, one: PortingPlan) -> tuple[list[Made], float]:
        began = time.monotonic()
        (found,) = run([(one, beside)], asked.output / name, store, asked.jobs, console)
        return [made for outcome in found.outcomes for made in outcome.versions], time.monotonic() - began

    whole, seconds = searched("whole", plan)
    ways = {"the plan": (whole, seconds)}
    ways["without INT8"] = ([made for made in whole if not made.int8], math.nan)
    ways["without the knob"] = ([made for made in whole if made.recipe.knob is None], math.nan)
    if plan.methods.distill is not None:
        without = plan.methods.model_copy(update={"distill": None})
        ways["without distillation"] = searched("undistilled", plan.model_copy(update={"methods": without}))
    began = time.monotonic()
    outcomes = make_grid(plan, beside, store, asked.jobs)
    made = [version for outcome in outcomes for version in outcome.versions]
    ways["a grid, no search"] = (made, time.monotonic() - began)

    files = sorted({version.model for versions, _ in ways.values() for version in versions})
    samples = load_data(plan.data, plan.input, plan.training.batch_size, plan.seed).first("validation", 8)
    costs = dict(zip(files, cpu_seconds_each(files, samples), strict=True))
    lines = [judge(name, taken, versions, costs) for name, (versions, taken) in ways.items()]
    if asked.json:
        print(json.dumps([vars(line) for line in lines]))
        return
    table = Table(title=f"{plan.task}: {asked.plan}", title_justify="left")
    for column in ("", "on the frontier", "span", "speed-up at <= 1 point", "mean accuracy", "made in"):
        table.add_column(column, justify="left" if not column else "right")
    for line in lines:
        taken = "-" if math.isnan(line.seconds) else f"{line.seconds:.0f} s"
        table.add_row(
            line.name, str(line.versions), f"{line.span:.0f}x", f"{line.speedup_within_a_point:.1f}x",
            f"{line.mean_accuracy:.2%}", taken,
        )  # fmt: skip
    Console(width=110).print(table)
    along = frontier(Point(costs[each.model], each.accuracy) for each in whole)
    gaps = [dear.cost / cheap.cost for cheap, dear in pairwise(along)]
    print(f"the plan's frontier: {', '.join(f'{p.accuracy:.2%} at {p.cost * 1e3:.3g} ms' for p in reversed(along))}")
    print(f"its widest gap: {max(gaps, default=1):.1f}x")


if __name__ == "__main__":
    main()
