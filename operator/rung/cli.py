"""The `rung` command: runs the operator, and tells people what it does and why."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

MORE_COMMANDS = "rung.commands"
"""Entry points of this group are commands of other packages, which the operator itself must not import."""


class _Commands(click.Group):
    """The commands of this file, and those that other packages add."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_more_commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        entry = _more_commands().get(cmd_name) if found is None else None
        if entry is None:
            return found
        command: click.Command = entry.load()
        return command


def _more_commands() -> dict[str, EntryPoint]:
    """Return the commands of the packages that are here; the operator's image has its own alone."""
    return {
        entry.name: entry
        for entry in entry_points(group=MORE_COMMANDS)
        if find_spec(entry.module.partition(".")[0]) is not None
    }


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="rung")
def main() -> None:
    """Keeps inference in time on hardware that cannot grow, by swapping each task's model version.

    `rung tasks` says what every task is on, `rung explain TASK` why. Both read the cluster that KUBECONFIG names (or
    the one this runs in), with your own rights. `rung record` and `rung simulate` tell, before anything is installed,
    what it would have done with the demand of the past.
    """


def _async(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Let click call a coroutine; an error of the cluster becomes one sentence and exit status 1."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        from rung.adapters.kubernetes import KubernetesError  # noqa: PLC0415 - heavy, and not needed for --help
        from rung.api import InvalidObject  # noqa: PLC0415

        try:
            asyncio.run(function(*args, **kwargs))  # type: ignore[arg-type]
        except (KubernetesError, InvalidObject) as error:
            click.echo(f"rung: {error}", err=True)
            sys.exit(1)

    return call


def _is_address(text: str) -> bool:
    port = text.rpartition(":")[2]
    return ":" in text and port.isdigit() and int(port) < 65536


namespace_option = click.option(
    "-n", "--namespace", default=None, help="Namespace; by default that of the current context."
)


@main.command()
@click.option(
    "--namespaces", default="default", show_default=True, envvar="RUNG_NAMESPACES",
    help="Namespaces to look after, separated by commas; * for all.",
)  # fmt: skip
@click.option("--listen", default="0.0.0.0:8080", show_default=True, help="Where /healthz and /metrics answer.")
@click.option(
    "--balancer-listen", default=None, envvar="RUNG_BALANCER_LISTEN",
    help="HOST:PORT where balancers (Envoy) ask where to send requests; without it there are none.",
)  # fmt: skip
@click.option(
    "--porting-templates", type=click.Path(path_type=Path, dir_okay=False), envvar="RUNG_PORTING_TEMPLATES",
    help="Pod templates for PortingJobs, as the chart writes them; without it none is carried out.",
)  # fmt: skip
@click.option(
    "--log-level", default="INFO", show_default=True,
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="At INFO the log is silent while nothing changes.",
)  # fmt: skip
@click.option("--log-format", default="json", show_default=True, type=click.Choice(["json", "text"]))
def operator(
    namespaces: str,
    listen: str,
    balancer_listen: str | None,
    porting_templates: Path | None,
    log_level: str,
    log_format: str,
) -> None:
    """Run the operator until it is told to stop."""
    from rung.control.logs import configure_logs  # noqa: PLC0415
    from rung.control.porting_manifests import BadTemplates, read_templates  # noqa: PLC0415
    from rung.main import CannotStart, run  # noqa: PLC0415

    configure_logs(log_level.upper(), log_format)
    if not _is_address(listen):
        raise click.BadParameter(f"{listen} is no HOST:PORT", param_hint="--listen")
    if balancer_listen is not None and not _is_address(balancer_listen):
        raise click.BadParameter(f"{balancer_listen} is no HOST:PORT", param_hint="--balancer-listen")
    names = [name.strip() for name in namespaces.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("names no namespace; * is all of them", param_hint="--namespaces")
    everywhere = "*" in names
    try:
        templates = read_templates(porting_templates) if porting_templates is not None else None
        run(
            namespaces=() if everywhere else names, clusterwide=everywhere, listen=listen,
            balancer_listen=balancer_listen, templates=templates,
        )  # fmt: skip
    except (CannotStart, BadTemplates) as error:
        click.echo(f"rung: the operator can't start: {error}", err=True)
        sys.exit(1)


@main.command()
@click.argument("task")
@namespace_option
@click.option("--last", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many events to show.")
@_async
async def explain(task: str, namespace: str | None, last: int) -> None:
    """Say what TASK is on, and why: its state, and its last decisions as sentences with their numbers."""
    from rung.control.explain import explain_task  # noqa: PLC0415

    click.echo(await explain_task(task, namespace, last))


@main.command()
@namespace_option
@_async
async def tasks(namespace: str | None) -> None:
    """List the tasks of a namespace, with what each is on and why."""
    from rung.control.explain import list_tasks  # noqa: PLC0415

    click.echo(await list_tasks(namespace))


@main.command()
@click.option("--operator", "operator_url", default=None, help="Address of the operator, http://HOST:PORT.")
@click.option("--triton", default=None, help="HOST:PORT of Triton's gRPC API.")
@click.option("--deadline", default=60.0, show_default=True, help="Seconds to wait for both.")
def check(operator_url: str | None, triton: str | None, deadline: float) -> None:
    """Check that an operator and a Triton answer; `helm test` runs this. Exit status 1 when one does not."""
    from rung.control.check import check_operator, check_triton  # noqa: PLC0415

    async def both() -> list[str]:
        checks = []
        if operator_url:
            checks.append(check_operator(operator_url, deadline))
        if triton:
            checks.append(check_triton(triton, deadline))
        return [fault for fault in await asyncio.gather(*checks) if fault]

    faults = asyncio.run(both())
    for fault in faults:
        click.echo(f"rung: {fault}", err=True)
    if faults:
        sys.exit(1)
    click.echo("everything answers")


@main.command()
@click.argument("task", nargs=-1, required=True, metavar="TASK...")
@click.option("--prometheus", "url", required=True, help="Address of the Prometheus, http://HOST:9090.")
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of the Triton pods.")
@click.option(
    "--last", default="1h", show_default=True, help="How much of the past, up to a week, such as 30m or 168h."
)
@click.option(
    "--window", default=5, show_default=True, type=click.IntRange(1, 600),
    help="Seconds over which each rate is taken; at least twice the scrape interval.",
)  # fmt: skip
@click.option(
    "--out", default=".", show_default=True, type=click.Path(path_type=Path, file_okay=False),
    help="Folder for TASK.txt, made if it is not there.",
)  # fmt: skip
@click.option("--deadline", default=30.0, show_default=True, help="Seconds to wait for each answer.")
def record(task: tuple[str, ...], url: str, namespace: str, last: str, window: int, out: Path, deadline: float) -> None:
    """Write the requests that each TASK got in every second of the past into TASK.txt, for `rung simulate`.

    It counts what any Triton exports, so Rung need not be installed; TASK is the name of the model there.
    """
    from rung.control.recording import CannotRecord, record_to_files  # noqa: PLC0415

    try:
        for sentence in record_to_files(task, url, namespace, last, window, out, deadline):
            click.echo(sentence)
    except CannotRecord as error:
        click.echo(f"rung: {error}", err=True)
        sys.exit(1)
