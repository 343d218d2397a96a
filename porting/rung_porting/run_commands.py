"""`rung-port plan` and `rung-port run`: what would be made, and making it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from rung.api.porting import PortingPlan
from rung_porting.errors import PortingError
from rung_porting.importing import look_beside
from rung_porting.needs import need
from rung_porting.plan_file import builtin_plans, read_plan

_NEEDED = (
    "rich",
    "onnx",
    "onnxruntime",
    "onnxslim",
    "torch",
    "torchvision",
    "nni",
    "lightning",
    "optuna",
    "torch_pruning",
    "sklearn",
)
_JOBS = click.option(
    "--jobs", type=click.IntRange(1, 256), help="Trials at a time, one core each. [default: one for each core]"
)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def need_torch() -> None:
    """Say in one line what is missing where the extra `porting` is not installed."""
    need(*_NEEDED, extra="porting")


def _beside(name: str) -> Path:
    """Return the folder of a plan's file; for a built-in plan, this one."""
    return Path(name).resolve().parent if Path(name).exists() else Path.cwd()


def _read(names: Sequence[str]) -> list[tuple[PortingPlan, Path]]:
    plans = [(read_plan(name), _beside(name)) for name in names]
    tasks = [plan.task for plan, _ in plans]
    for task in tasks:
        if tasks.count(task) > 1:
            raise PortingError(f"two of these plans are for the task {task!r}: run them one after the other")
    return plans


@click.command("forecaster")
@click.argument("trace", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), default=Path("forecaster.onnx"), show_default=True
)
@click.option("--epochs", default=60, show_default=True, type=click.IntRange(1, 10000), help="At most.")
@click.option("--seed", default=0, show_default=True)
def forecaster_command(trace: Path, output: Path, epochs: int, seed: int) -> None:
    """Train the forecaster of the policy InfAdapter on TRACE: requests of each second, one number a line.

    `rung record` makes such a trace from a Prometheus. The network goes where the operator's pod sees it, and its path
    into spec.policy.infadapter.lstm, with forecaster: Lstm.
    """
    need("torch", "onnx", "onnxruntime", extra="porting")
    from rung_loadgen.trace import TraceError, read_trace
    from rung_porting.forecaster import train_forecaster

    def told(epoch: int, error: float) -> None:
        click.echo(f"epoch {epoch}: error {error:.4f}", err=True)

    try:
        found = train_forecaster(read_trace(trace), output, epochs=epochs, seed=seed, progress=told)
    except (PortingError, TraceError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{output}: off by {found.network:.1%} in the mean on the end of the trace, which it has not seen; "
        f"the last minute's maximum is off by {found.last_maximum:.1%}, the exponential mean by "
        f"{found.exponential_mean:.1%}"
    )


@click.command("plan")
@click.argument("plans", metavar="PLAN...", nargs=-1)
@click.option("--list", "listed", is_flag=True, help="Built-in plans, networks and data, with what they are called.")
@_JOBS
def plan_command(plans: tuple[str, ...], listed: bool, jobs: int | None) -> None:
    """Show what `run` would make of a PLAN, and roughly how long it would take here.

    PLAN is a YAML file, or the name of a built-in plan (see --list). Every mistake in it is named with its line.
    """
    if listed:
        _list()
        return
    if not plans:
        raise click.UsageError("give a PLAN: a YAML file or a built-in plan; --list shows those")
    try:
        for plan, beside in _read(plans):
            need_torch()
            _show(plan, beside, jobs or _cores())
    except PortingError as error:
        raise click.ClickException(str(error)) from None


def _list() -> None:
    click.echo(f"plans:    {', '.join(sorted(builtin_plans()))}")
    need_torch()
    from rung_porting.data.source import BUILT_IN
    from rung_porting.models.families import FAMILIES

    for family, members in FAMILIES.items():
        click.echo(f"networks: {family}: {', '.join(members)}")
    click.echo(f"data:     {', '.join(BUILT_IN)}")


def _show(plan: PortingPlan, beside: Path, jobs: int) -> None:
    from rung_porting.estimate import estimate, total_seconds
    from rung_porting.store import Store, default_root

    look_beside(beside)
    found = estimate(plan, Store(default_root()))
    click.echo(f"{plan.task}, generation {plan.generation}")
    click.echo(
        f"  network  {plan.model.builtin or plan.model.import_}: {found.parameters:,} parameters, "
        f"{found.flops / 1e6:,.1f} MFLOP an inference of {list(plan.input)}"
    )
    click.echo(f"  data     {plan.data.builtin or plan.data.import_}: {found.training_samples:,} training samples")
    click.echo(f"  training {plan.training.epochs} epochs, about {_minutes(found.base_seconds)} on one core")
    methods = plan.methods
    if methods.family is not None:
        click.echo(f"  family   {', '.join(methods.family.members)}, trained as they are")
    if methods.prune is not None:
        criteria = ", ".join(each.value for each in methods.prune.criteria)
        click.echo(
            f"  pruning  {plan.budget.trials} trials ({criteria}"
            + (", with and without the teacher" if methods.distill else "")
            + f") down to 1/{plan.targets.flops_span:g} of the operations, about {_minutes(found.trial_seconds)} each"
        )
    if methods.quantize is not None:
        click.echo("  INT8     a version of each, kept where it pays")
    click.echo(
        f"  in all   about {_minutes(total_seconds(found, plan, jobs))} with {jobs} at a time, if nothing is done yet"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@click.command("run")
@click.argument("plans", metavar="PLAN...", nargs=-1, required=True)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("out/models"), show_default=True
)
@click.option("--generation", type=click.IntRange(1, 9_000_000), help="Instead of the plan's: raise to retrain.")
@_JOBS
def run_command(plans: tuple[str, ...], output: Path, generation: int | None, jobs: int | None) -> None:
    """Make the versions of each PLAN: train, search, export, validate. Goes on where an earlier run was.

    PLAN is a YAML file, or the name of a built-in plan (`rung-port plan --list`).
    """
    need_torch()
    from rich.console import Console

    from rung_porting.run import run
    from rung_porting.show.search import search_table
    from rung_porting.store import Store, default_root

    try:
        read = _read(plans)
        if generation is not None:
            read = [(plan.model_copy(update={"generation": generation}), beside) for plan, beside in read]
        found = run(read, output, Store(default_root()), jobs or _cores(), Console(stderr=True))
    except PortingError as error:
        raise click.ClickException(str(error)) from None
    console = Console(width=None if sys.stdout.isatty() else 140)
    for each in found:
        console.print(search_table(output / f"{each.plan.task}.search.json"))
        click.echo(f"{each.plan.task}: the search ended because {each.why_over}")
        if each.earlier:
            click.echo(
                f"{each.plan.task}: {output / each.plan.task} also holds {len(each.earlier)} versions of earlier runs, "
                f"which would be published too: {', '.join(map(str, each.earlier))}"
            )
    click.echo(f"versions are in {output}; publish them: rung-port publish {output} s3://BUCKET/PREFIX --endpoint URL")
