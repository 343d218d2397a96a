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
from rung_porting.outcome import Made, Outcome
from rung_porting.recipe import Recipe
from rung_porting.repository.catalogue import read_local
from rung_porting.repository.publish import publish
from rung_porting.search.explorer import Explorer
from rung_porting.show.record import read_record, record_path
from rung_porting.show.search import search_rows
from rung_porting.stages import Workshop

Say = Callable[[str], None]
LOST = "its pods failed"


@dataclass(frozen=True, slots=True)
class History:
    """A search up to some round."""

    explorer: Explorer
    recipes: tuple[Recipe, ...]
    """The trials of the round after it; none where the search is over."""

    @property
    def over(self) -> str:
        """Why the search is over; empty while it is not."""
        return "" if self.recipes else (self.explorer.why_over() or "nothing is left to try")


def history(workshop: Workshop, store: SharedStore, search: str, rounds: int | None) -> History:
    """Go through the first rounds of a search again, or through all of it (None), from what came of its trials.

    A trial without an outcome is one whose pods failed. That is written down, so that every pod, now and later, goes by
    the same history, whatever a pod that was taken for dead still does.

    Args:
        workshop: makes the versions of the plan.
        store: where outcomes are kept.
        search: what the outcomes of this search are kept under.
        rounds: so many rounds have ended; None: all of them.

    Raises:
        PortingError: there is no unpruned network.
        RepositoryError: S3 can't be reached.
    """
    explorer = Explorer(workshop.plan)
    done = 0
    while recipes := explorer.next_round():
        if done == rounds:
            return History(explorer, recipes)
        found = [store.outcome(search, f"{done}-{place}") for place in range(len(recipes))]
        if done == 0 and (found[0] is None or found[0].failure):
            raise PortingError(f"the unpruned network: {found[0].failure if found[0] else 'there is no outcome'}")
        outcomes = []
        for place, recipe in enumerate(recipes):
            outcome = found[place] or store.put_outcome(search, f"{done}-{place}", Outcome(recipe, (), LOST))
            if outcome.recipe != recipe:
                raise PortingError(
                    f"the outcome {done}-{place} of the search {search} is of another plan, or of another version of "
                    "the user's code: make another PortingJob"
                )
            outcomes.append(outcome)
        explorer.tell(outcomes)
        done += 1
    return History(explorer, ())


def make_trial(plan: PortingPlan, store: SharedStore, search: str, place: tuple[int, int], say: Say) -> dict[str, Any]:
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
    found = history(workshop, store, search, number)
    if index >= len(found.recipes):
        why = found.over or "this round has fewer trials"
        say(f"nothing is left for this pod: {why}")
        return {"over": found.over}
    outcome = store.outcome(search, f"{number}-{index}")
    if outcome is None:
        outcome = store.put_outcome(search, f"{number}-{index}", workshop.outcome(found.recipes[index]))
    for note in outcome.notes:
        say(note)
    for made in outcome.versions:
        say(f"{made.method()}: {made.accuracy:.2%}, {made.flops / 1e6:.3g} MFLOP")
    if outcome.failure:
        say(f"no version came of it: {outcome.failure}")
    return {"made": True, "failure": (outcome.failure or "")[:1000], "versions": [_words(m) for m in outcome.versions]}


async def gather(
    plan: PortingPlan, found: History, repository: ModelRepository, triton: str, say: Say
) -> tuple[int, list[dict[str, Any]]]:
    """Say what was tried; publish what survived of it, and loads and answers on a Triton.

    Returns how many versions were refused, and what the operator is told of the others, the best one first.

    Raises:
        PortingError: nothing could be published, or the Triton does not answer.
        RepositoryError: S3 can't be reached.
    """
    refused: list[str] = []

    def hear(line: str) -> None:
        say(line)
        if line.startswith("refused:"):
            refused.append(line)

    with tempfile.TemporaryDirectory(prefix="rung-gather-") as folder:
        root = Path(folder)
        write_ladder(plan, found.explorer.outcomes, found.over, root)
        for row in search_rows(read_record(record_path(root, plan.task))):
            say("  ".join(row))
        rows = read_local(root).ladders[plan.task]
        async with TritonClient(triton) as server:
            tally = await publish(root, repository, hear, server=server)
    if not tally.there:
        raise PortingError("; ".join(refused) or "there is nothing to publish")
    told = [
        {
            "version": row.number,
            "accuracy": row.spec.accuracy.value,
            "flops": row.spec.lineage.flops or 0,
            "method": row.spec.lineage.method,
        }
        for row in reversed(rows)
        if (plan.task, row.number) in tally.there
    ]
    return tally.faults, told


def _words(made: Made) -> dict[str, Any]:
    return {"accuracy": round(made.accuracy, 6), "flops": made.flops, "method": made.method()}
