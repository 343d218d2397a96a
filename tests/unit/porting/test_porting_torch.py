"""The parts that need torch: a small plan goes all the way, twice the same, and survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.porting, pytest.mark.timeout(1800)]
torch = pytest.importorskip("torch", reason="needs the porting environment: make setup-porting")
onnx = pytest.importorskip("onnx")

from rung_porting import export, stages  # noqa: E402
from rung_porting.builtin import BUILT_IN  # noqa: E402
from rung_porting.datasets import Samples, load  # noqa: E402
from rung_porting.errors import PortingError  # noqa: E402
from rung_porting.networks import Network, Widths, count_flops, rebuild, widths_of  # noqa: E402
from rung_porting.plan import CameraPlan, NetworkPlan, PruningPlan, Question, SplitPlan, TaskPlan, TrainingPlan  # noqa: E402
from rung_porting.pruning import prune_l1, pruned_widths  # noqa: E402
from rung_porting.repository.catalogue import read_local  # noqa: E402

TINY = TaskPlan(
    name="tiny",
    question=Question.PARITY,
    split=SplitPlan(validation=50, test=100),
    camera=CameraPlan(noise=0.05, shift=0, dirt=0, train_views=1, test_views=1),
    network=NetworkPlan(streams=(6, 10), blocks=1),
    base=TrainingPlan(epochs=6, learning_rate=0.005, batch_size=100),
    pruned=(PruningPlan(sparsity=0.5, training=TrainingPlan(epochs=2, learning_rate=0.005, batch_size=100)),),
)
RUN = """
import json, sys
from pathlib import Path
from rich.console import Console
from rung_porting.plan import TaskPlan
from rung_porting.run import run
from rung_porting.store import Store
plan = TaskPlan.model_validate(json.loads(sys.argv[1]))
run([plan], Path(sys.argv[2]), Store(Path(sys.argv[3])), 1, Console(stderr=True))
"""
DEADLINE_SECONDS = 600


def start(output: Path, store: Path) -> subprocess.Popen[bytes]:
    plan = json.dumps(TINY.model_dump(mode="json"))
    return subprocess.Popen([sys.executable, "-c", RUN, plan, str(output), str(store)])


def finish(output: Path, store: Path) -> int:
    process = start(output, store)
    try:
        return process.wait(DEADLINE_SECONDS)
    finally:
        process.kill()
        process.wait(10)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def small_network() -> Network:
    torch.manual_seed(0)
    network: Network = Network(Widths.regular((8, 16), 2), 10, 16, 2).eval()
    return network


def samples(count: int = 20) -> Samples:
    images = np.random.default_rng(0).random((count, 1, 8, 8), dtype=np.float32)
    return Samples(images, np.zeros(count, dtype=np.int64))


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_versions(tmp_path: Path) -> None:
    assert finish(tmp_path / "one", tmp_path / "store-one") == 0

    store = tmp_path / "store-two"
    killed = start(tmp_path / "two", store)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not list(store.glob("tiny-base-*.unfinished/last.ckpt")):  # in the middle of training
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    assert not (tmp_path / "two").exists()
    # Its worker ends by itself, as nobody reads its progress; until then it holds the task.
    while finish(tmp_path / "two", store) != 0:
        assert time.monotonic() < deadline
    assert contents(tmp_path / "two") == contents(tmp_path / "one")

    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.suffix != ".lock"}
    assert finish(tmp_path / "three", store) == 0
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.suffix != ".lock"} == before

    rows = read_local(tmp_path / "one").ladders["tiny"]
    assert sorted(row.spec.lineage.method for row in rows) == ["base", "l1"]
    (pruned,) = (row for row in rows if row.spec.lineage.method == "l1")
    (base,) = (row for row in rows if row.spec.lineage.method == "base")
    assert pruned.spec.lineage.parent == f"tiny-{base.number}"
    assert pruned.spec.lineage.flops < 0.4 * base.spec.lineage.flops  # type: ignore[operator]
    for row in rows:
        model = tmp_path / "one" / "tiny" / str(row.number) / "model.onnx"
        measured = export.measure(model, load(TINY.question, TINY.split, TINY.camera).test)
        assert measured.accuracy == pytest.approx(row.spec.accuracy.value, abs=1e-6)
        assert row.number in (1_000_000 + round(measured.accuracy * 100_000) + tie for tie in (0, 1))


def test_pruning_takes_out_whole_channels_and_leaves_the_original_alone() -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pruned = prune_l1(network, 0.6)
    assert widths_of(pruned.state_dict()) == pruned_widths(widths_of(before), 0.6) == Widths((4, 7), ((4, 4), (7, 7)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    image = torch.rand(3, 1, 8, 8)
    assert pruned(image).shape == (3, 10)
    assert count_flops(pruned, image) < 0.3 * count_flops(network, image)


def test_pruning_takes_the_weakest_channels() -> None:
    network = small_network()
    convolutions = [name for name, _ in network.named_parameters() if name.endswith("conv1.weight")]
    with torch.no_grad():
        for name in convolutions:
            network.get_parameter(name)[::2] *= 0.01
    kept = prune_l1(network, 0.5).state_dict()
    assert len(convolutions) == 4
    for name in convolutions:
        # Input channels left as well, so strengths are compared with a wide margin: the weak are a hundredth.
        strengths = kept[name].abs().mean(dim=(1, 2, 3))
        assert len(strengths) == network.get_parameter(name).shape[0] // 2
        assert strengths.min() > 0.2 * network.get_parameter(name)[1::2].abs().mean()


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.1, 2.0])
def test_a_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        prune_l1(small_network(), sparsity)


def test_weights_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong to a residual network"):
        rebuild({"weight": torch.zeros(3)}, 16, 2)
    weights = small_network().state_dict()
    del weights["body.stages.0.0.norm1.weight"]
    with pytest.raises(ValueError, match="do not fit"):
        rebuild(weights, 16, 2)


def test_a_good_export_passes_and_a_broken_one_is_found(tmp_path: Path) -> None:
    network, path = small_network(), tmp_path / "model.onnx"
    export.export_onnx(network, path)
    assert export.check_export(network, path, samples()) < export.TOLERANCE
    model = onnx.load(path)
    weights = next(each for each in model.graph.initializer if len(each.dims) == 4)
    changed = onnx.numpy_helper.to_array(weights).copy()
    changed[0] *= 1.05
    weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    onnx.save(model, path)
    with pytest.raises(PortingError, match="differs from the network"):
        export.check_export(network, path, samples())


def test_an_export_that_takes_one_batch_size_only_is_found(tmp_path: Path) -> None:
    network, path = small_network(), tmp_path / "model.onnx"
    export.export_onnx(network, path)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    with pytest.raises(PortingError, match="can't run it"):
        export.check_export(network, path, samples())


def test_garbage_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(os.urandom(100))
    with pytest.raises(PortingError, match="onnxruntime can't read it"):
        export.check_export(small_network(), tmp_path / "model.onnx", samples())


@pytest.mark.parametrize("plan", BUILT_IN.values(), ids=BUILT_IN.keys())
def test_the_parts_of_the_data_share_no_image(plan: TaskPlan) -> None:
    # A camera without faults shows the images as they are.
    plain = CameraPlan(noise=0, shift=0, dirt=0, train_views=1, test_views=1)
    parts = load(plan.question, plan.split, plain)
    each = [{image.tobytes() for image in part.images} for part in (parts.train, parts.validation, parts.test)]
    assert [len(part.labels) for part in (parts.train, parts.validation, parts.test)] == [900, 197, 700]
    assert not each[0] & each[1] | each[0] & each[2] | each[1] & each[2]
    digits = load(Question.DIGIT, plan.split, plain)
    expected = digits.test.labels if plan.question is Question.DIGIT else digits.test.labels % 2
    assert np.array_equal(parts.test.labels, expected)


def test_the_camera_shows_the_same_faults_every_time_and_keeps_the_labels() -> None:
    split, camera = SplitPlan(), CameraPlan(train_views=2, test_views=3)
    parts, again = (load(Question.DIGIT, split, camera) for _ in range(2))
    assert np.array_equal(parts.test.images, again.test.images)
    assert [len(part.labels) for part in (parts.train, parts.validation, parts.test)] == [1800, 197, 2100]
    assert parts.test.images.shape[1:] == (1, 8, 8)
    assert parts.test.images.min() >= 0
    assert parts.test.images.max() <= 1
    assert np.array_equal(parts.test.labels[:700], parts.test.labels[700:1400])
    assert not np.array_equal(parts.test.images[:700], parts.test.images[700:1400]), "each view is another one"


def test_every_setting_of_a_plan_changes_where_its_results_are_kept() -> None:
    def exported(plan: TaskPlan) -> set[str]:
        return set(stages._digests(plan).exported)

    changed = [
        TINY.model_copy(update={"seed": 2}),
        TINY.model_copy(update={"question": Question.DIGIT}),
        TINY.model_copy(update={"split": SplitPlan(validation=50, test=101)}),
        TINY.model_copy(update={"camera": CameraPlan(noise=0.06, shift=0, dirt=0, train_views=1, test_views=1)}),
        TINY.model_copy(update={"network": NetworkPlan(streams=(6, 12), blocks=1)}),
        TINY.model_copy(update={"base": TrainingPlan(epochs=7, learning_rate=0.005, batch_size=100)}),
    ]
    assert all(not exported(TINY) & exported(plan) for plan in changed)
    assert exported(TINY) == exported(TINY.model_copy(update={"generation": 2}))
