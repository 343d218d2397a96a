"""Whether a version fits into a server's memory."""

from __future__ import annotations

import pytest

from rung.control.swap_plan import MemoryBudget, Room

MB = 1_000_000
SIZES = {1: 40 * MB, 2: 60 * MB, 3: 80 * MB}


def _room(used_megabytes: int, limit_megabytes: int = 500) -> Room:
    return Room(MemoryBudget(limit_megabytes * MB, used_megabytes * MB), SIZES)


def test_exactly_at_the_limit_fits_and_one_byte_more_does_not() -> None:
    assert _room(420).lacks(3) == ""
    assert Room(MemoryBudget(500 * MB, 420 * MB + 1), SIZES).lacks(3) != ""


def test_the_refusal_has_the_numbers_that_decided() -> None:
    assert _room(450).lacks(3) == ("450 MB in use and 80 MB for version 3 together pass the limit of 500 MB")


@pytest.mark.parametrize(("used", "freed", "added", "fits"), [
    (450, {1}, set(), True),  # 410 + 80
    (470, {1}, set(), False),  # 430 + 80
    (470, {1, 2}, set(), True),  # 370 + 80
    (400, set(), {2}, False),  # 460 + 80
    (360, set(), {2}, True),  # 420 + 80
])  # fmt: skip
def test_what_is_freed_and_added_before_counts(used: int, freed: set[int], added: set[int], fits: bool) -> None:
    assert (_room(used).lacks(3, freed=frozenset(freed), added=frozenset(added)) == "") is fits


def test_what_nobody_measured_is_not_refused() -> None:
    assert _room(500).lacks(7) == "", "no size is known"
    assert Room(None, SIZES).lacks(3) == "", "no budget is known"


def test_freeing_more_than_is_in_use_does_not_make_room_out_of_nothing() -> None:
    assert _room(50, limit_megabytes=70).lacks(3, freed=frozenset({1, 2})) != ""
