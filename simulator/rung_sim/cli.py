"""The command `rung simulate`: what each policy would have done with a trace. Heavy imports wait until it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

DEFAULT_POLICIES = ("Frontier", "Stepwise", "Best", "Cheapest")


@click.command(
    epilog="Example: rung simulate digits=digits.txt parity=parity.txt --pool pool.yaml --policy Frontier --policy Best"
)
@click.argument("demand", nargs=-1, required=True, metavar="TASK=FILE...")
@click.option(
    "--pool", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="The objects as applied with kubectl: one ServingPool, its InferenceTasks and their ModelVersions "
    "(kubectl get spool,itask,mver -o yaml > pool.yaml).",
)  # fmt: skip
@click.option("--servers", default=1, show_default=True, type=click.IntRange(1, 1000), help="Servers in the pool.")
@click.option("--cores", default=1.0, show_default=True, type=float, help="CPU limit of each server.")
@click.option(
    "--hardware-class", default="default", show_default=True, help="Their hardware class: which profiles count."
)
@click.option(
    "--policy", "policies", multiple=True,
    help="A policy, or Best, Cheapest, SlackFit, Oracle; may be given several times.  "
    f"[default: {', '.join(DEFAULT_POLICIES)}]",
)  # fmt: skip
@click.option("--reflex", is_flag=True, help="Also each policy with the reflex, if the pool has it not.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Decides when requests arrive.")
@click.option("--warm-up", default=0, show_default=True, type=click.IntRange(0), help="First seconds that don't count.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the pictures and the full record; made if it is not there.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object by policy instead of the table.")
def simulate(
    demand: tuple[str, ...],
    pool: Path,
    servers: int,
    cores: float,
    hardware_class: str,
    policies: tuple[str, ...],
    reflex: bool,
    seed: int,
    warm_up: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Say what Rung would have done with a trace: each policy's own code, on servers that are simulated.

    FILE holds the requests of each second for TASK, one number a line; `rung record` makes such files from a
    Prometheus. In place of a file: constant:RATE:SECONDS, linear:START:STEP:EVERY:SECONDS,
    exponential:START:FACTOR:EVERY:SECONDS, sinus:MEAN:AMPLITUDE:PERIOD:SECONDS, waves:MEAN:AMPLITUDE:SEED:SECONDS.
    Every policy gets the same requests at the same moments.
    """
    try:
        from rung_loadgen.trace import TraceError  # noqa: PLC0415 - --help has to work without numpy
        from rung_sim.comparison import Bad, compare, read_demand  # noqa: PLC0415
        from rung_sim.report import print_table, write_report  # noqa: PLC0415
        from rung_sim.world import SimulatedServer, WorldError, read_world  # noqa: PLC0415
    except ImportError as error:
        raise click.ClickException(
            f"the simulator needs more than the operator: pip install 'rung[sim]' ({error})"
        ) from error

    if not 0.01 <= cores <= 1024:
        raise click.BadParameter(f"{cores:g} is not from 0.01 to 1024", param_hint="--cores")
    try:
        rates = read_demand(demand)
        world = read_world(pool, [SimulatedServer(f"server-{n}", cores, hardware_class) for n in range(servers)])
        results = compare(
            world, rates, policies or DEFAULT_POLICIES, seed=seed, warm_up_seconds=warm_up, reflex=reflex,
            progress=not as_json,
        )  # fmt: skip
        if out is not None:
            write_report(out, results, rates)
    except (Bad, TraceError, WorldError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{out}: can't be written: {error.strerror or error}") from None
    if as_json:
        json.dump({result.label: result.outcome.to_json() for result in results}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print_table(results)
        if out is not None:
            click.echo(f"Pictures and the full record are in {out}.")
