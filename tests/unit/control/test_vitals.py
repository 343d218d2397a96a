"""Which loaded versions are asked whether they live."""

from __future__ import annotations

from rung.control.vitals import ACTIVE_EVERY_SECONDS, STANDBY_EVERY_SECONDS, Vitals


def test_who_answered_lately_is_not_asked_and_a_standby_seldom() -> None:
    vitals = Vitals()
    assert vitals.due("digits", {1, 2, 3}, (), 0.0) == {1, 2, 3}, "nothing is known of them"
    vitals.heard({"digits": [1, 2, 3], "parity": [7]}, 0.0)
    assert vitals.due("digits", {1, 2, 3}, (), ACTIVE_EVERY_SECONDS - 1) == frozenset()
    assert vitals.due("digits", {1, 2, 3}, (), ACTIVE_EVERY_SECONDS) == {3}
    assert vitals.due("digits", {1, 2}, (), ACTIVE_EVERY_SECONDS) == {2}, "the highest that is loaded answers"
    assert vitals.due("digits", {1, 2}, (), STANDBY_EVERY_SECONDS) == {1, 2}
    assert vitals.due("parity", {7}, (), ACTIVE_EVERY_SECONDS - 1) == frozenset()


def test_who_fails_is_asked_at_once_and_who_was_loaded_again_too() -> None:
    vitals = Vitals()
    vitals.heard({"digits": [1, 2]}, 0.0)
    assert vitals.due("digits", {1, 2}, {1}, 1.0) == {1}
    assert vitals.due("digits", {2}, (), 1.0) == frozenset()
    assert vitals.due("digits", {1, 2}, (), 1.0) == {1}, "it was away meanwhile"
