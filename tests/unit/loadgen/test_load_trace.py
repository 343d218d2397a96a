from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rung_loadgen.trace import TraceError, parse_trace, read_trace

SHARED = Path(__file__).parents[4] / "shared/data"


def test_reads_numbers_and_leaves_comments_and_empty_lines_out() -> None:
    trace = parse_trace("# a trace\n10\n\n 2.5  # quiet\n0\n1e2\n", "t")

    assert trace.rates_rps.tolist() == [10, 2.5, 0, 100]
    assert trace.expected_requests == 112.5


def test_several_numbers_on_a_line_are_seconds_too() -> None:
    assert parse_trace("1 2\t3  # quiet\n4\n", "t").rates_rps.tolist() == [1, 2, 3, 4]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real traces are not there: {SHARED}")
def test_the_real_traces_are_read() -> None:
    day, evaluation = (read_trace(SHARED / f"twitter-{name}.txt") for name in ("day-03", "infadapter-eval"))
    assert day.seconds == 86_400
    assert (evaluation.rates_rps.min(), evaluation.rates_rps.max()) == (27, 274)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\nmany\n", "t: line 3: 'many' is no number"),
        ("1\n-2\n", "t: line 2: '-2' is negative"),
        ("nan\n", "t: line 1: 'nan' is not finite"),
        ("1\n\n# x\ninf\n", "t: line 4: 'inf' is not finite"),
        ("1e9\n", "t: line 1: '1e9' is above 100000"),
        ("1 2\n3 x 4\n", "t: line 2: 'x' is no number"),
        ("1,5\n", "t: line 1: '1,5' is no number"),
        ("", "t: no rate in it"),
        ("# only words\n\n", "t: no rate in it"),
        ("0\n0\n", "t: every rate is 0"),
        ("x" * 10_000, "is no number"),
    ],
)
def test_says_which_line_is_wrong_and_why(text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse_trace(text, "t")

    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_trace_of_more_than_a_week_is_refused() -> None:
    with pytest.raises(TraceError, match="line 604801"):
        parse_trace("1\n" * (7 * 24 * 3600 + 1), "t")


def test_scale_cap_and_truncation() -> None:
    trace = parse_trace("1\n2\n3\n4\n", "t")

    assert trace.scaled(2).capped(5).truncated(3).rates_rps.tolist() == [2, 4, 5]
    assert trace.truncated(100).seconds == 4
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(TraceError, match="scale"):
            trace.scaled(bad)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(TraceError, match="highest rate"):
            trace.capped(bad)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"missing\.txt: can't be read"):
        read_trace(tmp_path / "missing.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(TraceError, match="not a text file"):
        read_trace(tmp_path / "binary")
    with pytest.raises(TraceError, match="can't be read"):
        read_trace(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes("\ufeff1\r\n2\r\n".encode())

    assert np.array_equal(read_trace(tmp_path / "t").rates_rps, [1, 2])
