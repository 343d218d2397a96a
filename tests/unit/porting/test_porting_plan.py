"""Plans: what is read from them, and what is said to each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rung.api.porting import Backend, Criterion, PortingPlan
from rung.api.schema import structural_schema
from rung_porting.errors import PortingError
from rung_porting.plan_file import builtin_plans, parse_plan, read_plan
from strangers import MODULE

GOOD = """\
task: digits
model:
  builtin: residual
data:
  builtin: digits
input: [1, 8, 8]
methods:
  prune:
    backend: NNI
    criteria: [FPGM]
"""


def test_a_plan_is_read_with_its_defaults() -> None:
    plan = parse_plan(GOOD, "plan.yaml")
    assert (plan.task, plan.generation, plan.input) == ("digits", 1, (1, 8, 8))
    assert plan.methods.prune is not None
    assert (plan.methods.prune.backend, plan.methods.prune.criteria) == (Backend.NNI, (Criterion.FPGM,))
    assert plan.methods.quantize is None, "what a plan's methods leave out is not used"
    everything = parse_plan(GOOD.partition("methods")[0], "plan.yaml").methods
    assert everything.prune is not None
    assert everything.distill is not None
    assert everything.quantize is not None
    assert everything.family is None


@pytest.mark.parametrize("name", sorted(builtin_plans()))
def test_the_built_in_plans_are_good_and_found_by_name(name: str) -> None:
    assert read_plan(name).task == name


@pytest.mark.parametrize(
    ("change", "line", "sentence"),
    [
        (
            ("  builtin: residual", "  biultin: residual"),
            3,
            "model.biultin: there is no such field; did you mean builtin?",
        ),
        (("input:", "inputs:"), 6, "inputs: there is no such field; did you mean input?"),
        (("input: [1, 8, 8]\n", ""), 1, "input: is missing"),
        (("    backend: NNI", "    backend: nni"), 9, "Input should be 'Auto', 'NNI' or 'TorchPruning'"),
        (("criteria: [FPGM]", "criteria: [L1, Tailor]"), 10, "methods.prune.criteria[1]"),
        (("  builtin: digits", "  builtin: digits\n  import: a.b:C"), 4, "data: give either builtin or import"),
        (("  builtin: digits", "  import: a.b.C"), 5, "data.import: String should match"),
        (("[1, 8, 8]", "8"), 6, "input: must be a list, for example [1, 8, 8]"),
        (("[1, 8, 8]", "[1, 0, 8]"), 6, "input[1]: Input should be greater than or equal to 1"),
        (("task: digits", "task: Digits"), 1, "task: String should match"),
        (("task: digits", "task: digits\ntask: parity"), 2, "task: is there twice"),
        (("task: digits", "task: [digits"), 2, ""),
        (
            ("  prune:", "  prune: {maxSparsity: 1.0}\n  x:"),
            8,
            "methods.prune.maxSparsity: Input should be less than 1",
        ),
        (("  prune:", "  prune: 3\n  x:"), 8, "methods.prune: must be a mapping of fields"),
    ],
)
def test_every_mistake_is_named_with_its_line(change: tuple[str, str], line: int, sentence: str) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(PortingError) as caught:
        parse_plan(text, "plan.yaml")
    found = [each for each in str(caught.value).splitlines() if sentence in each]
    assert found, str(caught.value)
    assert found[0].startswith(f"plan.yaml:{line}: ")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "!!python/object:os.system {}", "a: &a [*a]"])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PortingError, match=r"plan\.yaml"):
        parse_plan(text, "plan.yaml")


def test_a_file_that_is_missing_binary_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PortingError, match="No such file or directory; built-in plans: digits, parity"):
        read_plan(str(tmp_path / "none.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PortingError, match="is not UTF-8"):
        read_plan(str(tmp_path / "binary.yaml"))
    (tmp_path / "huge.yaml").write_bytes(b"a" * 1_000_001)
    with pytest.raises(PortingError, match="that is no plan"):
        read_plan(str(tmp_path / "huge.yaml"))
    with pytest.raises(PortingError, match="Is a directory"):
        read_plan(str(tmp_path))


def test_a_plan_survives_being_written_and_can_be_a_resource() -> None:
    plan = parse_plan(GOOD, "plan.yaml")
    assert parse_plan(yaml.safe_dump(plan.to_json()), "again.yaml") == plan
    assert structural_schema(PortingPlan)["properties"]["model"]["properties"]["import"]["nullable"]


def test_the_readme_s_own_network_takes_thirty_lines_at_most() -> None:
    assert len([line for line in MODULE.splitlines() if line.strip()]) <= 30


EXAMPLES = Path(__file__).parents[3] / "examples/porting"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_good_plans(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    plan = content.get("spec", content)  # a PortingJob's is a plan, and what a cluster needs beside it
    plan.pop("cluster", None)
    assert parse_plan(yaml.safe_dump(plan), str(path)).task
