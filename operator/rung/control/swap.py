"""The swap executor: brings one task on one server to its target, in place under one model name.

No request is lost on the way: what answered goes on answering until the new version is ready. Nothing is remembered
between two calls; each starts from what the server says is loaded, so an operator that was killed in the middle of a
swap, and its successor, end where they should. Calls for one task on one server must not overlap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rung.adapters.triton import (
    DeadlineExceeded,
    IndexEntry,
    Refused,
    State,
    TooLarge,
    TritonClient,
    TritonError,
    Unreachable,
)
from rung.control.swap_plan import MemoryBudget, Room
from rung.core.plan import Target
from rung.core.swap_steps import Purpose, Step, plan_steps

__all__ = [
    "DEFAULT_DEADLINES",
    "Deadlines",
    "Kind",
    "MemoryBudget",
    "Outcome",
    "SwapOutcome",
    "apply",
    "load_standbys",
    "ready_versions",
]

UNLOAD_POLL_SECONDS = 0.05


class Kind(StrEnum):
    """What a swap had to do: nothing, drop what was above a loaded version, or load the version first."""

    NONE = "none"
    WARM = "warm"
    COLD = "cold"


class Outcome(StrEnum):
    """How a swap ended. Whatever it is, what answered before goes on answering, unless it is OK."""

    OK = "ok"
    LOAD_FAILED = "load_failed"  # the server refused the version
    TIMED_OUT = "timed_out"  # the load passed its deadline on a server that answers otherwise
    REFUSED_MEMORY = "refused_memory"  # not tried: it would not fit
    UNREACHABLE = "unreachable"  # the server does not answer, or hangs
    ROLLED_BACK = "rolled_back"  # it loaded, and then did not answer as it should


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long the executor waits for the server, in seconds."""

    load: float = 30.0
    change: float = 5.0
    """For dropping versions, which takes milliseconds where nothing else is being loaded."""
    query: float = 2.0
    verify: float = 2.0
    """For one inference on zeros. Triton takes a second to notice that a version's process is dead."""
    unload: float = 10.0
    """For a dropped version to give its memory back."""


DEFAULT_DEADLINES = Deadlines()


@dataclass(frozen=True, slots=True)
class SwapOutcome:
    """What a call did. `from_version` is what answered before (None: nothing did), `to_version` what was wanted.

    `duration_seconds` is the time from the call to the moment from which new requests are answered by the new version;
    without success the time until the executor gave up. `answering` is what answers now, None when nobody knows.
    """

    kind: Kind
    outcome: Outcome
    from_version: int | None
    to_version: int
    duration_seconds: float
    sentence: str
    answering: int | None = None
    hung: frozenset[int] = frozenset()
    """Versions whose load was begun before this swap and does not end: the server holds back every other change of the
    task behind it, for ever if the process that loads has died. Then only a new start of the server helps."""

    @property
    def ok(self) -> bool:
        """Whether the target answers."""
        return self.outcome is Outcome.OK

    @property
    def blamed(self) -> frozenset[int]:
        """The versions to mark as broken on this server: none for a drop that had to wait too long."""
        if self.hung:
            return self.hung
        failed = self.outcome in {Outcome.LOAD_FAILED, Outcome.ROLLED_BACK}
        late = self.outcome is Outcome.TIMED_OUT and self.kind is Kind.COLD
        return frozenset({self.to_version}) if failed or late else frozenset()


def ready_versions(index: tuple[IndexEntry, ...], model: str) -> frozenset[int]:
    """Return the versions of a model that are loaded and ready; the highest of them answers."""
    return frozenset(entry.number for entry in index if entry.model == model and entry.state is State.READY)


def loading_versions(index: tuple[IndexEntry, ...], model: str) -> frozenset[int]:
    """Return the versions of a model that are being loaded."""
    return frozenset(entry.number for entry in index if entry.model == model and entry.state is State.LOADING)


class _Fault(Exception):  # noqa: N818 - it isn't a programming error
    """The swap can't be done, and it isn't the connection: carries the outcome, a sentence, and what hung before it."""

    def __init__(self, outcome: Outcome, sentence: str, hung: frozenset[int] = frozenset()) -> None:
        super().__init__(sentence)
        self.outcome = outcome
        self.hung = hung


class _Swap:
    """One task on one server, for the length of one call."""

    def __init__(self, server: TritonClient, task: str, target: Target, config_text: str, deadlines: Deadlines) -> None:
        self.server = server
        self.task = task
        self.target = target
        self.config_text = config_text
        self.deadlines = deadlines
        self.started = time.monotonic()
        self.switched_seconds = 0.0
        self.loading_before: frozenset[int] = frozenset()

    def seconds(self) -> float:
        return time.monotonic() - self.started

    async def index(self) -> tuple[IndexEntry, ...]:
        """The index; a server that doesn't answer even that is as good as gone."""
        try:
            return await self.server.index(self.deadlines.query)
        except DeadlineExceeded as error:
            raise Unreachable(f"the server hangs: {error}") from error

    async def loaded(self) -> frozenset[int]:
        return ready_versions(await self.index(), self.task)

    async def look_first(self) -> frozenset[int]:
        """What is loaded before the first step. A load that goes on already is none of this swap, and remembered."""
        index = await self.index()
        self.loading_before = loading_versions(index, self.task)
        return ready_versions(index, self.task)

    async def take(self, step: Step, before: frozenset[int]) -> None:
        """Take one step. Raises _Fault when the server refuses it or a load takes too long."""
        adds = step.versions - before
        deadline_seconds = self.deadlines.load if adds else self.deadlines.change
        try:
            await self.server.load(self.task, step.versions, self.config_text, deadline_seconds)
        except Refused as error:
            what = f"load {_named(adds)}" if adds else f"drop all but {_named(step.versions)}"
            raise _Fault(Outcome.LOAD_FAILED, f"the server refused to {what}: {error}") from error
        except DeadlineExceeded as error:
            index = await self.index()  # raises Unreachable when it is the server that hangs, and not the load
            what = f"loading {_named(adds)}" if adds else f"dropping all but {_named(step.versions)}"
            sentence = f"{what} took longer than {deadline_seconds:g} s"
            hung = loading_versions(index, self.task) - (adds - self.loading_before)
            if hung:
                sentence += f", behind a load of {_named(hung)} that does not end"
            raise _Fault(Outcome.TIMED_OUT, sentence, hung) from error
        if max(step.versions) == self.target.active:
            self.switched_seconds = self.switched_seconds or self.seconds()

    async def put_back(self, before: frozenset[int]) -> str:
        """Have what was loaded before loaded again, and nothing else; returns what there is to say about it."""
        try:
            index = await self.index()
            ready = ready_versions(index, self.task)
            if not before or (ready == before and not loading_versions(index, self.task)):
                return ""
            # Requests for one model wait for each other in the server. So behind a load that hangs this one is
            # carried out later, and undoes it; there is no need to wait for that.
            await self.server.load(
                self.task, before, self.config_text, self.deadlines.change if before <= ready else self.deadlines.load
            )
        except DeadlineExceeded:
            return "" if before <= ready else f"; {_named(before)} could not be put back in time"
        except TritonError as error:
            return f"; {_named(before)} could not be put back: {error}"
        return "" if before <= ready else f"; {_named(before)} had to be loaded again"

    async def verify(self, expected: int, *, by_number: bool) -> None:
        """Check by an inference that the version works: asked for by its number, or as the one that answers.

        Under overload the zeros may wait behind other requests for longer than they are worth; then the index says.
        """
        try:
            answered = await self.server.answering_version(
                self.task,
                self.deadlines.verify,
                version=expected if by_number else None,
                config_text=self.config_text,
            )
        except (DeadlineExceeded, TooLarge):
            ready = await self.loaded()
            answered = expected if by_number and expected in ready else max(ready, default=0)
        except Refused as error:
            if by_number and expected not in await self.loaded():
                # Triton loads what it finds of a set of versions, and calls that a success.
                sentence = f"the server has no files of version {expected} that it can load"
                raise _Fault(Outcome.LOAD_FAILED, sentence) from error
            raise _Fault(Outcome.ROLLED_BACK, f"version {expected} was loaded, but does not answer: {error}") from error
        if answered != expected:
            what = f"version {answered} answers" if answered else "nothing answers"
            raise _Fault(Outcome.ROLLED_BACK, f"version {expected} was loaded, but {what}")

    async def wait_until_unloaded(self, versions: frozenset[int]) -> bool:
        """Poll the index until these versions are gone: unloading is asynchronous, and so is their memory."""
        deadline = time.monotonic() + self.deadlines.unload
        while True:
            held = {State.READY, State.LOADING, State.UNLOADING}
            index = await self.index()
            if not any(e.model == self.task and e.number in versions and e.state in held for e in index):
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(UNLOAD_POLL_SECONDS)


async def apply(
    server: TritonClient,
    task: str,
    target: Target,
    *,
    config_text: str,
    deadlines: Deadlines = DEFAULT_DEADLINES,
    memory: MemoryBudget | None = None,
    versions_memory: Mapping[int, int] | None = None,
    loaded: frozenset[int] | None = None,
) -> SwapOutcome:
    """Make `target.active` answer for the task (its Triton model name) on this server. Then call `load_standbys`.

    Standbys that are loaded and still wanted stay; everything else is dropped. `versions_memory` has each version's
    peak in bytes. `loaded` is what the caller last saw to be ready: when the target is in it, the drop is the first
    thing that the server is asked, one question sooner; when it is wrong, the swap is still safe.
    Raises nothing for what a server does: the outcome says it. Cancelling it leaves the server serving.
    """
    swap = _Swap(server, task, target, config_text, deadlines)
    before = loaded or frozenset()
    kind = Kind.NONE
    try:
        if target.active not in before or target.active == max(before):
            before = await swap.look_first()
        kind = _kind(before, target)
        await _bring_up(swap, before, kind, Room(memory, versions_memory or {}))
    except _Fault as fault:
        # A version that was loaded and doesn't answer is not put back: loaded anew, it gets a new process.
        alive = before - {target.active} if fault.outcome is Outcome.ROLLED_BACK else before
        back = "" if fault.outcome is Outcome.REFUSED_MEMORY else await swap.put_back(alive)
        return await _gave_up(swap, kind, before, fault, back)
    except TritonError as error:
        return await _gave_up(swap, kind, before, _Fault(Outcome.UNREACHABLE, str(error)))
    origin = max(before, default=None)
    return SwapOutcome(
        kind=kind,
        outcome=Outcome.OK,
        from_version=origin,
        to_version=target.active,
        duration_seconds=swap.switched_seconds,
        sentence=_success(kind, origin, target.active, swap.switched_seconds),
        answering=target.active,
    )


async def load_standbys(
    server: TritonClient,
    task: str,
    target: Target,
    *,
    config_text: str,
    deadlines: Deadlines = DEFAULT_DEADLINES,
    memory: MemoryBudget | None = None,
    versions_memory: Mapping[int, int] | None = None,
) -> tuple[SwapOutcome, ...]:
    """Load the target's standbys one after the other, nearest first, below the version that answers.

    Does nothing unless `target.active` answers. Returns one outcome for each standby that had to be loaded (its
    `to_version`); the first that fails is the last. While a standby loads, the server makes other changes of the same
    task wait. Raises nothing for what a server does. Cancelling it leaves the server serving.
    """
    swap = _Swap(server, task, target, config_text, deadlines)
    room = Room(memory, versions_memory or {})
    outcomes: list[SwapOutcome] = []
    added: frozenset[int] = frozenset()
    before: frozenset[int] = frozenset()
    number = target.active
    try:
        before = await swap.look_first()
        if max(before, default=None) != target.active:
            return ()
        for step in plan_steps(before, target):
            swap.started = time.monotonic()
            new = step.versions - before
            if new:
                (number,) = new
                _require(room, number, added)
            await swap.take(step, before)
            if new:
                await swap.verify(number, by_number=True)
                sentence = f"version {number} stands by below version {target.active} after {swap.seconds():.3g} s"
                outcomes.append(_standby(swap, number, Outcome.OK, sentence))
            before, added = step.versions, added | new
    except _Fault as fault:
        back = "" if fault.outcome is Outcome.REFUSED_MEMORY else await swap.put_back(before)
        outcomes.append(_standby(swap, number, fault.outcome, f"{fault}{back}", fault.hung))
    except TritonError as error:
        outcomes.append(_standby(swap, number, Outcome.UNREACHABLE, str(error)))
    return tuple(outcomes)


async def _bring_up(swap: _Swap, before: frozenset[int], kind: Kind, room: Room) -> None:
    """Take the steps that make the target answer, each checked."""
    active = swap.target.active
    free_first = False
    if kind is Kind.COLD and (lack := room.lacks(active)):
        spare = before - {max(before, default=active)}
        still = room.lacks(active, freed=spare)
        if still or not spare:
            raise _Fault(Outcome.REFUSED_MEMORY, f"version {active} not loaded: {still or lack}")
        free_first = True
    current = before
    for step in plan_steps(before, swap.target, free_first=free_first):
        if step.purpose is Purpose.STANDBY:
            break
        await swap.take(step, current)
        if step.purpose is Purpose.FREE and not await swap.wait_until_unloaded(current - step.versions):
            sentence = f"{_named(current - step.versions)} did not unload within {swap.deadlines.unload:g} s"
            raise _Fault(Outcome.REFUSED_MEMORY, f"version {active} not loaded: {sentence}")
        if step.purpose is Purpose.READY:
            # Before anything is given up for it: a version that loads and can't answer costs nobody an answer.
            await swap.verify(active, by_number=True)
        current = step.versions
    if kind is not Kind.NONE:
        await swap.verify(active, by_number=False)


async def _gave_up(swap: _Swap, kind: Kind, before: frozenset[int], fault: _Fault, back: str = "") -> SwapOutcome:
    seconds = swap.seconds()
    try:
        answering = max(await swap.loaded(), default=None)
        now = f"version {answering} answers" if answering is not None else "nothing answers"
    except TritonError:
        answering, now = None, "what answers now is not known"
    return SwapOutcome(
        kind=kind,
        outcome=fault.outcome,
        from_version=max(before, default=None),
        to_version=swap.target.active,
        duration_seconds=seconds,
        sentence=f"{fault}{back}; {now}",
        answering=answering,
        hung=fault.hung,
    )


def _standby(
    swap: _Swap, number: int, outcome: Outcome, sentence: str, hung: frozenset[int] = frozenset()
) -> SwapOutcome:
    active = swap.target.active
    kind = Kind.COLD if number != active else Kind.WARM  # the active one itself: what had to go could not be dropped
    return SwapOutcome(kind, outcome, active, number, swap.seconds(), sentence, active, hung)


def _kind(before: frozenset[int], target: Target) -> Kind:
    if target.active not in before:
        return Kind.COLD
    return Kind.NONE if max(before) == target.active else Kind.WARM


def _success(kind: Kind, origin: int | None, active: int, seconds: float) -> str:
    if kind is Kind.NONE:
        return f"version {active} answers already"
    how = "was loaded already" if kind is Kind.WARM else "had to be loaded"
    instead = "" if origin is None else f" instead of version {origin}"
    return f"version {active} answers{instead} after {seconds:.3g} s; it {how}"


def _require(room: Room, number: int, added: frozenset[int]) -> None:
    if lack := room.lacks(number, added=added):
        raise _Fault(Outcome.REFUSED_MEMORY, f"standby not loaded: {lack}")


def _named(versions: frozenset[int]) -> str:
    numbers = ", ".join(str(number) for number in sorted(versions))
    return f"version {numbers}" if len(versions) == 1 else f"versions {numbers}"
