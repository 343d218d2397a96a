"""The page and the picture: whole, offline, and deaf to what hostile files say."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import yaml
from plotly.offline import get_plotlyjs

from ladders import LADDER, profile_document, tried, write_ladder, write_profile, write_profiles, write_record
from rung_porting.repository.catalogue import read_local
from rung_porting.show.outputs import Shown, Source, look, write_page, write_pictures
from rung_porting.show.page import render
from rung_porting.show.page_assets import SCRIPT

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><b>&amp;"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """A page taken apart: elements, the text of scripts, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        elif not self._open or self._open[-1] != "style":
            self.text += data


def shown(root: Path) -> Shown:
    return asyncio.run(look(Source.named(str(root), None)))


def page_of(root: Path) -> str:
    found = shown(root)
    return render(found.views, str(root), found.faults)


def figures_of(page: Page) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(page.scripts[0])
    return figures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two tasks: one profiled on two classes, one fresh from its search."""
    folder = tmp_path / "models"
    write_profiles(write_ladder(folder), n100=1.0, rpi5=2.6)
    write_ladder(folder, "parity", LADDER[:5])
    write_record(folder, "parity", LADDER[:5])
    return folder


def test_the_page_needs_no_network_and_runs_only_its_own_scripts(root: Path) -> None:
    page = Page(page_of(root))
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base", "form")
        assert not {"src", "href", "action"} & attributes.keys(), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    assert page.scripts[1:] == [get_plotlyjs(), SCRIPT]
    (policy,) = (a["content"] or "" for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    for script in page.scripts[1:]:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]


def test_every_plot_of_the_page_is_a_figure_that_plotly_takes(root: Path) -> None:
    text = page_of(root)
    page = Page(text)
    figures = figures_of(page)
    wanted = [a["data-shown"] for _, a in page.elements if "data-shown" in a]
    wanted += [a["value"] for tag, a in page.elements if tag == "option"]
    assert set(wanted) == set(figures)
    for figure in figures.values():
        for name in set(re.findall(r'"(--[a-z0-9-]+)"', json.dumps(figure))):
            assert text.count(f"{name}: #") == 2, f"{name} has a colour on a light and on a dark ground"
        plain = re.sub(r'"--[a-z0-9-]+"', '"#000000"', json.dumps(figure)).replace('"inherit"', '"Arial"')
        go.Figure(json.loads(plain))  # raises ValueError for what it does not know


def test_hover_tells_the_lineage_and_what_was_tried_is_shown_with_its_verdict(root: Path) -> None:
    page = Page(page_of(root))
    told = [
        text
        for figure in figures_of(page).values()
        for trace in figure["data"]
        for text in (trace.get("customdata") or [])
    ]
    catalogue = read_local(root)
    for row in catalogue.ladders["digits"]:
        (first, *_) = [text for text in told if f"<b>{row.number}</b>" in text and "sha256" in text]
        assert row.spec.artifact.sha256[:12] in first
        assert row.spec.lineage.method in first
        if row.spec.lineage.parent is not None:
            assert f"parent: {row.spec.lineage.parent}" in first
            assert "40.0% sparse" in first
        assert "4 epochs" in first
        assert f"{row.spec.lineage.parameters:,} parameters" in first
        assert "MFLOP" in first
    lost = [text for text in told if "did not survive" in text]
    assert len(lost) == 14, "seven trials on each of two axes"
    assert "beaten by l1+distilled" in lost[0]
    assert "not measured throughput" in page.text + page.scripts[0]
    assert "failed: NaN loss" in page.text


def test_curves_are_drawn_where_there_are_any_and_said_to_be_missing_where_not(root: Path) -> None:
    page = Page(page_of(root))
    options = [a["value"] for tag, a in page.elements if tag == "option"]
    assert len(options) == 2 * (1 + len(LADDER)), "all together and each alone, on two classes"
    alone = figures_of(page)["0-c0-1"]["data"]
    assert [trace["name"].split()[1] for trace in alone] == ["p99", "p95", "p50", "late"]
    assert "No curve: no version was profiled." in page.text

    for path in root.glob("digits/*/profiles/rpi5-*.yaml"):
        document = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**document, "curve": [{"rate": "fast"}, 7, None]}))
    again = Page(page_of(root))
    assert "rpi5: no curve in any of its profiles." in again.text
    assert len([a for tag, a in again.elements if tag == "option"]) == 1 + len(LADDER)


def hostile_ladder(folder: Path) -> Path:
    write_record(write_ladder(folder))
    for path in folder.glob("digits/*/version.yaml"):
        document = yaml.safe_load(path.read_text())
        document["accuracy"]["dataset"] = HOSTILE
        path.write_text(yaml.safe_dump(document))
        document = {**profile_document(0.01), "tool": HOSTILE, HOSTILE: HOSTILE}
        write_profile(folder, "digits", int(path.parent.name), document)
    broken = folder / "digits" / "1"
    broken.mkdir()
    (broken / "version.yaml").write_text(yaml.safe_dump({"version": HOSTILE, "taskRef": {"name": HOSTILE}}))
    record = json.loads((folder / "digits.search.json").read_text())
    for trial in record["trials"]:
        trial["sentence"], trial["failure"], trial["notes"] = HOSTILE, HOSTILE, [HOSTILE]
        trial["versions"].append(tried(0.5, 1000, HOSTILE, method=HOSTILE))
    record["over"] = HOSTILE
    (folder / "digits.search.json").write_text(json.dumps(record))
    return folder


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = hostile_ladder(tmp_path / HOSTILE.replace("/", "_"))
    text = page_of(folder)
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 3
    assert not [tag for tag, _ in page.elements if tag in ("img", "a", "svg", "iframe")]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) > 20, "it is shown as it is"
    for figure in figures_of(page).values():
        for trace in figure["data"]:
            for told in trace.get("customdata") or []:
                assert set(re.findall(r"<[^>]*>", told)) <= {"<b>", "</b>", "<br>"}, told


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here; the test above reads the same page")
def test_hostile_text_does_not_run_in_a_browser_and_the_plots_are_drawn(tmp_path: Path) -> None:
    folder = hostile_ladder(tmp_path / "models")
    # A second line of defence: even where a script gets into the page, its policy does not let it run.
    text = page_of(folder).replace("</main>", f"</main>{HOSTILE}")
    (tmp_path / "page.html").write_text(text)
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}",
            "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "<title>Rung: digits</title>" in done.stdout
    assert done.stdout.count('class="main-svg"') >= 2, "the frontier and the curves are drawn"


def test_the_same_ladder_gives_the_same_page(root: Path) -> None:
    assert page_of(root) == page_of(root)


def size_of(picture: Path) -> tuple[int, int]:
    """Return width and height of a PNG in pixels."""
    content = picture.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_pictures_go_into_one_file_or_into_a_folder(root: Path, tmp_path: Path) -> None:
    found = shown(root)
    assert write_pictures(found.views, tmp_path / "new" / "all.png") == [tmp_path / "new" / "all.png"]
    wide, high = size_of(tmp_path / "new" / "all.png")
    files = write_pictures(found.views, tmp_path / "each")
    assert [path.name for path in files] == ["digits.png", "parity.png"]
    assert size_of(files[0]) == (wide, high // 2), "a row for each task"
    assert size_of(files[1]) == (wide // 2, high // 2), "no curve, no panel for it"


@pytest.mark.parametrize("factor", [1e-150, 1e-9, 1.0, 1e9])
def test_numbers_at_the_end_of_all_scales_break_nothing(tmp_path: Path, factor: float) -> None:
    write_ladder(tmp_path, "digits", LADDER[:3])
    for number, more in ((1_098_710, 1.0), (1_098_640, 1.0), (1_098_570, factor)):
        document = profile_document(0.01)
        document["maxThroughput"] *= more
        document["curve"] = [{**point, "rate": point["rate"] * more} for point in document["curve"]]
        write_profile(tmp_path, "digits", number, document)
    found = shown(tmp_path)
    assert found.faults == []
    write_page(found, Source.named(str(tmp_path), None), tmp_path / "page.html")
    write_pictures(found.views, tmp_path / "all.png")


def test_a_task_without_versions_and_a_single_version_are_shown(tmp_path: Path) -> None:
    write_ladder(tmp_path, "digits", LADDER[:1])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.pbtxt").write_text("")
    page = Page(page_of(tmp_path))
    assert "It has no versions." in page.text
    assert "1 version, 1 on the frontier" in page.text
    write_pictures(shown(tmp_path).views, tmp_path / "all.png")
