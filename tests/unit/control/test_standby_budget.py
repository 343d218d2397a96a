"""Which standbys a server has the memory for."""

from __future__ import annotations

from rung.control.standby import Squeeze, within_budget
from rung.core.plan import Target

TARGETS = {"a": Target(9, (8, 7)), "b": Target(5, (4,))}
PEAKS = {"a": {8: 30, 7: 10}, "b": {4: 50}}


def test_without_a_budget_every_standby_stays() -> None:
    assert within_budget(TARGETS, PEAKS, None) == TARGETS


def test_the_nearest_of_each_task_goes_before_any_next_one() -> None:
    assert within_budget(TARGETS, PEAKS, 80) == {"a": Target(9, (8,)), "b": Target(5, (4,))}
    assert within_budget(TARGETS, PEAKS, 90) == TARGETS


def test_a_smaller_one_fits_where_a_larger_did_not() -> None:
    assert within_budget(TARGETS, PEAKS, 45) == {"a": Target(9, (8, 7)), "b": Target(5)}


def test_nothing_means_no_standby_of_known_size() -> None:
    assert within_budget(TARGETS, PEAKS, 0) == {"a": Target(9), "b": Target(5)}


def test_a_standby_that_nobody_measured_takes_nothing() -> None:
    assert within_budget(TARGETS, {}, 0) == TARGETS


def test_a_server_short_of_memory_gives_up_the_farthest_standbys_until_there_is_room() -> None:
    wanted = TARGETS.values()
    squeeze = Squeeze()
    assert squeeze.after(80, 100, 1000.0, wanted) is squeeze, "it is well"
    squeeze = squeeze.after(95, 100, 1000.0, wanted)
    assert squeeze.allows(TARGETS) == {"a": Target(9, (8,)), "b": Target(5, (4,))}
    assert squeeze.after(95, 100, 1003.0, wanted) is squeeze, "what was given up shows only after a while"
    squeeze = squeeze.after(95, 100, 1006.0, wanted)
    assert squeeze.allows(TARGETS) == {"a": Target(9), "b": Target(5)}
    assert squeeze.after(95, 100, 1012.0, wanted) is squeeze, "what answers stays"
    assert squeeze.after(80, 100, 1100.0, wanted) is squeeze, "there is no room yet"
    assert squeeze.after(50, 100, 1020.0, wanted) is squeeze, "not for long enough"
    squeeze = squeeze.after(50, 100, 1036.0, wanted)
    assert squeeze.allows(TARGETS) == {"a": Target(9, (8,)), "b": Target(5, (4,))}
    assert squeeze.after(50, 100, 1066.0, wanted).allows(TARGETS) == TARGETS
