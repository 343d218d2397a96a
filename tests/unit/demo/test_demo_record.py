"""Recordings: written, read back, broken off; and the numbers that are made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rung_demo.outcome import outcome_of
from rung_demo.record import (
    DecisionLine,
    LadderVersion,
    Line,
    PoolLine,
    Recorder,
    RecordError,
    RunHeader,
    ServerLine,
    SwapsLine,
    TaskHeader,
    TaskLine,
    read_run,
    to_json,
)
from rung_loadgen.lines import LoadLine, LoadSummary, TaskSummary

START = 1_800_000_000.0
HEADER = RunHeader(
    START - 3,
    "Stepwise",
    (TaskHeader("digit", 400.0, (LadderVersion(90, 0.90, 0.9, 80.0), LadderVersion(100, 1.0, 1.0, 10.0))),),
    1.0,
    "a trace",
)


def load(second: int, **more: object) -> LoadLine:
    fields = {"offered": 10, "completed": 10, "late": 0, "in_flight": 0, "versions": {"100": 10}, **more}
    return LoadLine(START + second, second, "digit", 400.0, **fields)  # type: ignore[arg-type]


def pool(second: int, version: int, utilization: float = 0.5) -> PoolLine:
    accuracy = version / 100
    task = TaskLine("digit", version, accuracy, accuracy, 10.0)
    return PoolLine(START + second, (ServerLine("s", utilization, 0.4),), (task,))


def lines() -> list[Line]:
    return [
        pool(0, 100),
        load(1),
        load(2, completed=6, late=2, failed={"UNAVAILABLE": 4}, versions={"100": 6}),
        DecisionLine(START + 2, "digit", "StepDown", "CPU <high> & rising: digit steps down.", 100, 90, "s"),
        pool(2, 90, 0.9),
        load(3, versions={"90": 10}),
        pool(3, 100, 0.4),
        SwapsLine(START + 4, {"warm": 1, "cold": 1}, {"cold": 2}),
    ]


def summary(**more: object) -> LoadSummary:
    task = TaskSummary("digit", 400.0, 30, 26, 2, {"UNAVAILABLE": 4}, 0.07, 0.2, {"100": 16}, 5.0, 9.0, 450.0, 500.0)
    fields = {"complete": True, "client_bound": None, **more}
    return LoadSummary(
        START + 4, 3.0, tasks=(task,), client_cpu_share=0.1, client_cpu_microseconds_per_request=500.0,
        client_lateness_p99_milliseconds=1.0, client_lateness_max_milliseconds=2.0, **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def write(path: Path, *more: Line) -> Path:
    with Recorder(path, HEADER) as recorder:
        for line in (*lines(), *more):
            recorder.write(line)
    return path


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "out" / "run.jsonl", summary()))

    assert run.header == HEADER
    assert [*run.pool, *run.load, *run.decisions] == sorted(
        (line for line in lines() if not isinstance(line, SwapsLine)),
        key=lambda line: ("pool", "load", "decision").index(line.kind),
    )
    assert run.swaps is not None
    assert run.swaps.failed == {"cold": 2}
    assert run.summary == summary()
    assert run.start_seconds == START
    assert run.unread_lines == 0


def test_a_recording_that_broke_off_is_read_up_to_there(tmp_path: Path) -> None:
    path = write(tmp_path / "run.jsonl")
    path.write_text(path.read_text() + '{"kind":"load","time_sec')

    run = read_run(path)

    assert len(run.load) == 3
    assert run.unread_lines == 1
    assert run.summary is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("not json\n", "does not begin with a run's header"),
        ('{"kind":"swaps","time_seconds":1}\n', "but with a swaps line"),
        ('{"kind":"run","format":99}\n', "format 99"),
        ("[1, 2]\n", "does not begin with a run's header"),
        ('{"kind":"run","format":1,"tasks":5}\n', "another shape"),
    ],
)
def test_what_is_no_recording_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.jsonl").write_text(text)

    with pytest.raises(RecordError, match=f"run.jsonl.*{message}"):
        read_run(tmp_path / "run.jsonl")
    with pytest.raises(RecordError, match="can't be read"):
        read_run(tmp_path / "missing.jsonl")


def test_the_outcome_counts_what_the_lines_say(tmp_path: Path) -> None:
    outcome = outcome_of(read_run(write(tmp_path / "run.jsonl", summary())))

    assert (outcome.requests, outcome.failed, outcome.late) == (30, 4, 2)
    assert outcome.violation_share == pytest.approx(6 / 30)
    assert (outcome.steps_down, outcome.steps_up) == (1, 1)
    assert outcome.normalized_accuracy == pytest.approx((16 * 1.0 + 10 * 0.9) / 26)
    assert outcome.utilization == pytest.approx((0.5 + 0.9 + 0.4) / 3)
    assert (outcome.swaps, outcome.swaps_failed) == ({"warm": 1, "cold": 1}, 2)
    assert outcome.shortcomings() == ["4 of 30 requests failed"]
    assert "30 requests, 4 failed, 6.67% late" in outcome.sentence()


def test_what_happened_before_and_after_the_load_does_not_count(tmp_path: Path) -> None:
    path = write(tmp_path / "run.jsonl", summary(), pool(9, 90, 0.0))
    text = path.read_text().splitlines()
    # A swap before the first request: what the demo does when it changes the policy between two runs.
    text[1:1] = [to_json(pool(-3, 90, 0.0)), to_json(pool(-2, 100, 0.0))]
    path.write_text("\n".join(text) + "\n")

    outcome = outcome_of(read_run(path))

    assert (outcome.steps_down, outcome.steps_up) == (1, 1)
    assert outcome.utilization == pytest.approx((0.5 + 0.9 + 0.4) / 3)


def test_without_a_summary_the_seconds_are_added_up_and_the_run_is_not_complete(tmp_path: Path) -> None:
    outcome = outcome_of(read_run(write(tmp_path / "run.jsonl")))

    assert (outcome.requests, outcome.failed, outcome.late) == (30, 4, 2)
    assert "the trace was not replayed to its end" in outcome.shortcomings()


def test_a_client_that_was_the_limit_is_told_and_is_no_fault_of_the_versions(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run.jsonl", summary(client_bound="the client sent late")))
    outcome = outcome_of(run)
    assert "the client sent late" in outcome.sentence()
    assert "the client sent late" not in " ".join(outcome.shortcomings())


def test_an_empty_run_is_no_division_by_zero(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run.jsonl", HEADER):
        pass
    outcome = outcome_of(read_run(tmp_path / "run.jsonl"))

    assert (outcome.requests, outcome.late_share, outcome.normalized_accuracy, outcome.utilization) == (
        0,
        0,
        None,
        None,
    )
    assert {"no request was sent", "no task stepped down", "no task stepped up"} <= set(outcome.shortcomings())
