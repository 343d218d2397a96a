"""`rung-port profile`: measures what versions do on the server that will serve them, or serves them already.

With a repository each version is loaded alone, so what else the server has of that task is unloaded: profile before
the task is served. One file of results is written for each version, next to it in the model repository. With models
instead (`--model`) they are measured as they are served. No torch here: this runs as a Job in the cluster, from the
image of the load generator.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from rung.adapters.repository_errors import RepositoryError
from rung_loadgen.units import duration_option
from rung_porting.cluster.last_words import leave
from rung_porting.profiler.conditions import Bench, Conditions
from rung_porting.profiler.document import ProfileDocument, write_document
from rung_porting.profiler.errors import ProfileError
from rung_porting.profiler.gauges import AgentGauge, Gauge, ProcessGauge
from rung_porting.profiler.loop import run
from rung_porting.profiler.options import (
    address_option,
    class_option,
    counts_option,
    cpu_option,
    names_option,
    shape_option,
    shares_option,
)
from rung_porting.profiler.pairs import Grid, co_locate_served, co_locate_tasks
from rung_porting.profiler.repositories import Repository, open_repository
from rung_porting.profiler.search import QUICK, THOROUGH
from rung_porting.profiler.served import profile_served
from rung_porting.profiler.tell import disturbance, say, tell_served, tell_version
from rung_porting.profiler.versions import ProfiledVersion, profile_tasks


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command was asked to do, checked."""

    bench: Bench
    conditions: Conditions
    grid: Grid
    co_locate: bool
    skip_existing: bool
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    output: Path | None


@click.command()
@click.option("--triton", required=True, type=address_option, help="The server's gRPC address, HOST:PORT.")
@click.option("--agent", help="Its agent, http://HOST:8090: for files, CPU seconds and memory.")
@click.option("--pid", type=click.IntRange(1), help="Its process on this machine: for CPU seconds and memory.")
@click.option("--repository", help="s3://BUCKET/PREFIX, or a folder of the same layout.")
@click.option("--endpoint", help="http(s)://HOST:PORT of an S3 that is not AWS.")
@click.option("--tasks", default=(), type=names_option, help="Tasks of the repository, TASK[:VERSION], by commas.")
@click.option("--model", "models", multiple=True, help="A model as it is served; no repository. May be repeated.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the profiles of --model here.")
@click.option("--hardware-class", type=class_option, help="What the profiles hold for, for example rpi5.")
@click.option("--cpu", type=cpu_option, help="CPU limit of the server in cores; part of what the profile holds for.")
@click.option("--slo", default="400ms", show_default=True, type=duration_option, help="Answers have to keep this.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help=".npz of inputs; random ones by default.")
@click.option("--shape", "shapes", multiple=True, type=shape_option, metavar="INPUT:SIZE,...", help="Of a free input.")
@click.option("--batch-sizes", default=(), type=counts_option, help="Try these, by commas; 1 for no batching.")
@click.option("--instances", default=(), type=counts_option, help="Try these numbers of instances, by commas.")
@click.option("--co-locate", is_flag=True, help="Measure how every two of the tasks or models slow each other.")
@click.option("--shares", default=Grid().shares, type=shares_option, help="Loads for it. [default: 0.2,0.4,0.6]")
@click.option("--thorough", is_flag=True, help="Twelve loads, longer probes: about two minutes a version, not 13 s.")
@click.option(
    "--skip-existing",
    is_flag=True,
    help="Leave versions alone whose newest profile is of this class, CPU limit and SLO.",
)
def profile(
    *,
    triton: str,
    agent: str | None,
    pid: int | None,
    repository: str | None,
    endpoint: str | None,
    tasks: tuple[str, ...],
    models: tuple[str, ...],
    output: Path | None,
    hardware_class: str | None,
    cpu: float | None,
    slo: float,
    data: Path | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    batch_sizes: tuple[int, ...],
    instances: tuple[int, ...],
    co_locate: bool,
    shares: tuple[float, ...],
    thorough: bool,
    skip_existing: bool,
) -> None:
    """Measure versions on a running Triton: those of a repository, or a model that is served.

    With --repository and --tasks: every version is loaded and unloaded, one by one, and its profile is written beside
    it; don't run it on a server that serves them. With --model: what is served is measured as it is. Exit status 1
    when something could not be profiled; no number is written for it.
    """
    if (repository is None) == (not models):
        raise click.UsageError("give --repository and --tasks, or --model for what is served already")
    if repository is not None and (not tasks or not hardware_class):
        raise click.UsageError("a repository needs --tasks and --hardware-class")
    if models and (batch_sizes or instances or tasks or skip_existing):
        raise click.UsageError(
            "--model is measured as it is served: batch sizes, instances and tasks need a repository"
        )
    if repository is not None and output is not None:
        raise click.UsageError("profiles of a repository are written beside its versions; --output is for --model")
    if output is not None and not output.absolute().parent.is_dir():
        raise click.UsageError(f"--output {output}: there is no folder {output.parent}; make it first")
    if agent is not None and pid is not None:
        raise click.UsageError("give --agent or --pid, not both")
    if co_locate and len(tasks) + len(models) < 2:
        raise click.UsageError("--co-locate needs two tasks or models")
    conditions = Conditions(
        hardware_class or "default",
        slo,
        cpu,
        THOROUGH if thorough else QUICK,
        data=data,
        shapes=dict(shapes),
        several=len(models) + len(tasks) > 1,
        batch_sizes=batch_sizes,
        instances=instances,
    )
    try:
        gauge = _gauge(agent, pid)
        opened = None if repository is None else open_repository(repository, endpoint)
        grid = replace(Grid(shares), seconds=10.0) if thorough else Grid(shares)
        asked = _Asked(Bench(triton, gauge), conditions, grid, co_locate, skip_existing, tasks, models, output)
        problems = run(_run(asked, opened))
    except (ValueError, OSError, RepositoryError, ProfileError) as error:
        raise click.ClickException(str(error)) from None
    for problem in problems:
        click.echo(f"profile: not profiled: {problem}", err=True)
    sys.exit(1 if problems else 0)


def _gauge(agent: str | None, pid: int | None) -> Gauge | None:
    if agent is not None:
        return AgentGauge(agent)
    return ProcessGauge(pid) if pid is not None else None


async def _run(asked: _Asked, repository: Repository | None) -> list[str]:
    try:
        if repository is None:
            return await _profile_models(asked)
        if asked.co_locate:
            return await co_locate_tasks(asked.bench, repository, asked.tasks, asked.conditions, asked.grid, say)
        told = _Told()
        problems = await profile_tasks(
            asked.bench, repository, asked.tasks, asked.conditions, told.tell, say, skip_existing=asked.skip_existing
        )
        leave(message=told.sentence(problems))
        return problems
    finally:
        if isinstance(asked.bench.gauge, AgentGauge):
            await asked.bench.gauge.agent.close()


@dataclass(slots=True)
class _Told:
    """What is left as last words in a pod."""

    measured: int = 0
    disturbed: list[str] = field(default_factory=list)

    def tell(self, done: ProfiledVersion, position: str) -> None:
        """Print one version, and remember whether neighbours disturbed it."""
        tell_version(done, position)
        self.measured += 1
        disturbed = disturbance(done.profile)
        if disturbed:
            self.disturbed.append(f"{done.task} {done.number}: {disturbed}")

    def sentence(self, problems: list[str]) -> str:
        """Say what came of it all."""
        parts = [f"{self.measured} versions measured"]
        if self.disturbed:
            parts.append(f"{len(self.disturbed)} disturbed by neighbours ({self.disturbed[0]})")
        return "; ".join([*parts, *problems])[:1000]


async def _profile_models(asked: _Asked) -> list[str]:
    problems: list[str] = []
    done: list[ProfileDocument] = []
    for model in dict.fromkeys(asked.models):
        try:
            document, measured = await profile_served(asked.bench, model, asked.conditions)
        except ProfileError as error:
            problems.append(str(error))
            continue
        done.append(document)
        tell_served(document, measured)
    if asked.co_locate and len(done) > 1:
        done, more = await co_locate_served(asked.bench, done, asked.conditions, asked.grid, say)
        problems += more
    if asked.output is not None and done:
        # Several models are several YAML documents in one file.
        asked.output.write_text("---\n".join(map(write_document, done)), encoding="utf-8")
        say(f"written: {asked.output}")
    return problems


if __name__ == "__main__":
    profile()
