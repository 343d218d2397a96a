"""What the pictures show: which axis comes first, which frontier is drawn, what a method looks like."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladders import LADDER, number_of, profile_document, write_ladder, write_profile, write_profiles, write_record
from rung_porting.repository.catalogue import read_local
from rung_porting.show.curves import read_curve, read_interval
from rung_porting.show.record import read_record
from rung_porting.show.style import BEATEN, COLOURS, FAMILY, NAMES, RAMP, Colour, ramp_step, style_of
from rung_porting.show.view import OPERATIONS, SIZE, THREAD, TaskView, best_within, reference, step_line, task_view

NUMBERS = [number_of(row) for row in LADDER]


def view(root: Path, hardware_class: str | None = None, *, record: bool = False) -> TaskView:
    catalogue = read_local(root)
    found = read_record(root / "digits.search.json") if record else None
    return task_view("digits", catalogue.ladders["digits"], catalogue.documents, found, hardware_class)


def test_before_profiling_the_axis_says_that_nothing_was_measured_and_int8_has_a_frontier_of_its_own(
    tmp_path: Path,
) -> None:
    write_record(write_ladder(tmp_path))
    shown = view(tmp_path, record=True)
    assert [axis.key for axis in shown.axes] == [OPERATIONS, THREAD]
    for axis in shown.axes:
        assert not axis.measured
        assert "not measured throughput" in axis.title
        assert len(axis.trials) == 7, "what did not survive is shown"
    float_frontier, int8_frontier = shown.axes[0].frontiers
    assert int8_frontier == (1_098_570, 1_098_320, 1_095_210)
    assert set(float_frontier).isdisjoint(int8_frontier)
    assert shown.axes[0].points[0].x == pytest.approx(1e9 / 98_000_000)
    assert shown.curves == ()


def test_measured_throughput_comes_first_once_all_were_profiled_and_the_table_agrees(tmp_path: Path) -> None:
    write_profiles(write_ladder(tmp_path), n100=1.0, rpi5=2.6)
    shown = view(tmp_path)
    assert [axis.label for axis in shown.axes] == ["n100", "rpi5", "operations"]
    first = shown.axes[0]
    assert first.measured
    assert first.title == "measured on n100: inferences per second within 100ms on 1 CPU"
    assert {point.number for point in first.points if point.beaten_by} == {1_098_500, 1_097_150}
    assert {row.number: row.beaten_by for row in shown.rows} == {
        point.number: point.beaten_by for point in first.points
    }
    assert first.points[0].interval == pytest.approx((0.97 * first.points[0].x, 1.02 * first.points[0].x))
    assert first.trials == (), "what was never published was never profiled"


def test_one_can_ask_for_a_class_and_versions_without_a_profile_of_it_are_named(tmp_path: Path) -> None:
    write_profiles(write_ladder(tmp_path), n100=1.0)
    write_profile(tmp_path, "digits", NUMBERS[0], profile_document(0.02, "rpi5"))
    write_profile(tmp_path, "digits", NUMBERS[-1], profile_document(0.002, "rpi5", curve=False))
    assert view(tmp_path).axes[0].label == "n100"
    asked = view(tmp_path, "rpi5")
    assert asked.axes[0].label == "rpi5"
    assert [point.number for point in asked.axes[0].points] == [NUMBERS[0], NUMBERS[-1]]
    assert set(asked.axes[0].missing) == set(NUMBERS[1:-1])
    curves = asked.curves[0]
    assert [curve.spec.version for curve in curves.curves] == [NUMBERS[0]]
    assert curves.without == (NUMBERS[-1],)


def test_where_nothing_but_files_is_known_their_size_stands_for_the_cost(tmp_path: Path) -> None:
    write_ladder(tmp_path)
    for path in tmp_path.glob("digits/*/version.yaml"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line for line in lines if "flops" not in line))
    (axis,) = view(tmp_path).axes
    assert axis.key == SIZE
    assert "not measured throughput" in axis.title


def test_the_step_line_is_the_best_accuracy_at_each_load_and_speeds_compare_with_the_unpruned(tmp_path: Path) -> None:
    write_profiles(write_ladder(tmp_path), n100=1.0)
    axis = view(tmp_path).axes[0]
    xs, ys = step_line(axis, axis.frontiers[0])
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)
    for point in axis.points:
        best = max((y for x, y in zip(xs, ys, strict=True) if x >= point.x), default=0.0)
        assert point.accuracy <= best + 1e-12, "no version lies above the line"
    first = reference(axis)
    assert first is not None
    assert first.number == NUMBERS[0]
    fastest = best_within(axis, 0.01)
    assert fastest is not None
    assert fastest[0].accuracy == 0.9790
    assert fastest[1] == pytest.approx(0.0100 / 0.0018, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "key", "int8"),
    [
        ("base", "base", False), ("base+int8", "base", True), ("int8", "base", True), ("l1", "l1", False),
        ("taylor+distilled+int8", "taylor+distilled", True), ("fpgm", "fpgm", False), ("L2", "l2", False),
        ("resnet18", FAMILY, False), ("resnet18+int8", FAMILY, True), ("somebody-elses", FAMILY, False),
    ],
)  # fmt: skip
def test_a_method_always_looks_the_same(method: str, key: str, *, int8: bool) -> None:
    assert style_of(method) == (key, int8)
    assert key in NAMES


Matrix = Sequence[Sequence[float]]


def _linear(colour: str) -> list[float]:
    """Return linear RGB, 0 to 1, of #rrggbb."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]


def _luminance(colour: str) -> float:
    """Return the relative luminance as WCAG 2 defines it, 0 to 1."""
    linear = _linear(colour)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [*COLOURS.values(), *RAMP, BEATEN])
def test_colours_stand_out_from_both_grounds(colour: Colour) -> None:
    on_white = 1.05 / (_luminance(colour.light) + 0.05)
    on_dark = (_luminance(colour.dark) + 0.05) / (_luminance("#171b21") + 0.05)
    assert on_white > 2
    assert on_dark > 3


MACHADO = {
    "usual": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""What linear RGB becomes in an eye (Machado, Oliveira and Fernandes, 2009, severity 1)."""
CIE_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))


def _times(matrix: Matrix, vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _cielab(linear: Sequence[float]) -> tuple[float, float, float]:
    """Return the CIELAB coordinates of linear RGB under D65."""
    xyz = _times(CIE_XYZ, [min(1.0, max(0.0, value)) for value in linear])
    x, y, z = (value / white for value, white in zip(xyz, (0.95047, 1.0, 1.08883), strict=True))
    fx, fy, fz = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eye", MACHADO)
def test_any_two_methods_differ_for_every_eye(eye: str, theme: str) -> None:
    seen = {key: _cielab(_times(MACHADO[eye], _linear(getattr(colour, theme)))) for key, colour in COLOURS.items()}
    for one, other in itertools.combinations(seen, 2):
        assert math.dist(seen[one], seen[other]) > 20, (one, other)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_criterion_with_distillation_is_the_lighter_one_of_its_pair(theme: str) -> None:
    for criterion in ("l1", "l2", "taylor", "fpgm", "slim"):
        pair = COLOURS[criterion], COLOURS[f"{criterion}+distilled"]
        dark, bright = (_cielab(_linear(getattr(colour, theme)))[0] for colour in pair)
        assert bright > dark + 9, criterion


def test_the_ramp_is_used_from_end_to_end() -> None:
    assert [ramp_step(place, 8) for place in range(8)] == list(range(8))
    assert ramp_step(0, 1) == 0
    assert (ramp_step(0, 30), ramp_step(29, 30)) == (0, len(RAMP) - 1)


LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.just("fast")
JSON = LEAF | st.lists(LEAF, max_size=2) | st.dictionaries(st.sampled_from(["low", "high", "rate"]), LEAF)
POINT = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("rate", "p50Seconds", "p95Seconds", "p99Seconds", "lateShare", "requests"), JSON)
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional={"curve": JSON | st.lists(POINT | JSON), "throughputInterval": JSON}))
def test_whatever_stands_in_a_profile_is_a_curve_in_order_or_none(document: dict[str, object]) -> None:
    points = read_curve(document)
    rates = [point.rate for point in points]
    assert rates == sorted(set(rates))
    assert len(points) != 1
    interval = read_interval(document, 10.0)
    assert interval is None or interval[0] <= 10.0 <= interval[1]


def test_a_point_that_can_not_be_read_is_left_out_and_the_others_stay() -> None:
    document = profile_document(0.01)
    whole = read_curve(document)
    assert len(whole) == 10
    document["curve"][3]["p95Seconds"] = "slow"
    document["curve"][4]["rate"] = float("nan")
    document["curve"][5]["p99Seconds"] = 0.0
    document["curve"][6] = None
    document["curve"].reverse()
    assert read_curve(document) == (*whole[:3], *whole[7:])
    assert read_curve({**document, "curve": document["curve"][:1]}) == (), "one point is no curve"
    assert read_curve({**document, "curve": {"rate": 3}}) == ()
    del document["curve"]
    assert read_curve(document) == ()
