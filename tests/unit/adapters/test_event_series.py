from __future__ import annotations

from rung.adapters.event_series import BURST, REPEAT_SECONDS, EventSeries, Kept, shortened


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def post(series: EventSeries, note: str, reason: str = "StepDown", about: str = "uid-1") -> Kept | None:
    kept = series.admit(about, "digits", reason, note)
    if kept is not None:
        series.written(kept, kept.unwritten)
    return kept


def test_the_same_again_is_counted_and_written_later() -> None:
    clock = Clock()
    series = EventSeries(clock)
    first = post(series, "same")
    assert first is not None
    assert [post(series, "same") for _ in range(3)] == [None, None, None]
    clock.seconds += REPEAT_SECONDS
    again = series.admit("uid-1", "digits", "StepDown", "same")
    assert again is first
    assert again.unwritten == 3


def test_names_follow_from_the_content() -> None:
    one, other = post(EventSeries(), "a"), post(EventSeries(), "a")
    assert one is not None
    assert other is not None
    assert one.event_name == other.event_name
    assert len(one.event_name) <= 253
    names = {
        kept.event_name
        for kept in (
            post(EventSeries(), "b"),
            post(EventSeries(), "a", reason="StepUp"),
            post(EventSeries(), "a", about="uid-2"),
            one,
        )
        if kept
    }
    assert len(names) == 4


def test_a_reason_gets_a_burst_and_then_one_at_a_time() -> None:
    clock = Clock()
    series = EventSeries(clock)
    assert sum(post(series, f"note {n}") is not None for n in range(50)) == BURST
    assert post(series, "another reason", reason="StepUp") is not None
    assert post(series, "another object", about="uid-2") is not None
    clock.seconds += REPEAT_SECONDS
    assert sum(post(series, f"later {n}") is not None for n in range(5)) == 1


def test_what_could_not_be_written_is_not_counted() -> None:
    series = EventSeries(Clock())
    for _ in range(3 * BURST):  # the API server is away: admitted each time, never written
        assert series.admit("uid-1", "digits", "StepDown", "same") is not None
    assert post(series, "same") is not None
    assert post(series, "same") is None


def test_memory_is_bounded() -> None:
    series = EventSeries(Clock())
    for number in range(5000):
        post(series, "note", about=f"uid-{number}")
    assert len(series._events) <= 4096
    assert len(series._reasons) <= 4096


def test_notes_are_cut_in_bytes() -> None:
    assert shortened("short") == "short"
    assert shortened("x" * 1024) == "x" * 1024
    cut = shortened("ü" * 1000)
    assert len(cut.encode()) <= 1024
    assert cut.endswith("ü…")
