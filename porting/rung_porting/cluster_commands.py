"""`rung-port trial` and `rung-port gather`: what the pods of a PortingJob run. People run `rung-port run`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rung_porting.cluster.last_words import leave
from rung_porting.errors import PortingError
from rung_porting.run_commands import need_torch

if TYPE_CHECKING:
    from rung.api.porting import PortingPlan
    from rung_porting.cluster.shared_store import SharedStore

_PLAN = click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path, dir_okay=False))
_WORKSPACE = click.option(
    "--workspace",
    required=True,
    help="s3://BUCKET/PREFIX for the results of stages; not the model repository.",
)


_SEARCH = click.option(
    "--search", required=True, metavar="NAME", help="What the outcomes of this search are kept under: one for each job."
)


@click.command("trial")
@_PLAN
@click.option("--round", "number", type=click.IntRange(0), required=True, help="The round of the search, from 0.")
@click.option(
    "--index", type=click.IntRange(0), required=True, envvar="JOB_COMPLETION_INDEX", show_envvar=True,
    help="The trial of the round, from 0.",
)  # fmt: skip
@_WORKSPACE
@_SEARCH
def trial_command(plan_file: Path, number: int, index: int, workspace: str, search: str) -> None:
    """Make one trial of PLAN's search, given what came of the rounds before it; for the pods of a PortingJob."""
    need_torch()
    from rung.adapters.repository_errors import RepositoryError
    from rung_porting.cluster.trial import make_trial

    try:
        import torch

        torch.set_num_threads(1)  # sums stay in one order, so that every pod computes the same
        plan, store = _open(plan_file, workspace)
        leave(**make_trial(plan, store, search, (number, index), click.echo))
    except (PortingError, RepositoryError, ValueError) as error:
        raise click.ClickException(str(error)) from None


@click.command("gather")
@_PLAN
@_WORKSPACE
@_SEARCH
@click.option("--repository", required=True, help="s3://BUCKET/PREFIX to publish in.")
@click.option("--triton", required=True, metavar="HOST:PORT", help="A Triton on which each must load and answer first.")
def gather_command(plan_file: Path, workspace: str, search: str, repository: str, triton: str) -> None:
    """Publish what survived of PLAN's search; for the pods of a PortingJob, after the last round."""
    need_torch()
    from rung.adapters.repository_errors import RepositoryError
    from rung.adapters.s3 import ModelRepository
    from rung_porting.cluster.trial import gather, history
    from rung_porting.stages import Workshop

    try:
        plan, store = _open(plan_file, workspace)
        found = history(Workshop(plan, store), store, search, None)
        for outcome in found.explorer.outcomes:
            store.fetch_models(outcome)
        faults, versions = asyncio.run(gather(plan, found, ModelRepository(repository), triton, click.echo))
    except (PortingError, RepositoryError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    leave(versions=versions, message=f"{faults} versions were refused; its log says why" if faults else "")


def _open(plan_file: Path, workspace: str) -> tuple[PortingPlan, SharedStore]:
    from rung.adapters.s3 import ModelRepository
    from rung_porting.cluster.shared_store import SharedStore
    from rung_porting.importing import look_beside
    from rung_porting.plan_file import read_plan

    plan = read_plan(str(plan_file))
    look_beside(plan_file.absolute().parent)
    root = Path(tempfile.gettempdir()) / "rung-stages"
    return plan, SharedStore(root, ModelRepository(workspace))
