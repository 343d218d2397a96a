"""The methods, on small networks with torch: what each takes out, keeps, and refuses."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.porting, pytest.mark.timeout(900)]
torch = pytest.importorskip("torch", reason="needs the porting environment: make setup-porting")
onnx = pytest.importorskip("onnx")

import lightning  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402

from rung.api.porting import Criterion, DistillSpec, ExportSpec  # noqa: E402
from rung_porting import export  # noqa: E402
from rung_porting.data.digits import Digits, photograph  # noqa: E402
from rung_porting.data.images import Cifar10, ImageFolders  # noqa: E402
from rung_porting.data.source import Data, Samples  # noqa: E402
from rung_porting.errors import PortingError  # noqa: E402
from rung_porting.methods.distill import Teacher  # noqa: E402
from rung_porting.methods.interface import CannotPrune, Pruner, rounded, uniform  # noqa: E402
from rung_porting.methods.prune_nni import NniPruner  # noqa: E402
from rung_porting.methods.prune_torch_pruning import TorchPruningPruner  # noqa: E402
from rung_porting.methods.quantize import quantize  # noqa: E402
from rung_porting.methods.sensitivity import by_sensitivity, shares_by_loss, split_evenly  # noqa: E402
from rung_porting.models import families  # noqa: E402
from rung_porting.models.classifier import Classifier  # noqa: E402
from rung_porting.models.residual import Residual  # noqa: E402
from rung_porting.models.structure import (  # noqa: E402
    count_flops,
    load_network,
    parameter_count,
    save_network,
    structure_of,
)
from rung_porting.training import Schedule, accuracy_of, fit  # noqa: E402

BACKENDS = [NniPruner(), TorchPruningPruner()]
SHAPE = (1, 8, 8)
SPEC = ExportSpec()


@pytest.fixture(scope="module")
def digits() -> Data:
    return Data(Digits(batch_size=64), "digits", SHAPE)


def small() -> Any:
    torch.manual_seed(0)
    return Residual(SHAPE, 10, streams=(8, 16), blocks=2).eval()


def sample(count: int = 8, shape: tuple[int, ...] = SHAPE) -> Any:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("criterion", list(Criterion))
def test_every_criterion_takes_out_whole_channels(backend: Pruner, criterion: Criterion, digits: Data) -> None:
    network = small()
    if criterion is Criterion.SLIM and isinstance(backend, TorchPruningPruner):
        with pytest.raises(CannotPrune, match="no Slim: leave it out"):
            backend.prune(network, uniform(backend.groups(network, sample()), 0.5), criterion, digits, sample())
        return
    flops = count_flops(network, sample(1))
    groups = backend.groups(network, sample())
    assert len(groups) == 6, "two residual streams, and four layers inside blocks"
    assert "body.classifier" not in {layer for group in groups for layer in group}
    backend.prune(network, uniform(groups, 0.5), criterion, digits, sample())
    assert count_flops(network, sample(1)) == pytest.approx(flops / 4, rel=0.1)
    assert structure_of(network)["body.classifier"] == {"in_features": 8, "out_features": 10}
    assert network(sample(3)).shape == (3, 10)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda each: type(each).__name__)
def test_pruning_takes_the_weakest_channels(backend: Pruner, digits: Data) -> None:
    network = small()
    name = "body.stages.3.conv1"
    with torch.no_grad():
        network.get_submodule(name).weight[::2] *= 0.01
    strong = network.get_submodule(name).weight[1::2].detach().clone()
    backend.prune(network, {name: 0.5}, Criterion.L1, digits, sample())
    assert torch.equal(network.get_submodule(name).weight, strong)


@pytest.mark.parametrize("name", ["resnet10", "mobilenet_v2", "efficientnet_b0", "densenet121"])
def test_a_pruned_backbone_is_rebuilt_from_tensors_and_sizes_alone(name: str, tmp_path: Path, digits: Data) -> None:
    shape = (3, 32, 32)
    network = families.build(name, shape, 10).eval()
    pruner = NniPruner()
    pruner.prune(
        network, uniform(pruner.groups(network, sample(4, shape)), 0.5), Criterion.L1, digits, sample(4, shape)
    )
    save_network(network, tmp_path)
    fresh = families.build(name, shape, 10).eval()
    assert parameter_count(network) < 0.5 * parameter_count(fresh)
    load_network(fresh, tmp_path)
    with torch.no_grad():
        assert torch.equal(network(sample(2, shape)), fresh(sample(2, shape)))


def test_what_was_kept_of_another_network_is_refused(tmp_path: Path) -> None:
    save_network(small(), tmp_path)
    with pytest.raises(PortingError, match="belongs to another one"):
        load_network(nn.Sequential(nn.Linear(3, 3)), tmp_path)


@pytest.mark.parametrize(
    ("name", "shape", "first"),
    [
        ("resnet18", (3, 32, 32), (3, 1)),
        ("resnet18", (3, 224, 224), (7, 2)),
        ("densenet121", (1, 28, 28), (3, 1)),
        ("mobilenet_v3_large", (3, 32, 32), (3, 1)),
        ("efficientnet_b0", (3, 224, 224), (3, 2)),
    ],
)
def test_small_and_large_images_get_a_stem_that_fits(name: str, shape: tuple[int, ...], first: tuple[int, int]) -> None:
    network = families.build(name, shape, 7).eval()
    stem = next(each for each in network.modules() if isinstance(each, nn.Conv2d))
    assert (stem.in_channels, stem.kernel_size[0], stem.stride[0]) == (shape[0], *first)
    with torch.no_grad():
        assert network(sample(2, shape)).shape == (2, 7)


def test_every_name_of_a_family_is_a_network_of_torchvision() -> None:
    for name in families.NETWORKS:
        if name != "residual":
            families._constructor(name)
    with pytest.raises(PortingError, match="does not take these arguments"):
        families.build("resnet18", (3, 32, 32), 10, depth=3)


class Branching(nn.Module):
    """Its forward depends on values, so that no tracer of graphs can follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.inner = nn.ModuleDict({"choice": Choice()})
        self.last = nn.Linear(8, 10)

    def forward(self, x: Any) -> Any:
        return self.last(self.inner["choice"](self.first(x)).mean(dim=(2, 3)))


class Choice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, x: Any) -> Any:
        return self.conv(x) if float(x.sum()) > -1e9 else x


def test_where_nni_cant_trace_it_names_the_module_and_torch_pruning_can(digits: Data) -> None:
    network = Branching().eval()
    with pytest.raises(CannotPrune, match=r"NNI can't trace inner\.choice \(Choice\).*backend: TorchPruning"):
        NniPruner().groups(network, sample())
    pruner = TorchPruningPruner()
    pruner.prune(network, uniform(pruner.groups(network, sample()), 0.5), Criterion.L1, digits, sample())
    assert (network.first.out_channels, network.last.in_features) == (4, 4)


def test_a_sparsity_too_small_for_the_widths_is_an_error_not_a_copy(digits: Data) -> None:
    network, backend = small(), NniPruner()
    with pytest.raises(CannotPrune, match="took nothing out"):
        backend.prune(network, uniform(backend.groups(network, sample()), 0.01), Criterion.L1, digits, sample())


def test_the_sensitive_part_keeps_more(tmp_path: Path, digits: Data) -> None:
    module = Classifier(small(), 0.003)
    fit(
        module,
        digits,
        Schedule(2),
        seed=1,
        checkpoints=Path(os.devnull).parent / "shm" / f"s{os.getpid()}",
        progress=_no,
    )
    pruner = NniPruner()
    groups = pruner.groups(module, sample())
    shares = by_sensitivity(pruner, module, groups, 0.5, digits, sample())
    assert set(shares) == set(uniform(groups, 0.5))
    assert min(shares.values()) < 0.5 < max(shares.values())


def test_the_laws_of_shares() -> None:
    assert shares_by_loss([0.1], 0.4) == [0.4]
    assert shares_by_loss([3.0, 1.0, 2.0], 0.75) == pytest.approx([0.5, 0.875, 0.75])
    buckets = split_evenly([(str(index),) for index in range(10)], 4)
    assert [len(bucket) for bucket in buckets] == [2, 3, 3, 2]
    assert split_evenly([("a",)], 6) == [(("a",),)]


def test_what_is_left_is_a_multiple_of_a_block() -> None:
    widths = {"wide": 64, "narrow": 10, "same": 8}
    shares = rounded({"wide": 0.48, "narrow": 0.7, "same": 0.02}, widths, 8)
    assert [widths[name] - int(widths[name] * share) for name, share in shares.items()] == [32, 3, 8]
    assert shares["same"] == 0.0
    anyhow = rounded({"wide": 0.48, "narrow": 0.999}, widths, 1)
    assert [widths[name] - int(widths[name] * share) for name, share in anyhow.items()] == [33, 1]


def _no(_: float) -> None:
    return None


class Answers(lightning.LightningModule):
    """A linear network that learns labels which are always 0."""

    def __init__(self, *, calls_itself: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 10)
        self.calls_itself = calls_itself

    def forward(self, x: Any) -> Any:
        return self.layer(x.flatten(1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        answer = self(batch[0]) if self.calls_itself else self.layer(batch[0].flatten(1))
        return nn.functional.cross_entropy(answer, torch.zeros_like(batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


@pytest.mark.parametrize("calls_itself", [True, False])
def test_a_student_follows_its_teacher(calls_itself: bool, tmp_path: Path, digits: Data) -> None:
    teacher = small()
    network = Classifier(teacher, 0.01)
    fit(network, digits, Schedule(3), seed=1, checkpoints=tmp_path / "teacher", progress=_no)

    def follows(weight: float) -> float:
        student = Answers(calls_itself=calls_itself)
        at = tmp_path / str(weight)
        fit(
            student,
            digits,
            Schedule(4),
            seed=1,
            checkpoints=at,
            progress=_no,
            teacher=Teacher(network, DistillSpec(weight=weight)),
        )
        assert "training_step" not in vars(student), "the module is as it was"
        return accuracy_of(student, digits)

    assert follows(1.0) > 0.7, "its own loss teaches it nothing but zeros"
    assert follows(0.0001) < 0.2


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path, digits: Data) -> None:
    module = Classifier(small(), 0.01)
    epochs = fit(module, digits, Schedule(40, patience=2), seed=1, checkpoints=tmp_path, progress=_no)
    assert 3 <= epochs < 40
    assert accuracy_of(module, digits) > 0.8


def test_the_learning_rate_is_scaled_whatever_the_schedule(tmp_path: Path, digits: Data) -> None:
    rates: list[float] = []

    class Watched(Classifier):
        def on_train_batch_end(self, *_: Any) -> None:
            rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    fit(Watched(small(), 0.01), digits, Schedule(2), seed=1, checkpoints=tmp_path / "a", progress=_no)
    plain, rates[:] = list(rates), []
    fit(Watched(small(), 0.01), digits, Schedule(2, None, 0.5), seed=1, checkpoints=tmp_path / "b", progress=_no)
    assert max(plain) == pytest.approx(0.01, rel=0.02)
    assert rates == pytest.approx([rate / 2 for rate in plain], rel=1e-3)


# ------------------------------------------------------------------------------------------------------------- exports


def samples(count: int = 20) -> Samples:
    inputs = np.random.default_rng(0).random((count, *SHAPE), dtype=np.float32)
    return Samples(inputs, np.zeros(count, dtype=np.int64))


def test_a_good_export_passes_and_a_broken_one_is_found(tmp_path: Path) -> None:
    network, path = small(), tmp_path / "model.onnx"
    export.export_onnx(network, path, SHAPE, SPEC)
    assert export.check_export(network, path, samples(), SPEC.tolerance) < SPEC.tolerance
    model = onnx.load(path)
    assert model.opset_import[0].version == SPEC.opset
    weights = next(each for each in model.graph.initializer if len(each.dims) == 4)
    changed = onnx.numpy_helper.to_array(weights).copy()
    changed[0] *= 1.05
    weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    onnx.save(model, path)
    with pytest.raises(PortingError, match="differs from the network"):
        export.check_export(network, path, samples(), SPEC.tolerance)


def test_an_export_that_takes_one_batch_size_only_is_found(tmp_path: Path) -> None:
    network, path = small(), tmp_path / "model.onnx"
    export.export_onnx(network, path, SHAPE, SPEC)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    with pytest.raises(PortingError, match="can't run it"):
        export.check_export(network, path, samples(), SPEC.tolerance)


def test_garbage_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(os.urandom(100))
    with pytest.raises(PortingError, match="ONNX Runtime can't read it"):
        export.check_export(small(), tmp_path / "model.onnx", samples(), SPEC.tolerance)


def test_int8_answers_as_float_and_is_smaller(tmp_path: Path, digits: Data) -> None:
    torch.manual_seed(0)
    module = Classifier(Residual(SHAPE, 10, streams=(16, 32), blocks=1), 0.01)
    fit(module, digits, Schedule(3), seed=1, checkpoints=tmp_path / "fit", progress=_no)
    whole, quantised = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    export.export_onnx(module, whole, SHAPE, SPEC)
    quantize(whole, quantised, digits.first("train", 128).inputs, export.INPUT_NAME)
    judged = digits.first("validation", 190)
    assert export.check_agreement(quantised, whole, judged, 0.9) > 0.95
    assert quantised.stat().st_size < 0.6 * whole.stat().st_size
    with pytest.raises(PortingError, match=r"answers only .* of the samples as its float version"):
        export.check_agreement(quantised, whole, judged, 1.01)
    with pytest.raises(PortingError, match="INT8 quantisation fails"):
        quantize(whole, quantised, np.zeros((2, 3), dtype=np.float32), "nothing")


# ---------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize("question", ["digit", "parity"])
def test_the_splits_share_no_image(question: str) -> None:
    module = Digits(question=question)
    module.setup("fit")
    parts = [module.splits[name].tensors for name in ("train", "validation", "test")]
    each = [{image.numpy().tobytes() for image in images} for images, _ in parts]
    assert [len(labels) for _, labels in parts] == [900, 197, 700]
    assert not each[0] & each[1] | each[0] & each[2] | each[1] & each[2]
    plain = Digits()
    plain.setup("fit")
    expected = plain.splits["test"].tensors[1]
    assert torch.equal(parts[2][1], expected if question == "digit" else expected % 2)


def test_the_camera_shows_the_same_faults_every_time_and_keeps_the_labels() -> None:
    one, other = (Digits(noise=0.2, shift=1, dirt=2, train_views=2, test_views=3) for _ in range(2))
    for module in (one, other):
        module.setup("fit")
    images, labels = one.splits["test"].tensors
    assert torch.equal(images, other.splits["test"].tensors[0])
    assert [len(one.splits[name]) for name in ("train", "validation", "test")] == [1800, 591, 2100]
    assert torch.equal(labels[:700], labels[700:1400])
    assert not torch.equal(images[:700], images[700:1400]), "each view is another one"
    seen = photograph(np.ones((4, 1, 8, 8), dtype=np.float32), 5.0, 3, 6, np.random.default_rng(0))
    assert (seen.min(), seen.max()) == (0.0, 1.0)


def test_pictures_in_folders(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        for index, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(3):
                colour = (80 * index, number, 200)
                Image.new("RGB", (40, 30), colour).save(tmp_path / split / name / f"{number}.png")
    data = Data(ImageFolders(root=str(tmp_path), shape=(3, 16, 16), batch_size=2), "image-folder", (3, 16, 16))
    assert data.classes() == 2
    first = data.first("test", 6)
    assert first.inputs.shape == (6, 3, 16, 16)
    assert first.labels.tolist() == [0, 0, 0, 1, 1, 1]
    grey = Data(ImageFolders(root=str(tmp_path), shape=(1, 8, 8), batch_size=2), "image-folder", (1, 8, 8))
    assert grey.first("train", 2).inputs.shape == (2, 1, 8, 8)
    (tmp_path / "validation").rename(tmp_path / "held-back")
    with pytest.raises(PortingError, match="there is no validation split"):
        Data(ImageFolders(root=str(tmp_path), shape=(3, 16, 16)), "image-folder", (3, 16, 16))


def test_cifar_that_is_not_there_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):  # wherever this runs, nothing is downloaded
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    # urllib keeps the proxies that it found at its first call, for every test after this one.
    monkeypatch.setattr(urllib.request, "_opener", None)
    with pytest.raises(PortingError, match=r"data cifar10 is not in .* and can't be downloaded"):
        Data(Cifar10(root=str(tmp_path)), "cifar10", (3, 32, 32))
