"""The report as a browser gets it: complete, self-contained, and showing text as text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from rung_demo.record import DecisionLine, LadderVersion, PoolLine, Run, RunHeader, ServerLine, TaskHeader, TaskLine
from rung_demo.report import render, write_report
from rung_loadgen.lines import LoadLine

HOSTILE = "</script><b onmouseover=alert(1)>&"


def sample(name: str = "Stepwise", sentence: str = "CPU averaged 80 %.", seconds: int = 20) -> Run:
    ladder = (LadderVersion(90, 0.9, 0.9), LadderVersion(100, 1.0, 1.0))
    return Run(
        header=RunHeader(1000.0, name, (TaskHeader("digit", 400.0, ladder), TaskHeader("parity", 250.0, ladder))),
        load=tuple(
            LoadLine(
                1000.0 + second, second, task, 400.0, 10 + second, 10, 1, 0, {}, {"100": 10}, 4.0, 8.0, 16.0, 20.0
            )
            for second in range(1, seconds + 1)
            for task in ("digit", "parity")
        ),
        pool=tuple(
            PoolLine(
                1000.0 + second,
                (ServerLine("s", 0.6, 0.5),),
                tuple(
                    TaskLine(task, *((90, 0.9) if second > 10 else (100, 1.0))) for task in ("digit", "parity")
                ),
            )
            for second in range(seconds)
        ),
        decisions=(DecisionLine(1010.0, "digit", "StepDown", sentence, 100, 90, "s"),),
    )  # fmt: skip


class Page(HTMLParser):
    """Collects what the page loads, its scripts by place, and the text that a person sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        if tag == "script":
            self.scripts.append("")
        for name, value in attrs:
            if name in ("src", "href", "srcset", "poster"):
                self.references.append(str(value))
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data


def figures(page: Page) -> list[dict[str, object]]:
    found = json.loads(page.scripts[0])
    assert isinstance(found, list)
    return found


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = render([sample()])
    page = Page(text)

    assert page.references == []
    own = text[: text.index("<script")]
    assert not re.search(r"url\(|@import|https?://", own)
    assert len(page.scripts) == 3
    assert "Plotly" in page.scripts[1]


def test_words_from_outside_stay_words() -> None:
    run = sample(sentence=f"{HOSTILE} steps down", name=f"Step {HOSTILE}")
    page = Page(render([replace(run, header=replace(run.header, note=HOSTILE))]))

    assert page.handlers == []
    assert len(page.scripts) == 3
    assert page.text.count(HOSTILE) >= 3
    assert figures(page)


def test_every_run_has_its_figure_and_all_share_their_axes() -> None:
    runs = [sample(), sample("Static Best", seconds=30), sample("Static Cheapest")]
    page = Page(render(runs))
    found = figures(page)

    assert len(found) == 3
    assert {json.dumps(figure["layout"]["xaxis"]["range"]) for figure in found} == {"[0, 30]"}  # type: ignore[index]
    assert len({json.dumps(figure["layout"]["yaxis"]["range"]) for figure in found}) == 1  # type: ignore[index]
    for name in ("Stepwise", "Static Best", "Static Cheapest"):
        assert name in page.text


def test_the_steps_are_drawn_where_they_happened_with_their_reason() -> None:
    [figure] = figures(Page(render([sample()])))
    rings = [trace for trace in figure["data"] if trace["name"] == "digit decisions"]  # type: ignore[attr-defined]
    lines = [trace for trace in figure["data"] if trace["name"] == "digit"]  # type: ignore[attr-defined]

    assert rings[0]["x"] == [10.0]
    assert rings[0]["y"] == [0]  # the lower of two rungs
    assert "CPU averaged 80 %." in rings[0]["customdata"][0]
    assert lines[1]["line"]["shape"] == "hv"
    assert lines[1]["y"] == [1] * 11 + [0] * 9


def test_panels_do_not_overlap_and_fill_the_height() -> None:
    [figure] = figures(Page(render([sample()])))
    layout = figure["layout"]
    assert isinstance(layout, dict)
    domains = sorted(axis["domain"] for name, axis in layout.items() if name.startswith("yaxis"))

    assert domains[0][0] == pytest.approx(0, abs=1e-9)
    assert domains[-1][1] == 1
    assert all(below[1] < above[0] for below, above in pairwise(domains))


def test_a_run_that_recorded_nothing_still_makes_a_page(tmp_path: Path) -> None:
    empty = Run(header=RunHeader(0.0, "Nothing", ()))
    write_report([empty, sample()], tmp_path / "deep" / "report.html")

    page = Page((tmp_path / "deep" / "report.html").read_text())
    assert "Nothing: the run broke off before the end of its trace." in page.text
    with pytest.raises(ValueError, match="at least one run"):
        render([])
