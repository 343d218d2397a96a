"""The `rung-port` command: versions from training to the cluster. Only `plan` and `run` need torch."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from rung_porting.run_commands import plan_command, run_command

Body = Callable[[], Coroutine[Any, Any, int]]


@click.group()
@click.version_option(package_name="rung")
def main() -> None:
    """Make model versions for Rung, publish them to S3, profile them, register them in the cluster."""
    # Told to end, it ends its workers too, as on Ctrl-C; and in a container, as process 1, it ends at all.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


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
main.add_command(plan_command)
main.add_command(run_command)
