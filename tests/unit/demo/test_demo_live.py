"""The live view at several widths, and what it prints where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rung_demo.live import LiveView, ViewState, render, sparkline
from rung_demo.record import (
    DecisionLine,
    LadderVersion,
    Line,
    PoolLine,
    RunHeader,
    ServerLine,
    TaskHeader,
    TaskLine,
)
from rung_loadgen.lines import LoadLine

LADDER = (LadderVersion(100, 1.0, 1.0), LadderVersion(80, 0.8, 0.8), LadderVersion(90, 0.9, 0.9))
HEADER = RunHeader(1000.0, "Stepwise", (TaskHeader("digit", 400.0, LADDER), TaskHeader("parity", 400.0, LADDER)))


def second(number: int, failed: int = 0) -> list[Line]:
    load = [
        LoadLine(
            1000.0 + number, number, task, 400.0, 10 * number, 10, 1, 0, {"UNAVAILABLE": failed} if failed else {},
            {"90": 10}, 3.0, 4.0, 5.0, 6.0,
        )
        for task in ("digit", "parity")
    ]  # fmt: skip
    tasks = tuple(TaskLine(task, 90, 0.9, 0.9, 10.0) for task in ("digit", "parity"))
    return [PoolLine(1000.0 + number, (ServerLine("a", 0.2), ServerLine("b", 0.85, 0.6)), tasks), *load]


STEP = DecisionLine(1007.0, "digit", "StepDown", "CPU averaged 80 %: digit steps down.", 100, 90, "b")


def drawn(state: ViewState, width: int) -> list[str]:
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=False).print(render(state, width))
    return output.getvalue().splitlines()


@pytest.mark.parametrize("width", [200, 100, 76, 60, 40, 24])
def test_it_fits_every_width_and_still_says_what_matters(width: int) -> None:
    state = ViewState(HEADER)
    for number in range(1, 100):
        for line in second(number, failed=1):
            state.take(line)
    state.take(STEP)

    lines = drawn(state, width)
    text = " ".join(" ".join(lines).split())

    assert max(len(line) for line in lines) <= width
    for words in ("digit", "parity", "85%", "StepDown") if width >= 40 else ("digit", "parity", "StepDown"):
        assert words in text
    if width >= 60:
        assert "○●○ 90.0% (90% of best)" in text
        assert "late 99" in text
        assert "failed 99" in text
        assert "990/s" in text


def test_before_anything_is_known_it_says_so() -> None:
    text = "\n".join(drawn(ViewState(HEADER), 100))

    assert "no signal yet" in text
    assert "no version yet" in text
    assert "No version was changed yet." in text


def test_without_a_terminal_it_prints_every_ten_seconds_and_each_decision() -> None:
    output = io.StringIO()
    with LiveView(HEADER, Console(file=output, width=80)) as view:
        for number in range(1, 31):
            for line in second(number):
                view.show(line)
            if number == 7:
                view.show(STEP)
    lines = output.getvalue().splitlines()

    assert [line.split(" s ")[0].strip() for line in lines] == ["7", "10", "20", "30"]
    assert lines[0].endswith("StepDown: CPU averaged 80 %: digit steps down.")
    assert "CPU 85%; digit 100/s at 90.0% (90% of best), late 10, failed 0" in lines[1]
    assert "\x1b" not in output.getvalue()


def test_on_a_terminal_it_draws_in_place_and_leaves_the_last_state() -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, height=30, force_terminal=True, _environ={"TERM": "xterm-256color"})
    with LiveView(HEADER, console) as view:
        for line in second(3):
            view.show(line)

    assert "\x1b" in output.getvalue()
    assert "30/s" in output.getvalue()


def test_a_task_or_a_version_that_it_does_not_know_does_no_harm() -> None:
    state = ViewState(HEADER)
    state.take(LoadLine(1.0, 1, "other", 1.0, 1, 1, 0, 0))
    state.take(PoolLine(1.0, (), (TaskLine("other", 5), TaskLine("digit", 12345))))

    assert "version 12345" in "\n".join(drawn(state, 100))


def test_sparklines_scale_to_their_highest_value() -> None:
    assert sparkline([0, 5, 10], 10) == "▁▅█"
    assert sparkline([1, 2, 3], 2) == "▆█"
    assert sparkline([0, 0], 5) == "▁▁"
    assert sparkline([], 5) == ""
    assert sparkline([3], 0) == ""
