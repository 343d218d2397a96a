"""`python -m rung_sim.experiments NAME...`: runs experiments and writes their pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from rung_sim.experiments.colocation import ablations, one_server, reflex, whole_day
from rung_sim.experiments.cores import infadapter
from rung_sim.experiments.distributed import distributed
from rung_sim.experiments.disturbed import wrong_profiles
from rung_sim.experiments.page import Page
from rung_sim.experiments.setting import SEEDS, NoDataError

EXPERIMENTS: dict[str, Callable[[Path, Sequence[int], Callable[[str], None]], Page]] = {
    "colocation": one_server,
    "distributed": distributed,
    "infadapter": infadapter,
    "day": whole_day,
    "disturbed": wrong_profiles,
    "reflex": reflex,
    "ablations": ablations,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice([*EXPERIMENTS, "all"]), required=True)
@click.option(
    "--data", default=Path("../shared/data"), show_default=True, type=click.Path(path_type=Path),
    help="Folder of the real traces and profiles, which are not part of the project.",
)  # fmt: skip
@click.option(
    "--seeds", default=len(SEEDS), show_default=True, type=click.IntRange(1, 100), help="Runs of each setting."
)
@click.option(
    "--lstm", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A network that `rung-port forecaster` trained, for the experiment infadapter.",
)  # fmt: skip
@click.option("--out", default=Path("docs/experiments"), show_default=True, type=click.Path(path_type=Path))
def main(names: tuple[str, ...], data: Path, seeds: int, lstm: Path | None, out: Path) -> None:
    """Run experiments; each writes a page with its table and its picture. The same seeds give the same page."""
    for name in EXPERIMENTS if "all" in names else dict.fromkeys(names):
        click.echo(f"{name}:")
        try:
            run = partial(infadapter, lstm=lstm) if name == "infadapter" else EXPERIMENTS[name]
            page = run(data, range(seeds), lambda words: click.echo(f"  {words}"))
        except NoDataError as error:
            raise click.ClickException(str(error)) from None
        page.write(out, name)
        click.echo(f"  written: {out / name}.md")
        for line in page.findings:
            click.echo(f"  {line}")


if __name__ == "__main__":
    main()
