"""The command line: `python -m rung_devcluster up | status | down | kubectl | exec | images | prepare`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from rung_devcluster.cluster import control, report
from rung_devcluster.cluster.cgroups import CgroupError
from rung_devcluster.cluster.loading import ImageError, inside
from rung_devcluster.cluster.spec import DEFAULT_HARDWARE_CLASS, HARDWARE_CLASS_LABEL, SpecError, cluster_spec
from rung_devcluster.cluster.supervision import UpError
from rung_devcluster.cluster.sweep import SweepError
from rung_devcluster.commands import CommandError
from rung_devcluster.images import ImagesError, build_images
from rung_devcluster.progress import to_stderr
from rung_devcluster.provisions import system_archives, tools_of_a_cluster
from rung_devcluster.system import MachineError, ensure_packages, require_root
from rung_devcluster.tools import CATALOGUE, ToolError, ensure_tools

EXPECTED = (
    control.ClusterError,
    CgroupError,
    CommandError,
    ImageError,
    ImagesError,
    MachineError,
    SpecError,
    SweepError,
    ToolError,
)

name_option = click.option(
    "--name",
    default="rung",
    show_default=True,
    envvar="RUNG_DEVCLUSTER_NAME",
    show_envvar=True,
    help="Which cluster; several live side by side under different names.",
)


class _Group(click.Group):
    """Says what is expected to go wrong in one message without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UpError as error:
            to_stderr(f"The cluster did not come up: {error.component} {error.reason}.")
            if error.lines:
                to_stderr("The last lines of its log:")
                for line in error.lines:
                    to_stderr(f"    {line}")
            to_stderr("Nothing is left of it.")
            sys.exit(1)
        except EXPECTED as error:
            to_stderr(str(error))
            sys.exit(1)


@click.group(cls=_Group)
def main() -> None:
    """A real Kubernetes on one Linux machine, inside namespaces of its own.

    Needs root. Nothing else of this project needs this cluster: with KUBECONFIG set, any cluster will do.
    """


@main.command()
@name_option
@click.option("--nodes", default=1, show_default=True, type=click.IntRange(1, 3), help="How many nodes.")
@click.option(
    "--node-class",
    "node_classes",
    multiple=True,
    metavar="NODE=CLASS",
    help=f"The label {HARDWARE_CLASS_LABEL} of a node (1, 2, 3); else it is {DEFAULT_HARDWARE_CLASS!r}.",
)
@click.option("--node-label", "node_labels", multiple=True, metavar="NODE:KEY=VALUE", help="A further label of a node.")
@click.option(
    "--extra-arg",
    "extra_arguments",
    multiple=True,
    metavar="COMPONENT=ARGUMENT",
    help="An argument to append to a component's command line, such as kubelet=--v=4.",
)
@click.option("--foreground", is_flag=True, help="Stay, and take the cluster down at Ctrl-C.")
def up(
    name: str,
    nodes: int,
    node_classes: tuple[str, ...],
    node_labels: tuple[str, ...],
    extra_arguments: tuple[str, ...],
    *,
    foreground: bool,
) -> None:
    """Start a cluster; return when its nodes and its DNS are ready."""
    require_root()
    labels: dict[str, dict[str, str]] = {}
    for text in node_labels:
        node, rest = _split(text, ":", "NODE:KEY=VALUE")
        key, value = _split(rest, "=", "NODE:KEY=VALUE")
        labels.setdefault(node, {})[key] = value
    extra: dict[str, tuple[str, ...]] = {}
    for text in extra_arguments:
        component, argument = _split(text, "=", "COMPONENT=ARGUMENT")
        extra[component] = (*extra.get(component, ()), argument)
    spec = cluster_spec(
        name,
        nodes=nodes,
        node_classes=dict(_split(text, "=", "NODE=CLASS") for text in node_classes),
        node_labels=labels,
        extra_arguments=extra,
    )
    running = control.find(name)
    if running is not None and running.state.ready and running.spec == spec and not foreground:
        to_stderr(f"The cluster {name} is up already.")
        _print_kubeconfig(running)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ensure_packages(to_stderr)
    tools, archives = tools_of_a_cluster(to_stderr), system_archives(to_stderr)
    to_stderr(f"Starting the cluster {name}: {nodes} node{'s' if nodes > 1 else ''}.")
    try:
        cluster = control.up(spec, tools, archives, tell=_tell, foreground=_stay if foreground else None)
    except KeyboardInterrupt:
        to_stderr("Stopped; nothing is left of the cluster.")
        sys.exit(130)
    if not foreground:
        _print_kubeconfig(cluster)


def _split(text: str, separator: str, form: str) -> tuple[str, str]:
    left, found, right = text.partition(separator)
    if not found or not left:
        raise click.UsageError(f"{text!r} is not of the form {form}")
    return left, right


def _tell(event: Mapping[str, Any]) -> None:
    if event["event"] == "ready":
        to_stderr(f"  {event['node']}: {event['component']} ready after {event['seconds']:.1f} s")
    elif event["event"] == "up":
        to_stderr(f"Ready after {event['seconds']:.1f} s.")


def _print_kubeconfig(cluster: control.RunningCluster) -> None:
    click.echo(f"export KUBECONFIG={cluster.kubeconfig}")


def _stay(cluster: control.RunningCluster) -> None:
    _print_kubeconfig(cluster)
    to_stderr("Ctrl-C takes it down.")
    while cluster.state.supervisor.is_alive():
        time.sleep(0.5)
    raise control.ClusterError("the cluster ended by itself")


@main.command()
@name_option
def down(name: str) -> None:
    """End a cluster and remove everything of it."""
    require_root()
    to_stderr(f"The cluster {name} is gone." if control.down(name) else f"There was no cluster {name}.")


@main.command()
@name_option
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(name: str, output: str) -> None:
    """Say what runs; the exit status is 3 when there is no such cluster."""
    require_root()
    cluster = control.find(name)
    if cluster is None:
        to_stderr(f"There is no cluster {name}.")
        sys.exit(3)
    facts = report.facts_of(cluster)
    click.echo(json.dumps(facts, indent=2) if output == "json" else report.as_text(facts))


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@name_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(name: str, arguments: tuple[str, ...]) -> None:
    """Run kubectl against a cluster."""
    cluster = _the(name)
    path = str(cluster.tools["kubectl"])
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    os.execve(path, [path, *arguments], environment)  # noqa: S606 (this is what it is for)


@main.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@name_option
@click.option("--node", default=1, show_default=True, type=click.IntRange(1, 3), help="The node's number.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, node: int, command: tuple[str, ...]) -> None:
    """Run a program inside a node's namespaces, such as `ctr -n k8s.io containers ls`."""
    cluster = _the(name)
    if node > len(cluster.spec.nodes):
        raise control.ClusterError(f"{name} has no node {node}")
    words = [*inside(cluster.state.nodes[cluster.spec.nodes[node - 1].name].pid), "--", *command]
    os.execvp(words[0], words)  # noqa: S606 (this is what it is for)


@main.command()
@name_option
@click.option("--build-only", is_flag=True, help="Build the archives without loading them into the cluster.")
@click.argument("names", nargs=-1)
def images(name: str, names: tuple[str, ...], *, build_only: bool) -> None:
    """Build the project's images (or those of the given NAMES) and load them into a cluster, if it is up.

    Prints each image's reference and its archive. What did not change is neither built nor loaded again.
    """
    require_root()
    cluster = None if build_only else control.find(name)
    if cluster is None or not cluster.state.ready:
        cluster = None
        if not build_only:
            to_stderr(f"There is no cluster {name} that is up: the images are built and loaded nowhere.")
    ensure_packages(to_stderr)
    for reference, archive in build_images(names or None, to_stderr).items():
        if cluster is not None:
            began = time.monotonic()
            new = control.load_image(cluster, archive)
            said = f"loaded into {new} in {time.monotonic() - began:.1f} s" if new else "there already"
            to_stderr(f"images: {reference}: {said}")
        click.echo(f"{reference}\t{archive}")


@main.command()
def prepare() -> None:
    """Make everything that a cluster and its images are made of, so that `up` and `images` take seconds.

    Without root: the programs alone.
    """
    ensure_tools(CATALOGUE, to_stderr)
    if os.geteuid() == 0:
        ensure_packages(to_stderr)
        system_archives(to_stderr)
        build_images(None, to_stderr)


def _the(name: str) -> control.RunningCluster:
    require_root()
    cluster = control.find(name)
    if cluster is None or not cluster.state.ready:
        raise control.ClusterError(f"there is no cluster {name!r} that is up: `python -m rung_devcluster up`")
    return cluster
