"""The compiled core of the simulator against what queueing theory knows exactly, and what must never be lost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung_sim import engine
from rung_sim.engine import State

Floats = npt.NDArray[np.float64]


def world(
    arrivals: list[Floats], *, cores: float = 1.0, servers: int = 1, rungs: int = 1, each: float = 0.01, seed: int = 0
) -> State:
    """Tasks with these arrivals, on servers where the first rung of each answers, in `each` CPU-seconds."""
    times = np.concatenate(arrivals)
    tasks = np.repeat(np.arange(len(arrivals)), [part.size for part in arrivals])
    order = np.argsort(times, kind="stable")
    pick = np.random.default_rng(seed).random((times.size, 2))
    routes = np.tile(np.cumsum(np.full(servers, 1 / servers)), (len(arrivals), 1))
    state = engine.new_state(
        times[order], tasks[order], pick, routes, np.full(servers, cores), rungs, np.zeros(servers)
    )
    state.active[:] = 0
    state.each_seconds[:] = each
    return state


def poisson(rate: float, count: int, seed: int = 0) -> Floats:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def to_the_end(state: State) -> None:
    assert engine.advance(state, 1e9) == (engine.REACHED, engine.NOTHING)


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_constant_service_waits_as_pollaczek_and_khinchine_say(busy: float) -> None:
    state = world([poisson(busy / 0.01, 400_000)])
    to_the_end(state)
    wait = state.latency.mean() - 0.01
    assert wait == pytest.approx(busy * 0.01 / (2 * (1 - busy)), rel=0.05)


def test_of_two_servers_the_one_with_fewer_requests_makes_far_fewer_wait() -> None:
    chance, fewest = (world([poisson(1.6 / 0.01, 200_000)], servers=2) for _ in range(2))
    fewest.fewest[0] = 1
    for state in (chance, fewest):
        to_the_end(state)
    # By chance, each server is a queue of its own (M/D/1 at 80 %): 20 ms of wait in the mean.
    assert chance.latency.mean() - 0.01 == pytest.approx(0.02, rel=0.1)
    assert fewest.latency.mean() - 0.01 < 0.6 * (chance.latency.mean() - 0.01)
    assert fewest.arrived == pytest.approx([100_000, 100_000], rel=0.02)


def test_who_shares_a_core_is_slowed_down_and_who_has_cores_enough_is_not() -> None:
    # Two requests at the same moment, each 10 ms of CPU.
    together = [np.array([1.0]), np.array([1.0])]
    for cores, seconds in ((1.0, 0.02), (2.0, 0.01), (8.0, 0.01), (0.5, 0.04)):
        state = world(together, cores=cores)
        to_the_end(state)
        assert state.latency == pytest.approx([seconds, seconds])
        assert state.used.sum() == pytest.approx(0.02)


def test_a_short_request_beside_a_long_one_gets_half_the_core_while_both_are_there() -> None:
    state = world([np.array([0.0]), np.array([0.05])])
    state.each_seconds[:] = [0.1, 0.01]
    to_the_end(state)
    assert state.latency == pytest.approx([0.11, 0.02])


def test_what_others_on_the_machine_use_is_missing() -> None:
    state = world([np.array([0.0])])
    state.other_cores[0] = 0.75
    to_the_end(state)
    assert state.latency == pytest.approx([0.04])
    assert state.used[0] == pytest.approx(0.01)


def test_a_batch_takes_what_waits_up_to_its_size_and_answers_it_together() -> None:
    state = world([np.zeros(6)], each=0.01)
    state.fixed_seconds[0], state.batch_size[0] = 0.1, 4
    to_the_end(state)
    # The first one was alone: nobody else had come when it was taken.
    assert state.latency == pytest.approx([0.11] + 4 * [0.11 + 0.14] + [0.25 + 0.11])


def test_a_load_uses_the_cpu_and_takes_its_time() -> None:
    state = world([np.array([0.0])], rungs=2, each=0.1)
    engine.begin_load(state, 0, 0.1, 0.5)
    why, lane = engine.advance(state, 10.0)
    assert (why, lane) == (engine.LOADED, 0)
    assert state.now[0] == pytest.approx(0.5)
    assert state.latency == pytest.approx([0.2])
    engine.begin_load(state, 0, 0.7, 0.5)
    assert engine.advance(state, 10.0) == (engine.LOADED, 0)
    assert state.now[0] == pytest.approx(1.2)
    assert state.used[0] == pytest.approx(0.9)


def test_what_was_accepted_is_answered_by_the_version_that_accepted_it() -> None:
    state = world([np.array([0.0, 0.001, 0.02])], rungs=2, each=0.1)
    engine.advance(state, 0.01)
    state.active[0] = 1
    to_the_end(state)
    assert list(state.rung) == [0, 0, 1]


def test_a_server_that_is_gone_fails_what_it_had_and_what_comes() -> None:
    state = world([np.array([0.0, 0.01, 5.0])], each=0.1, rungs=2)
    engine.begin_load(state, 0, 0.3, 0.5)
    engine.advance(state, 0.05)
    engine.take_down(state, 0)
    to_the_end(state)
    assert np.isinf(state.latency).all()
    assert state.pending.sum() == 0


def with_choice(arrivals: list[float], how: int, each: tuple[float, ...] = (0.05, 0.2)) -> State:
    """One task whose rungs are all loaded, the last one allocated, and a service level of 0.4 s."""
    state = world([np.array(arrivals)], rungs=len(each))
    state.each_seconds[:] = each
    state.active[0], state.choosing[0], state.limit_seconds[0], state.ready[:] = len(each) - 1, how, 0.4, 1
    return state


def test_the_reflex_answers_a_burst_by_the_rung_below_and_goes_back() -> None:
    state = with_choice([0.0, 0.01, 0.02, 0.03, 2.0], engine.REFLEX)
    to_the_end(state)
    # The first one was alone. At 0.2 s three wait, and the first of them has 0.21 s left: below, for it and for the
    # next; the last one has 0.13 s left at 0.3 s.
    assert list(state.rung) == [1, 0, 0, 0, 1]
    assert (state.latency < 0.4).all()
    without = with_choice([0.0, 0.01, 0.02, 0.03, 2.0], engine.TRITON)
    to_the_end(without)
    assert list(without.latency > 0.4) == [False, False, True, True, False]


def test_slack_fit_looks_at_the_first_request_alone() -> None:
    state = with_choice([0.0, 0.0, 0.01, 0.02, 0.03], engine.SLACK_FIT)
    to_the_end(state)
    assert list(state.rung)[:2] == [1, 1], "0.2 s left are enough for itself"
    assert (state.latency > 0.4).any()


def test_what_is_not_loaded_is_not_chosen() -> None:
    state = with_choice([0.0, 0.01, 0.02, 0.03], engine.REFLEX, each=(0.01, 0.05, 0.2))
    state.ready[0] = 0
    to_the_end(state)
    assert set(state.rung) == {1, 2}


def test_a_neighbour_takes_cores_from_when_it_comes() -> None:
    state = world([np.array([0.0])], each=0.1)
    engine.advance(state, 0.05)
    engine.share_with(state, 0, 0.5)
    to_the_end(state)
    assert state.latency == pytest.approx([0.15])


def test_who_waits_is_counted_and_who_is_in_work_is_not() -> None:
    state = world([np.zeros(4)], each=0.1)
    engine.advance(state, 0.15)
    assert engine.waiting(state, 0) == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 20), max_size=40), min_size=1, max_size=3),
    st.integers(1, 3),
    st.sampled_from([0.5, 1.0, 2.5]),
    st.integers(1, 4),
    st.floats(0.001, 0.3),
)
def test_nothing_is_lost_and_the_work_is_what_was_asked_for(
    arrivals: list[list[float]], servers: int, cores: float, batch: int, each: float
) -> None:
    state = world([np.sort(np.array(part)) for part in arrivals], servers=servers, cores=cores, each=each)
    state.batch_size[:] = batch
    for moment in range(1, 25):
        engine.advance(state, float(moment))
        assert state.used.sum() <= cores * servers * moment * (1 + 1e-9)
    to_the_end(state)
    count = sum(map(len, arrivals))
    assert np.isfinite(state.latency).all()
    assert (state.latency >= each * (1 - 1e-6) - 1e-9).all()
    assert state.pending.sum() == 0
    assert state.arrived.sum() == count
    assert state.used.sum() == pytest.approx(count * each, rel=1e-6, abs=1e-9)
    for lane in range(state.active.size):
        mine = state.rung >= 0
        mine &= state.task == lane % len(arrivals)
        if servers == 1:
            ends = state.arrival[mine] + state.latency[mine]
            assert (np.diff(ends) >= -1e-9).all(), "first come, first served"
