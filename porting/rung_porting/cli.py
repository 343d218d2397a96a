"""The `rung-port` command: versions from training to the cluster. Only `run` needs torch."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

Body = Callable[[], Coroutine[Any, Any, int]]


@click.group()
@click.version_option(package_name="rung")
def main() -> None:
    """Make model versions for Rung, publish them to S3, profile them, register them in the cluster."""
    # Told to end, it ends its workers too, as on Ctrl-C; and in a container, as process 1, it ends at all.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@main.command("run")
@click.option("--task", "names", multiple=True, help="A built-in task: digits, parity. May be repeated. [default: all]")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("out/models"), show_default=True
)
@click.option("--generation", type=click.IntRange(1, 9_000_000), default=1, show_default=True, help="Raise to retrain.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Tasks at a time, one core each. [default: one for each core]")
def run_command(names: tuple[str, ...], output: Path, generation: int, jobs: int | None) -> None:
    """Train, prune, fine-tune, export and validate; goes on where an earlier run was."""
    _need("rich", "onnxruntime", "torch", "nni", "lightning", "sklearn")
    from rich.console import Console

    from rung_porting.builtin import BUILT_IN
    from rung_porting.errors import PortingError
    from rung_porting.repository.catalogue import read_local
    from rung_porting.run import number_made, run
    from rung_porting.show.table import ladder_table
    from rung_porting.store import Store, default_root

    unknown = sorted(set(names) - set(BUILT_IN))
    if unknown:
        raise click.UsageError(f"no built-in task {', '.join(unknown)}: there are {', '.join(BUILT_IN)}")
    chosen = [plan for plan in BUILT_IN.values() if plan.name in names or not names]
    plans = [plan.model_copy(update={"generation": generation}) for plan in chosen]
    console = Console(stderr=True)
    try:
        made = run(plans, output, Store(default_root()), jobs or len(os.sched_getaffinity(0)), console)
        catalogue = read_local(output)
        for plan in plans:
            numbered = number_made(plan, made[plan.name])
            seconds = {number: each.latency_seconds for number, each in numbered.items()}
            rows = tuple(row for row in catalogue.ladders[plan.name] if row.number in seconds)
            Console().print(ladder_table(plan.name, rows, seconds))
    except PortingError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"versions are in {output}; publish them: rung-port publish {output} s3://BUCKET/PREFIX --endpoint URL")


@main.command("publish")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("uri")
@click.option("--endpoint", help="http(s)://HOST:PORT of an S3 that is not AWS. [default: AWS_ENDPOINT_URL]")
@click.option("--all", "everything", is_flag=True, help="Versions too that another one beats in accuracy and cost.")
def publish_command(folder: Path, uri: str, endpoint: str | None, everything: bool) -> None:
    """Upload FOLDER to s3://BUCKET/PREFIX. Credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY."""

    async def body() -> int:
        from rung.adapters.s3 import ModelRepository
        from rung_porting.repository.publish import publish

        tally = await publish(folder, ModelRepository(uri, endpoint=endpoint), _say, everything=everything)
        click.echo(
            f"{tally.published} published, {tally.present} there already, {tally.dominated} left out, "
            f"{tally.faults} refused"
        )
        return tally.faults

    _finish(body)


@main.command("register")
@click.argument("uri")
@click.option("--endpoint", help="http(s)://HOST:PORT of an S3 that is not AWS. [default: AWS_ENDPOINT_URL]")
@click.option("--namespace", help="[default: that of the kubeconfig's context, or of the pod]")
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path), help="[default: KUBECONFIG, the pod's own, ~/.kube/config]"
)
@click.option("--context", help="A context of the kubeconfig.")
def register_command(
    uri: str, endpoint: str | None, namespace: str | None, kubeconfig: Path | None, context: str | None
) -> None:
    """Create or update the ModelVersion of every version at s3://BUCKET/PREFIX."""

    async def body() -> int:
        from rung.adapters.kubernetes import connect
        from rung.adapters.s3 import ModelRepository
        from rung_porting.repository.register import register

        async with connect(kubeconfig, context=context) as cluster:
            repository = ModelRepository(uri, endpoint=endpoint)
            tally = await register(repository, cluster, namespace or cluster.namespace, _say)
        click.echo(
            f"{tally.created} created, {tally.updated} updated, {tally.unchanged} unchanged, {tally.faults} refused"
        )
        return tally.faults

    _finish(body)


@main.command("show")
@click.argument("source")
@click.option("--endpoint", help="http(s)://HOST:PORT of an S3 that is not AWS. [default: AWS_ENDPOINT_URL]")
def show_command(source: str, endpoint: str | None) -> None:
    """Show the ladders of a folder or of s3://BUCKET/PREFIX."""
    _need("rich")

    async def body() -> int:
        from rich.console import Console

        from rung.adapters.s3 import ModelRepository
        from rung_porting.repository.catalogue import read_local, read_remote
        from rung_porting.show.table import ladder_table

        if "://" in source:
            catalogue = await read_remote(ModelRepository(source, endpoint=endpoint))
        else:
            catalogue = read_local(Path(source))
        console = Console()
        for task, rows in catalogue.ladders.items():
            console.print(ladder_table(task, rows))
        for fault in catalogue.faults:
            _say(f"refused: {fault}")
        return len(catalogue.faults)

    _finish(body)


def _say(line: str) -> None:
    click.echo(line, err=line.startswith("refused:"))


def _finish(body: Body) -> None:
    """Run a command's body; faults that were named give status 1, expected errors one line."""
    from rung.adapters.kubernetes import KubernetesError
    from rung.adapters.repository_errors import RepositoryError
    from rung_porting.errors import PortingError

    try:
        faults = asyncio.run(body())
    except (PortingError, RepositoryError, KubernetesError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    if faults:
        sys.exit(1)


def _need(*modules: str) -> None:
    """Say in one line what is missing, instead of a traceback."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise click.ClickException(f"this needs {', '.join(missing)}: pip install 'rung[porting]'")


def _add_profile() -> None:
    """The profiler needs the load generator's dependencies; without them the other commands still work."""
    try:
        from rung_porting.profiler.profile import profile as profile_command
    except ImportError as error:
        missing = str(error)

        @main.command("profile", context_settings={"ignore_unknown_options": True, "help_option_names": []})
        @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
        def unavailable(arguments: tuple[str, ...]) -> None:
            """Measure versions on a Triton (not installed here)."""
            raise click.ClickException(f"the profiler can't be loaded ({missing}): pip install 'rung[load]'")

    else:
        main.add_command(profile_command, "profile")


_add_profile()
