"""Versions that failed to load wait longer each time, and are forgiven when there is a reason."""

from __future__ import annotations

from rung.control.backoff import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, BrokenVersions


def test_the_wait_doubles_up_to_ten_minutes_and_is_over_once_a_load_works() -> None:
    broken = BrokenVersions()
    waits = [broken.failed("digits", 3, "no", 100.0).retry_at_seconds - 100.0 for _ in range(8)]
    assert waits == [15, 30, 60, 120, 240, 480, 600, 600]
    assert waits[0] == FIRST_RETRY_SECONDS
    assert waits[-1] == LONGEST_RETRY_SECONDS
    broken.worked("digits", 3)
    assert broken.all() == ()
    assert broken.failed("digits", 3, "no", 100.0).failures == 1


def test_a_thousand_failures_overflow_nothing() -> None:
    broken = BrokenVersions()
    for _ in range(1000):
        last = broken.failed("digits", 3, "no", 0.0)
    assert last.retry_at_seconds == LONGEST_RETRY_SECONDS


def test_waiting_is_by_model_and_ends_with_its_time() -> None:
    broken = BrokenVersions()
    broken.failed("digits", 3, "no", 0.0)
    broken.failed("parity", 4, "no", 0.0)
    assert broken.waiting("digits", 14.9) == {3}
    assert broken.waiting("digits", 15.0) == frozenset()
    assert {each.version for each in broken.all()} == {3, 4}, "it failed, whether or not it may be tried again"


def test_forgiven_versions_may_be_tried_at_once_and_keep_their_count() -> None:
    broken = BrokenVersions()
    broken.failed("digits", 3, "no", 0.0)
    broken.forgive("digits", [3, 5])
    assert broken.waiting("digits", 0.0) == frozenset()
    assert broken.failed("digits", 3, "no", 0.0).failures == 2


def test_versions_that_nobody_registers_are_forgotten() -> None:
    broken = BrokenVersions()
    broken.failed("digits", 3, "no", 0.0)
    broken.failed("digits", 4, "no", 0.0)
    broken.failed("parity", 3, "no", 0.0)
    broken.keep("digits", [4])
    assert {(each.model, each.version) for each in broken.all()} == {("digits", 4), ("parity", 3)}
