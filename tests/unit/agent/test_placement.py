from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rung.agent.placement import Candidate, Placement, VersionKey, place

NOTHING: frozenset[VersionKey] = frozenset()


def versions(*numbers: int, size_bytes: int = 10, installed: bool = False) -> list[Candidate]:
    return [Candidate(("digits", number), size_bytes, installed) for number in numbers]


def test_the_cheapest_comes_first_when_nobody_wants_anything() -> None:
    assert place(versions(3, 1, 2), {}, NOTHING, 100).download == ("digits", 1)


def test_what_is_wanted_comes_first_and_the_first_of_each_task_before_any_second() -> None:
    candidates = [*versions(1, 2, 3), Candidate(("parity", 7), 10), Candidate(("parity", 8), 10)]
    wanted = {"digits": (3, 1), "parity": (8,)}
    order = []
    for _ in range(5):
        key = place(candidates, wanted, NOTHING, 100).download
        assert key is not None
        order.append(key)
        candidates = [Candidate(c.key, c.size_bytes, installed=True) if c.key == key else c for c in candidates]
    assert order == [("digits", 3), ("parity", 8), ("digits", 1), ("parity", 7), ("digits", 2)]
    assert place(candidates, wanted, NOTHING, 100).download is None


def test_the_least_wanted_gives_way_and_only_as_far_as_needed() -> None:
    candidates = [*versions(1, 2, 3, installed=True), *versions(4)]
    assert place(candidates, {"digits": (4, 1)}, NOTHING, 30) == Placement(("digits", 4), (("digits", 3),), NOTHING)
    assert place(candidates, {"digits": (4, 1)}, NOTHING, 40).evict == ()


def test_what_is_protected_stays_and_the_rest_has_to_do_with_what_is_left() -> None:
    candidates = [*versions(1, 2, installed=True), *versions(3)]
    everything = frozenset({("digits", 1), ("digits", 2)})
    assert place(candidates, {"digits": (3,)}, everything, 20) == Placement(None, (), frozenset({("digits", 3)}))
    assert place(candidates, {"digits": (3,)}, frozenset({("digits", 2)}), 20).evict == (("digits", 1),)


def test_a_huge_version_is_left_out_and_what_fits_goes_on() -> None:
    candidates = [Candidate(("digits", 1), 1000), *versions(2)]
    assert place(candidates, {}, NOTHING, 100) == Placement(("digits", 2), (), frozenset({("digits", 1)}))


def test_a_suspect_version_makes_nothing_give_way() -> None:
    candidates = [*versions(1, installed=True), Candidate(("digits", 2), 10, suspect=True)]
    placement = place(candidates, {"digits": (2,)}, NOTHING, 10)
    assert (placement.download, placement.evict) == (None, ())


def test_what_waits_for_its_back_off_keeps_no_room() -> None:
    candidates = [Candidate(("digits", 1), 10, ready=False), *versions(2)]
    assert place(candidates, {"digits": (1,)}, NOTHING, 10).download == ("digits", 2)


def test_a_smaller_budget_than_before_is_kept_to() -> None:
    assert place(versions(1, 2, 3, installed=True), {}, NOTHING, 15).evict == (("digits", 3), ("digits", 2))


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        key=st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 6)),
        size_bytes=st.integers(1, 50),
        installed=st.booleans(),
        ready=st.booleans(),
        suspect=st.booleans(),
        listed=st.booleans(),
    ),
    unique_by=lambda candidate: candidate.key,
    max_size=10,
)
WANTED = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.lists(st.integers(1, 8), max_size=4))


@given(CANDIDATES, WANTED, st.data(), st.integers(0, 200))
def test_laws(
    candidates: list[Candidate], wanted: dict[str, list[int]], data: st.DataObject, budget_bytes: int
) -> None:
    by_key = {candidate.key: candidate for candidate in candidates}
    protected = frozenset(key for key in by_key if data.draw(st.booleans()))
    placement = place(candidates, wanted, protected, budget_bytes)

    assert not protected & set(placement.evict)
    assert all(by_key[key].installed for key in placement.evict)
    after = sum(c.size_bytes for c in candidates if c.installed and c.key not in placement.evict)
    if placement.download is not None:
        chosen = by_key[placement.download]
        assert chosen.ready
        assert not chosen.installed
        assert after + chosen.size_bytes <= budget_bytes
        assert placement.download not in placement.no_room
    else:
        left = [c for c in candidates if c.installed and c.key not in placement.evict and c.key not in protected]
        assert after <= budget_bytes or not left


@given(CANDIDATES, WANTED, st.integers(0, 200))
def test_it_comes_to_rest(candidates: list[Candidate], wanted: dict[str, list[int]], budget_bytes: int) -> None:
    for _ in range(100):
        placement = place(candidates, wanted, NOTHING, budget_bytes)
        if placement.download is None and not placement.evict:
            return
        candidates = [
            Candidate(
                c.key, c.size_bytes, c.key == placement.download or (c.installed and c.key not in placement.evict),
                c.ready, c.suspect and c.key != placement.download, c.listed,
            )
            for c in candidates
        ]  # fmt: skip
    raise AssertionError("it goes round in circles")
