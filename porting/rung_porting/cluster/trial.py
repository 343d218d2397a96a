"""One trial of a search that many pods make together, and what the whole search came to.

The search is deterministic, so nobody leads it: each pod computes from the outcomes of the rounds before which trial is
its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.adapters.s3 import ModelRepository
from rung.adapters.triton import TritonClient
from rung.api.porting import PortingPlan
from rung_porting.cluster.shared_store import SharedStore
from rung_porting.errors import PortingError
from rung_porting.ladder_files import write_ladder
from rung_porting.recipe import Recipe
from rung_porting.repository.catalogue import read_local
from rung_porting.repository.publish import publish
from rung_porting.search.explorer import Explorer
from rung_porting.show.record import read_record, record_path
from rung_porting.show.search import search_rows
from rung_porting.stages import Made, Outcome, Workshop
from rung_porting.store import digest_of

Say = Callable[[str], None]
LOST = "its pods failed"


@dataclass(frozen=True, slots=True)
class Searched:
    """A search up to some round."""

    explorer: Explorer
    recipes: tuple[Recipe, ...]
    """The trials of the round after it; none where the search is over."""

    @property
    def over(self) -> str:
        """Why the search is over; empty while it is not."""
        return "" if self.recipes else (self.explorer.why_over() or "nothing is left to try")


def search_name(workshop: Workshop) -> str:
    """Return the name under which the outcomes of a search are kept: of all that they depend on."""
    return digest_of({"common": workshop.common, "plan": workshop.plan.to_json()})


def searched(workshop: Workshop, store: SharedStore, rounds: int | None) -> Searched:
    """Go through the first rounds of a search again, or through all of it (None), from what came of its trials.

    A trial without an outcome is one whose pods failed. Raises PortingError, RepositoryError.
    """
    explorer, name = Explorer(workshop.plan), search_name(workshop)
    done = 0
    while recipes := explorer.next_round():
        if done == rounds:
            return Searched(explorer, recipes)
        found = [store.outcome(name, f"{done}-{place}") for place in range(len(recipes))]
        if done == 0 and (found[0] is None or found[0].failure):
            raise PortingError(f"the unpruned network: {found[0].failure if found[0] else 'there is no outcome'}")
        outcomes = [each or Outcome(recipe, (), LOST) for each, recipe in zip(found, recipes, strict=True)]
        explorer.tell(outcomes)
        done += 1
    return Searched(explorer, ())


def make_trial(plan: PortingPlan, store: SharedStore, place: tuple[int, int], say: Say) -> dict[str, Any]:
    """Make the trial of one round and index. Returns the last words of its pod.

    Raises:
        PortingError: the plan or the store can't be used. What fails in a trial is an outcome, not an error.
        RepositoryError: S3 can't be reached.
    """
    told: list[tuple[str, int]] = []

    def report(what: str, share: float) -> None:
        step = (what, int(share * 5))  # each fifth is worth a line in a log
        if not told or told[-1] != step:
            told.append(step)
            say(f"{what}: {share:.0%}")

    workshop = Workshop(plan, store, report)
    number, index = place
    found = searched(workshop, store, number)
    if index >= len(found.recipes):
        why = found.over or "this round has fewer trials"
        say(f"nothing is left for this pod: {why}")
        return {"over": found.over}
    name, key = search_name(workshop), f"{number}-{index}"
    outcome = store.outcome(name, key)
    if outcome is None:
        outcome = workshop.outcome(found.recipes[index])
        store.put_outcome(name, key, outcome)
    for note in outcome.notes:
        say(note)
    for made in outcome.versions:
        say(f"{made.method()}: {made.accuracy:.2%}, {made.flops / 1e6:.3g} MFLOP")
    if outcome.failure:
        say(f"no version came of it: {outcome.failure}")
    return {"made": True, "failure": (outcome.failure or "")[:1000], "versions": [_words(m) for m in outcome.versions]}


async def gather(
    plan: PortingPlan, found: Searched, repository: ModelRepository, triton: str, say: Say
) -> tuple[int, list[dict[str, Any]]]:
    """Say what was tried; publish what survived of it, and loads and answers on a Triton.

    Returns how many versions were refused, and what the operator is told of the others, the best one first. Raises
    PortingError, RepositoryError.
    """
    with tempfile.TemporaryDirectory(prefix="rung-gather-") as folder:
        root = Path(folder)
        write_ladder(plan, found.explorer.outcomes, found.over, root)
        for row in search_rows(read_record(record_path(root, plan.task))):
            say("  ".join(row))
        rows = read_local(root).ladders[plan.task]
        async with TritonClient(triton) as server:
            tally = await publish(root, repository, say, server=server)
    told = [
        {
            "version": row.number,
            "accuracy": row.spec.accuracy.value,
            "flops": row.spec.lineage.flops or 0,
            "method": row.spec.lineage.method,
        }
        for row in reversed(rows)
        if row.beaten_by is None
    ]
    return tally.faults, told


def _words(made: Made) -> dict[str, Any]:
    return {"accuracy": round(made.accuracy, 6), "flops": made.flops, "method": made.method()}
