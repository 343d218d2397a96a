"""Model cards: what stands in them, that text from outside can't leave its place, and that `run` writes them once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ladders import LADDER, PLAN, SHAPES, version_document, write_ladder, write_plan, write_profiles
from rung.api.porting import Allocation, Criterion, PortingPlan
from rung.api.version import ModelVersionSpec
from rung_porting import ladder_files
from rung_porting.errors import PortingError
from rung_porting.outcome import Made, Outcome
from rung_porting.plan_file import builtin_plans, parse_plan, read_plan
from rung_porting.recipe import Recipe, Turn
from rung_porting.repository.catalogue import spec_in_folder
from rung_porting.repository.folder import config_text
from rung_porting.show.card import ancestors, card_text, plan_in_card, plan_text
from rung_porting.show.markdown import code, plain, table
from rung_porting.show.outputs import Source, render_card
from rung_porting.show.record import read_record

CONFIG = config_text("digits", SHAPES)


def specs() -> list[ModelVersionSpec]:
    return [
        spec_in_folder("x", version_document("digits", LADDER, place, b"network" * 100)) for place in range(len(LADDER))
    ]


def test_a_card_says_what_it_is_how_good_where_from_how_to_load_it_and_how_to_make_it_again() -> None:
    ladder = specs()
    card = card_text(ladder[9], ladder, CONFIG, PLAN)
    for fact in (
        "# digits 1095210",
        "| accuracy | 95.210% |",
        "| samples | 2,800 |",
        "| data | digits, test split |",
        "| method | l1+distilled+int8 |",
        f"| SHA-256 | `{ladder[9].artifact.sha256}` |",
        "It was not profiled when this card was written",
        "rung-port show s3://BUCKET/PREFIX --card digits/1095210",
        "1. `digits-1098710`: base, 4 epochs, 98 MFLOP",
        "tritonserver --model-repository=models --model-control-mode=explicit --load-model=digits",
        CONFIG.rstrip(),
        "rung-port run digits.plan.yaml --output out/models",
        plan_text(PLAN).rstrip(),
    ):
        assert fact in card, fact
    chain = [line.split("`")[1] for line in card.splitlines() if line.startswith("1. `")]
    assert chain == ["digits-1098710", "digits-1098640", "digits-1097440", "digits-1095210"]
    assert card_text(ladder[9], ladder[::-1], CONFIG, PLAN) == card, "the same bytes whatever the order"


def test_a_parent_that_is_gone_and_a_ring_end_the_chain() -> None:
    ladder = specs()
    orphan = card_text(ladder[9], [ladder[9]])
    assert "1. `digits-1097440`, which is not in this ladder" in orphan
    assert "It is not known which plan made it." in orphan
    ring = [
        version_document("digits", [(0.9, "l1", 900, 1.0, 1), (0.8, "l1", 900, 1.0, 0)], place, b"x")
        for place in (0, 1)
    ]
    first, second = (spec_in_folder("x", each) for each in ring)
    assert ancestors(first, [first, second]) == [second]
    assert "not in this ladder" not in card_text(first, [first, second])


@pytest.mark.parametrize("plan", [PLAN, *(parse_plan(text, name) for name, text in builtin_plans().items())])
def test_the_plan_can_be_had_back_from_the_card(plan: PortingPlan) -> None:
    ladder = specs()
    assert parse_plan(plan_text(plan), "plan") == plan
    assert plan_in_card(card_text(ladder[0], ladder, CONFIG, plan), plan.task) == plan


def test_a_plan_of_another_task_or_a_broken_one_is_none() -> None:
    ladder = specs()
    card = card_text(ladder[0], ladder, CONFIG, PLAN)
    assert plan_in_card(card, "parity") is None
    assert plan_in_card(card.replace("seed: 1", "sead: 1"), "digits") is None
    assert plan_in_card(card_text(ladder[0], ladder), "digits") is None


def test_a_plan_with_fences_in_its_arguments_is_quoted_whole() -> None:
    content = PLAN.to_json()
    content["data"]["arguments"] = {"question": "```\n# owned\n````yaml\ntask: other\n`````"}
    plan = PortingPlan.model_validate(content)
    card = card_text(specs()[0], specs(), CONFIG, plan)
    assert plan_in_card(card, "digits") == plan


@given(st.text())
def test_no_text_ends_its_block_or_its_cell(text: str) -> None:
    lines = code(text).split("\n")
    assert lines[0] == lines[-1]
    assert lines[0] not in lines[1:-1]
    (row,) = table(("a", "b"), [(plain(text), "x")]).split("\n")[2:]
    assert row.replace("\\\\", "").replace("\\|", "").count("|") == 3
    assert "<" not in row


def test_hostile_text_is_no_markup() -> None:
    hostile = "x | y\n# <script>alert(1)</script> ![a](http://b) **c** `d` \x1b[31m"
    shown = plain(hostile)
    assert shown == ("x \\| y # &lt;script&gt;alert(1)&lt;/script&gt; !\\[a\\](http://b) \\*\\*c\\*\\* \\`d\\`  \\[31m")
    document = version_document("digits", LADDER, 0, b"network")
    document["accuracy"]["dataset"] = hostile
    assert f"| data | {shown} |" in card_text(spec_in_folder("x", document), [])


def card_of(root: Path, name: str) -> str:
    return asyncio.run(render_card(Source.named(str(root), None), name))


def test_the_card_with_the_profiles_of_today(tmp_path: Path) -> None:
    write_plan(write_ladder(tmp_path))
    before = card_of(tmp_path, "digits/1097900")
    assert "It was not profiled" in before
    assert plan_text(PLAN).rstrip() in before
    write_profiles(tmp_path, n100=1.0, rpi5=2.6)
    card = card_of(tmp_path, "digits/1097900")
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith(("| n100", "| rpi5"))]
    assert [row[0] for row in rows] == ["| n100", "| rpi5"]
    assert rows[0][1:4] == ["1", "100ms", f"{0.86 / 0.0018:,.1f}"]
    assert rows[0][8:] == ["48 MiB", "180ms", "2026-03-01 rung-port 0.1.0 |"]


def test_the_card_that_was_written_with_a_version_knows_the_plan_better_than_the_one_beside(tmp_path: Path) -> None:
    first = PLAN.model_copy(update={"seed": 7})
    write_ladder(tmp_path, "digits", LADDER[:2], card_text(specs()[0], specs(), CONFIG, first))
    write_plan(tmp_path)
    assert "\nseed: 7\n" in card_of(tmp_path, "digits/1098710")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("digits", "'digits' names no version: give TASK/VERSION, for example digits/1098820"),
        ("../../1", "names no version"),
        ("digits/latest", "names no version"),
        ("digits/7", "there is no version digits/7 in .*; versions of digits: 1098640, 1098710"),
        ("cats/7", "versions of cats: none"),
        ("digits/1098640", "there is no version digits/1098640 in .*another SHA-256"),
    ],
)
def test_a_card_of_what_is_not_there_is_a_sentence(tmp_path: Path, name: str, sentence: str) -> None:
    write_ladder(tmp_path, "digits", LADDER[:2])
    if name == "digits/1098640":
        model = tmp_path / "digits" / "1098640" / "model.onnx"
        model.write_bytes(model.read_bytes()[::-1])
    with pytest.raises(PortingError, match=sentence):
        card_of(tmp_path, name)


# ------------------------------------------------------------------------------------------------- what `run` writes


def network(path: Path, seed: float) -> Path:
    """Write a real ONNX file that answers ten logits."""
    node = helper.make_node("Mul", ["input", "factor"], ["logits"])
    shape: list[str | int | None] = ["batch", 10]
    graph = helper.make_graph(
        [node],
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [seed])],
    )
    onnx.save(helper.make_model(graph), path)
    return path


def outcomes(folder: Path) -> list[Outcome]:
    turn = Turn(
        sparsity=0.5, criterion=Criterion.L1, allocation=Allocation.UNIFORM, epochs=2, learning_rate_scale=1.0,
        distill=True,
    )  # fmt: skip
    found = []
    for place, (recipe, accuracy) in enumerate(((Recipe(), 0.9), (Recipe(turns=(turn,)), 0.85))):
        model = network(folder / f"{place}.onnx", place + 1.0)
        flops = 1_000_000 // (1 + place)
        made = Made(recipe, False, model, accuracy, accuracy, 700, 0.001, 1000, flops, 3, None, 0.0)
        found.append(Outcome(recipe, (made,)))
    return found


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_run_writes_a_card_beside_each_version_and_the_plan_beside_the_task(tmp_path: Path) -> None:
    made = outcomes(tmp_path)
    ladder_files.write_ladder(PLAN, made, "all is made", tmp_path / "models")
    assert sorted(contents(tmp_path / "models")) == [
        "digits.plan.yaml",
        "digits.search.json",
        *(f"digits/1085000/{name}" for name in ("README.md", "model.onnx", "version.yaml")),
        *(f"digits/1090000/{name}" for name in ("README.md", "model.onnx", "version.yaml")),
        "digits/config.pbtxt",
    ]
    assert read_plan(str(tmp_path / "models" / "digits.plan.yaml")) == PLAN
    card = (tmp_path / "models" / "digits" / "1085000" / "README.md").read_text()
    assert "1. `digits-1090000`: base" in card
    assert card_of(tmp_path / "models", "digits/1085000") == card, "show renders the same while nothing is profiled"

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "models" / "digits").rglob("*")}
    ladder_files.write_ladder(PLAN, made, "all is made", tmp_path / "models")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "models" / "digits").rglob("*")} == before
    ladder_files.write_ladder(PLAN, made, "all is made", tmp_path / "elsewhere")
    assert contents(tmp_path / "elsewhere") == contents(tmp_path / "models")


def test_a_card_that_is_there_stays_and_one_that_is_missing_is_written(tmp_path: Path) -> None:
    made = outcomes(tmp_path)
    root = tmp_path / "models"
    ladder_files.write_ladder(PLAN, made, "all is made", root)
    first, second = (root / "digits" / str(number) / "README.md" for number in (1085000, 1090000))
    text = first.read_text()
    second.unlink()
    ladder_files.write_ladder(PLAN.model_copy(update={"seed": 9}), made, "all is made", root)
    assert first.read_text() == text, "it may be published, and it tells of the plan that made it"
    assert "\nseed: 9\n" in second.read_text()
    assert "seed: 9" in (root / "digits.plan.yaml").read_text()


def test_the_record_of_a_search_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    ladder_files.write_ladder(PLAN, outcomes(tmp_path), "all is made", tmp_path)
    record: dict[str, Any] = json.loads((tmp_path / "digits.search.json").read_text())
    read = read_record(tmp_path / "digits.search.json")
    assert [tried.number for tried in read.versions] == [1_090_000, 1_085_000]
    assert [trial.sentence for trial in read.trials] == [trial["sentence"] for trial in record["trials"]]
    assert yaml.safe_load((tmp_path / "digits.plan.yaml").read_text()) == record["plan"]
