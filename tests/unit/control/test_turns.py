"""Who may load now: a server and a model together, in order, and who waits holds nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from rung.control.turns import LoadTurns


class Loads:
    """Loads that begin when it is their turn, and end when the test says so."""

    def __init__(self, width: int = 1) -> None:
        self.turns = LoadTurns(width)
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.begun: list[str] = []
        self.given_up: list[str] = []

    async def ask(self, *places: str) -> None:
        """Ask for turns, each `SERVER-MODEL`."""
        for place in places:
            self.tasks[place] = asyncio.create_task(self._load(place))
            await _settle()

    async def _load(self, place: str) -> None:
        server, model = place.split("-")
        async with self.turns.turn(_SERVERS[server], model) as mine:
            if not mine:
                self.given_up.append(place)
                return
            self.begun.append(place)
            await asyncio.Event().wait()

    async def end(self, place: str) -> None:
        """End a load, or the wait for one, as a worker that is stopped does."""
        self.tasks.pop(place).cancel()
        await _settle()


_SERVERS = {name: object() for name in "abcd"}


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def loads() -> AsyncIterator[Loads]:
    made = Loads()
    async with AsyncExitStack() as stack:
        stack.callback(lambda: [task.cancel() for task in made.tasks.values()])
        yield made


async def test_a_server_loads_one_at_a_time_in_the_order_of_asking(loads: Loads) -> None:
    await loads.ask("a-1", "a-2", "a-3")
    assert loads.begun == ["a-1"]
    await loads.end("a-1")
    assert loads.begun == ["a-1", "a-2"]
    await loads.end("a-3")
    await loads.end("a-2")
    assert loads.begun == ["a-1", "a-2"], "who does not wait any more gets no turn"
    await loads.ask("a-4")
    assert loads.begun[-1] == "a-4"


async def test_so_many_servers_load_one_model_and_a_new_number_counts(loads: Loads) -> None:
    loads.turns.width = 2
    await loads.ask("a-1", "b-1", "c-1", "d-1")
    assert loads.begun == ["a-1", "b-1"]
    loads.turns.width = 1
    await loads.end("a-1")
    assert loads.begun == ["a-1", "b-1"]
    loads.turns.width = 3
    await loads.end("b-1")
    assert loads.begun == ["a-1", "b-1", "c-1", "d-1"]


async def test_a_server_that_loads_slowly_holds_nobody_up_for_its_next_models(loads: Loads) -> None:
    await loads.ask("a-1", "a-2", "a-3", "b-1", "b-2")
    assert loads.begun == ["a-1", "b-2"], "2 is free for b though a asked first; b does not wait for 1 either"
    await loads.end("b-2")
    await loads.ask("b-3")
    assert loads.begun == ["a-1", "b-2", "b-3"]
    await loads.end("a-1")
    assert loads.begun[3:] == ["a-2"], "3 and b are taken still"
    await loads.end("b-3")
    assert loads.begun[4:] == ["b-1"]


async def test_only_a_wait_is_given_up(loads: Loads) -> None:
    await loads.ask("a-1", "a-2", "b-1")
    for server, model in (("a", "1"), ("a", "2"), ("c", "2")):
        loads.turns.give_up(_SERVERS[server], model)
    await _settle()
    assert (loads.begun, loads.given_up) == (["a-1"], ["a-2"])
    await loads.end("a-1")
    assert loads.begun == ["a-1", "b-1"]


async def test_a_turn_that_is_given_to_one_that_ends_goes_to_the_next(loads: Loads) -> None:
    await loads.ask("a-1", "a-2", "a-3")
    loads.tasks["a-1"].cancel()
    await asyncio.sleep(0)  # 2 has its turn, and has not begun
    loads.tasks["a-2"].cancel()
    await _settle()
    assert loads.begun == ["a-1", "a-3"]


async def test_who_waits_can_be_told_its_place(loads: Loads) -> None:
    await loads.ask("a-x", "a-y", "b-x", "c-z")
    assert loads.begun == ["a-x", "c-z"]
    assert loads.turns.places(_SERVERS["a"]) == {"y": 1}
    assert loads.turns.places(_SERVERS["b"]) == {"x": 2}
    assert loads.turns.places(_SERVERS["c"]) == {}
