"""The `rung-port` command: versions from training to the cluster. Only `plan` and `run` need torch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rung_porting.cluster_commands import gather_command, trial_command
from rung_porting.needs import need
from rung_porting.run_commands import forecaster_command, plan_command, run_command

if TYPE_CHECKING:
    from rung_porting.show.view import TaskView

Body = Callable[[], Coroutine[Any, Any, int]]


@click.group()
@click.version_option(package_name="rung")
def main() -> None:
    """Make model versions for Rung, publish them to S3, profile them, register them in the cluster."""
    # Told to end, it ends its workers too, as on Ctrl-C; and in a container, as process 1, it ends at all.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def program() -> NoReturn:
    """Run the command as a program, which ends as soon as it has said everything.

    torch, obstore and others keep threads, and the interpreter that takes them down is aborted now and then, after the
    last word: a pod whose work is done would count as failed.
    """
    status = 0
    try:
        main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


@main.command("publish")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("uri")
@click.option("--endpoint", help="http(s)://HOST:PORT of an S3 that is not AWS. [default: AWS_ENDPOINT_URL]")
@click.option("--all", "everything", is_flag=True, help="Versions too that another one beats in accuracy and cost.")
@click.option(
    "--triton",
    metavar="HOST:PORT",
    help="A Triton (its gRPC address) on which every version must load and answer first, beside whatever it serves.",
)
def publish_command(folder: Path, uri: str, endpoint: str | None, everything: bool, triton: str | None) -> None:
    """Upload FOLDER to s3://BUCKET/PREFIX. Credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY."""

    async def body() -> int:
        from rung.adapters.s3 import ModelRepository
        from rung.adapters.triton import TritonClient
        from rung_porting.repository.publish import publish

        repository = ModelRepository(uri, endpoint=endpoint)
        async with TritonClient(triton) if triton is not None else contextlib.nullcontext() as server:
            tally = await publish(folder, repository, _say, everything=everything, server=server)
        click.echo(
            f"{tally.published} published, {tally.present} there already, {tally.dominated} left out, "
            f"{tally.faults} refused"
        )
        return tally.faults

    _finish(body)


@main.command("register")
@click.argument("uri")
@click.option("--endpoint", help="http(s)://HOST:PORT of an S3 that is not AWS. [default: AWS_ENDPOINT_URL]")
@click.option("--task", "tasks", metavar="TASK", multiple=True, help="Only this one; may be given several times.")
@click.option("--namespace", help="[default: that of the kubeconfig's context, or of the pod]")
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path), help="[default: KUBECONFIG, the pod's own, ~/.kube/config]"
)
@click.option("--context", help="A context of the kubeconfig.")
def register_command(
    uri: str,
    endpoint: str | None,
    tasks: tuple[str, ...],
    namespace: str | None,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Create or update the ModelVersion of every version at s3://BUCKET/PREFIX."""

    async def body() -> int:
        from rung.adapters.kubernetes import connect
        from rung.adapters.s3 import ModelRepository
        from rung_porting.repository.register import register

        async with connect(kubeconfig, context=context) as cluster:
            repository = ModelRepository(uri, endpoint=endpoint)
            tally = await register(repository, cluster, namespace or cluster.namespace, _say, tasks)
        click.echo(
            f"{tally.created} created, {tally.updated} updated, {tally.unchanged} unchanged, {tally.faults} refused"
        )
        return tally.faults

    _finish(body)


@main.command("show")
@click.argument("source")
@click.option("--endpoint", help="http(s)://HOST:PORT of an S3 that is not AWS. [default: AWS_ENDPOINT_URL]")
@click.option("--task", "tasks", metavar="TASK", multiple=True, help="Only this one; may be given several times.")
@click.option(
    "--hardware-class",
    metavar="CLASS",
    help="Judge by the throughput measured on this class. [default: the first that all versions were profiled on]",
)
@click.option(
    "--png",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Draw the frontiers: into one picture when PATH ends in .png, else one for each task in the folder PATH.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write one page with all there is to see, for any browser, without a network.",
)
@click.option("--card", metavar="TASK/VERSION", help="Print only the model card of this version, as Markdown.")
def show_command(
    source: str,
    endpoint: str | None,
    tasks: tuple[str, ...],
    hardware_class: str | None,
    png: Path | None,
    html: Path | None,
    card: str | None,
) -> None:
    """Show the ladders in SOURCE: a folder that `run` wrote, or s3://BUCKET/PREFIX.

    Prints a table for each task. A version is on the frontier while no other one beats it in both accuracy and cost.
    Cost is measured throughput where all versions of a task were profiled on one hardware class; before that it is only
    estimated, from the operations of one inference, and every picture says so.

    \b
      rung-port show out/models
      rung-port show out/models --html ladders.html --png ladders.png
      rung-port show s3://models/rung --hardware-class n100 --html ladders.html
      rung-port show s3://models/rung --card digits/1098820 > card.md
    """
    needed = [("rich", card is None), ("matplotlib", png is not None), ("plotly", html is not None)]
    need(*(name for name, wanted in needed if wanted), extra="show")

    async def body() -> int:
        from rung_porting.show.outputs import Source, look, render_card, write_page, write_pictures

        place = Source.named(source, endpoint)
        if card is not None:
            click.echo(await render_card(place, card), nl=False)
            return 0
        shown = await look(place, tasks, hardware_class)
        _print_tables(shown.views)
        if png is not None:
            for path in write_pictures(shown.views, png):
                click.echo(f"wrote {path}")
        if html is not None:
            write_page(shown, place, html)
            click.echo(f"wrote {html}")
        for fault in shown.faults:
            _say(f"refused: {fault}")
        return len(shown.faults)

    if card is not None and (png or html or tasks or hardware_class):
        raise click.UsageError("--card prints one card and nothing else: leave out the other options")
    _finish(body)


def _print_tables(views: Sequence[TaskView]) -> None:
    from rich.console import Console

    from rung_porting.show.table import ladder_table

    console = Console(width=None if sys.stdout.isatty() else 140)
    for view in views:
        console.print(ladder_table(view.task, view.rows))


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
main.add_command(forecaster_command)
main.add_command(trial_command)
main.add_command(gather_command)
