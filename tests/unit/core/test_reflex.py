"""The reflex: never above the allocation, in time where that can be, and as accurate as that allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rung.core.reflex import NOTHING, choose

ladders = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6).map(sorted)


@given(ladders, st.integers(0, 20), st.floats(-1, 2), st.data())
def test_its_laws(seconds: list[float], in_flight: int, slack: float, data: st.DataObject) -> None:
    loaded = sorted(data.draw(st.sets(st.sampled_from(range(len(seconds))), min_size=1)))
    chosen = choose(loaded, in_flight, seconds, slack)
    assert chosen in loaded
    fits = [rung for rung in loaded if (in_flight + 1) * seconds[rung] <= slack]
    assert chosen == (max(fits) if fits else loaded[0])
    assert choose(loaded, in_flight + 1, seconds, slack) <= chosen, "a longer queue never asks for more"
    assert choose(loaded, in_flight, seconds, slack + 1) >= chosen


def test_nothing_loaded_gives_nothing() -> None:
    assert choose([], 0, [0.1], 1.0) == NOTHING
