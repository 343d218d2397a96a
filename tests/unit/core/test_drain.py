"""When a server may be drained, and what demand is while one is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rung.core.balance import steady
from rung.core.drain import refusal
from rung.core.snapshot import PoolSnapshot, Profile, Sample, ServerState, TaskState, Version

NOW = 1000.0
CPU_SECONDS = {1: 0.01, 2: 0.04}
DIGITS, PARITY = (
    TaskState(
        name, tuple(Version(n, 0.5 + 0.1 * n, {"pi": Profile(1 / c, None, c)}) for n, c in CPU_SECONDS.items()), 0.4
    )
    for name in ("digits", "parity")
)


def samples(*values: float, until: float = NOW) -> tuple[Sample, ...]:
    return tuple(Sample(until - len(values) + 1 + place, value) for place, value in enumerate(values))


def server(name: str, rate: float = 5.0, version: int = 2) -> ServerState:
    return ServerState(
        name, "pi", 1.0, demand={"digits": samples(*[rate] * 20)}, active={"digits": version},
        loaded={"digits": frozenset({version})},
    )  # fmt: skip


def pool(*servers: ServerState, tasks: tuple[TaskState, ...] = (DIGITS,)) -> PoolSnapshot:
    return PoolSnapshot(NOW, servers, tasks)


def test_it_is_drained_where_the_others_have_room() -> None:
    assert refusal(pool(server("a"), server("b")), "a", ()) is None
    busy = refusal(pool(server("a", 15.0), server("b", 10.0)), "a", ())
    assert busy is not None
    assert busy.sentence == "b would be late with 100 % of its answers"
    assert not busy.passes
    assert refusal(pool(server("a", 15.0), server("b", 10.0), server("c", 2.0)), "a", ()) is None


def test_the_others_of_a_task_are_never_drained_with_it() -> None:
    found = refusal(pool(server("a"), server("b"), server("c")), "a", {"b"})
    assert found is not None
    assert found.passes, "it is back soon"
    assert "b, which also has digits" in found.sentence


@pytest.mark.parametrize(
    ("servers", "why"),
    [
        ((server("a"),), "no other server answers digits"),
        ((server("a"), replace(server("b"), ready=False)), "no other server answers digits"),
        ((server("a"), replace(server("b"), active={})), "no other server answers digits"),
        ((replace(server("a"), demand={}), server("b")), "the demand of digits is not known"),
        ((server("b"),), "a is not seen"),
    ],
)
def test_it_goes_on_answering_where_nobody_could_take_over(servers: tuple[ServerState, ...], why: str) -> None:
    found = refusal(pool(*servers), "a", ())
    assert found is not None
    assert (found.sentence, found.passes) == (why, False)


def test_what_it_answers_nothing_for_does_not_count() -> None:
    """A task whose first version is about to be loaded."""
    assert refusal(pool(server("a"), server("b"), tasks=(DIGITS, PARITY)), "a", ()) is None


def test_what_a_drain_moves_is_no_trend() -> None:
    """For three seconds, all went to b."""
    a = replace(server("a"), demand={"digits": samples(*[6.0] * 17, 0.0, 0.0, 0.0)})
    b = replace(server("b"), demand={"digits": samples(*[4.0] * 17, 10.0, 10.0, 10.0)})
    usual = {one.name: one.demand["digits"] for one in steady(pool(a, b)).servers}
    assert [sample.time_seconds for sample in usual["b"]] == [sample.time_seconds for sample in b.demand["digits"]]
    assert {round(sample.value, 6) for sample in usual["b"]} == {4.9}
    assert {round(sample.value, 6) for sample in usual["a"]} == {5.1}


def test_demand_that_moves_as_a_whole_does() -> None:
    a, b = (replace(server(n), demand={"digits": samples(*[2.0] * 10, *[8.0] * 10)}) for n in ("a", "b"))
    usual = steady(pool(a, b)).servers[0].demand["digits"]
    assert [sample.value for sample in usual] == pytest.approx([2.0] * 10 + [8.0] * 10)


def test_who_is_alone_or_declared_or_not_seen_keeps_what_it_has() -> None:
    late = replace(server("b"), demand={"digits": samples(7.0, 7.0, until=NOW - 30)})
    for snapshot in (
        pool(server("a"), replace(server("b"), demand={})),
        pool(server("a"), replace(server("b", 9.0), ready=False)),
        pool(server("a"), late),
        pool(server("a"), server("b", 9.0), tasks=(replace(DIGITS, declared_demand_rps=3.0),)),
        pool(server("a", 0.0), server("b", 0.0)),
    ):
        assert steady(snapshot) == snapshot
