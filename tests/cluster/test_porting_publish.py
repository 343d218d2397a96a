"""`rung-port publish`, `register` and `show` against a real S3 server and a real API server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from rung.adapters.agent import Inventory, VersionState
from rung.api.porting import PortingPlan
from rung_porting.cli import main
from rung_porting.repository.folder import TensorShapes, config_text, write_config, write_version
from rung_porting.show.card import plan_text
from rung_porting.show.markdown import code
from servers.agents import agent_settings, is_in, running_agent, until_inventory, visible
from servers.apiserver import ApiServer
from servers.s3 import S3Server, running_s3

pytestmark = pytest.mark.cluster
SHAPES = TensorShapes("image", (1, 8, 8), "logits", (10,))
PLAN = PortingPlan.model_validate(
    {"task": "digits", "model": {"builtin": "residual"}, "data": {"builtin": "digits"}, "input": [1, 8, 8]}
)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three versions, the middle one beaten."""
    for number, accuracy, flops in ((1_090_000, 0.90, 10), (1_092_000, 0.92, 90), (1_095_000, 0.95, 80)):
        write(tmp_path, number, f"network {number}".encode(), accuracy, flops)
    return tmp_path / "models"


def write(
    tmp_path: Path,
    number: int,
    content: bytes,
    accuracy: float,
    flops: int,
    folder: str = "models",
    card: str | None = None,
) -> None:
    (tmp_path / "source.onnx").write_bytes(content)
    write_config(tmp_path / folder, "digits", config_text("digits", SHAPES))
    spec = {
        "taskRef": {"name": "digits"},
        "version": number,
        "artifact": {"uri": "model.onnx", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)},
        "accuracy": {"metric": "accuracy", "value": accuracy, "samples": 700, "dataset": "test"},
        "lineage": {"method": "base", "flops": flops},
    }
    write_version(tmp_path / folder, "digits", number, tmp_path / "source.onnx", spec, card)


def command(s3: S3Server, *arguments: object) -> Result:
    texts = [*map(str, arguments), "--endpoint", s3.endpoint]
    return CliRunner(env=s3.environment).invoke(main, texts)


def uri(request: pytest.FixtureRequest) -> str:
    return f"s3://models/{request.node.name.replace('[', '-').replace(']', '')}"


def stored(s3: S3Server, where: str) -> dict[str, bytes]:
    root = s3.folder / "objects" / where.removeprefix("s3://")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_publish_twice(s3: S3Server, folder: Path, request: pytest.FixtureRequest) -> None:
    where = uri(request)
    first = command(s3, "publish", folder, where)
    assert first.exit_code == 0, first.output
    assert "2 published, 0 there already, 1 left out, 0 refused" in first.output
    assert "digits-1092000: left out, digits-1095000 is at least as accurate and cheaper" in first.output
    objects = stored(s3, where)
    assert sorted(objects) == [
        "digits/1090000/model.onnx",
        "digits/1090000/version.yaml",
        "digits/1095000/model.onnx",
        "digits/1095000/version.yaml",
        "digits/config.pbtxt",
    ]
    document = yaml.safe_load(objects["digits/1095000/version.yaml"])
    assert document["artifact"]["uri"] == f"{where}/digits/1095000/model.onnx"
    assert document["artifact"]["sha256"] == hashlib.sha256(objects["digits/1095000/model.onnx"]).hexdigest()

    second = command(s3, "publish", folder, where)
    assert "0 published, 2 there already" in second.output
    assert stored(s3, where) == objects
    third = command(s3, "publish", folder, where, "--all")
    assert "1 published, 2 there already, 0 left out" in third.output


def test_other_content_under_a_published_number_is_never_overwritten(
    s3: S3Server, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = uri(request)
    assert command(s3, "publish", folder, where).exit_code == 0
    before = stored(s3, where)
    write(tmp_path, 1_090_000, b"retrained network", 0.90, 10, folder="retrained")
    write(tmp_path, 1_097_000, b"better network", 0.97, 100, folder="retrained")
    outcome = command(s3, "publish", tmp_path / "retrained", where)
    assert outcome.exit_code == 1
    assert "digits-1090000" in outcome.output
    assert "raise the generation" in outcome.output
    assert "digits-1097000: published" in outcome.output
    after = stored(s3, where)
    assert {key: after[key] for key in before} == before


def test_a_bucket_that_is_not_there_and_credentials_that_are_refused_are_one_sentence(
    s3: S3Server, folder: Path
) -> None:
    missing = command(s3, "publish", folder, "s3://nowhere/rung")
    assert missing.exit_code == 1
    assert "the bucket does not exist" in missing.output
    environment = {**s3.environment, "AWS_SECRET_ACCESS_KEY": "wrong"}
    arguments = ["publish", str(folder), "s3://models/refused", "--endpoint", s3.endpoint]
    refused = CliRunner(env=environment).invoke(main, arguments)
    assert refused.exit_code == 1
    for outcome in (missing, refused):
        assert outcome.output.count("\n") <= 2, outcome.output
        assert isinstance(outcome.exception, SystemExit), "no traceback"


def test_a_damaged_file_is_never_published(s3: S3Server, folder: Path, request: pytest.FixtureRequest) -> None:
    where = uri(request)
    (folder / "digits" / "1095000" / "model.onnx").write_bytes(b"network 1095OOO")
    outcome = command(s3, "publish", folder, where)
    assert outcome.exit_code == 1
    assert "1095000/model.onnx has another SHA-256" in outcome.output
    assert not [key for key in stored(s3, where) if "1095000" in key]
    assert [key for key in stored(s3, where) if "1090000" in key]


def test_register_creates_updates_and_names_what_is_broken(
    s3: S3Server, api_server: ApiServer, namespace: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    where = uri(request)
    assert command(s3, "publish", folder, where).exit_code == 0
    cluster = ("--namespace", namespace, "--kubeconfig", api_server.kubeconfig)
    first = command(s3, "register", where, *cluster)
    assert first.exit_code == 0, first.output
    assert "2 created, 0 updated, 0 unchanged, 0 refused" in first.output
    assert "0 created, 0 updated, 2 unchanged" in command(s3, "register", where, *cluster).output

    root = s3.folder / "objects" / where.removeprefix("s3://") / "digits"
    profiles = root / "1095000" / "profiles"
    profiles.mkdir()
    for day, rate in ((1, 50.0), (2, 70.0)):
        text = yaml.safe_dump({"hardwareClass": "n100", "sloLatency": "400ms", "maxThroughput": rate})
        (profiles / f"n100-2026010{day}T000000Z.yaml").write_text(text)
    (root / "1090000" / "version.yaml").write_text("version: [")
    outcome = command(s3, "register", where, *cluster)
    assert outcome.exit_code == 1
    assert "digits/1090000/version.yaml" in outcome.output
    assert "0 created, 1 updated, 0 unchanged, 1 refused" in outcome.output

    listed = json.loads(
        subprocess.run(
            [
                api_server.tools["kubectl"],
                f"--kubeconfig={api_server.kubeconfig}",
                f"--namespace={namespace}",
                "get",
                "mver",
                "--selector=rung.dev/task=digits",
                "--output=json",
            ],
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
    )
    found = {each["metadata"]["name"]: each["spec"] for each in listed["items"]}
    assert sorted(found) == ["digits-1090000", "digits-1095000"]
    (profile,) = found["digits-1095000"]["profiles"]
    assert profile["maxThroughput"] == 70.0, "the newest profile of the class counts"
    assert found["digits-1095000"]["artifact"]["uri"] == f"{where}/digits/1095000/model.onnx"

    shown = command(s3, "show", where)
    assert shown.exit_code == 1
    assert "1095000" in shown.output
    assert "digits/1090000/version.yaml" in shown.output


@pytest.fixture
def with_cards(tmp_path: Path) -> Path:
    """Two versions with model cards, which quote the plan that made them."""
    for number, accuracy, flops in ((1_090_000, 0.90, 10), (1_095_000, 0.95, 80)):
        card = f"# digits {number}\n\n{code(plan_text(PLAN), 'yaml')}\n"
        write(tmp_path, number, f"network {number}".encode(), accuracy, flops, card=card)
    return tmp_path / "models"


def test_a_card_is_published_before_its_version_exists_and_is_never_overwritten(
    s3: S3Server, with_cards: Path, request: pytest.FixtureRequest
) -> None:
    where = uri(request)
    first = command(s3, "publish", with_cards, where)
    assert "2 published, 0 there already, 0 left out, 0 refused" in first.output
    root = s3.folder / "objects" / where.removeprefix("s3://") / "digits" / "1095000"
    written = {path.name: path.stat().st_mtime_ns for path in root.iterdir()}
    assert written.keys() == {"model.onnx", "README.md", "version.yaml"}
    assert max(written, key=written.__getitem__) == "version.yaml"
    before = stored(s3, where)
    assert before["digits/1095000/README.md"] == (with_cards / "digits" / "1095000" / "README.md").read_bytes()
    assert "0 published, 2 there already" in command(s3, "publish", with_cards, where).output

    (with_cards / "digits" / "1095000" / "README.md").write_text("# the same network from another plan\n")
    again = command(s3, "publish", with_cards, where)
    assert again.exit_code == 0, again.output
    assert "digits-1095000: another model card is there, and stays" in again.output
    assert "0 published, 2 there already, 0 left out, 0 refused" in again.output
    assert stored(s3, where) == before


def test_a_card_can_be_published_later_and_alone_it_is_no_version(
    s3: S3Server, folder: Path, request: pytest.FixtureRequest
) -> None:
    where = uri(request)
    assert command(s3, "publish", folder, where).exit_code == 0
    (folder / "digits" / "1095000" / "README.md").write_text("# digits 1095000\n")
    later = command(s3, "publish", folder, where)
    assert "1 published, 1 there already" in later.output
    assert stored(s3, where)["digits/1095000/README.md"] == b"# digits 1095000\n"

    alone = s3.folder / "objects" / where.removeprefix("s3://") / "digits" / "1080000"
    alone.mkdir()
    (alone / "README.md").write_text("# digits 1080000: its upload was cut\n")
    shown = command(s3, "show", where)
    assert shown.exit_code == 0, shown.output
    assert "1095000" in shown.output
    assert "1080000" not in shown.output


def test_register_and_the_agent_ignore_cards(
    s3: S3Server,
    api_server: ApiServer,
    namespace: str,
    with_cards: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = uri(request)
    assert command(s3, "publish", with_cards, where).exit_code == 0
    root = s3.folder / "objects" / where.removeprefix("s3://") / "digits"
    (root / "1090000" / "README.md").write_bytes(b"\xff" * (3 << 20))  # neither text nor small
    registered = command(s3, "register", where, "--namespace", namespace, "--kubeconfig", api_server.kubeconfig)
    assert registered.exit_code == 0, registered.output
    assert "2 created, 0 updated, 0 unchanged, 0 refused" in registered.output

    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)

    async def mirrored() -> Inventory:
        async with running_agent(agent_settings(s3, tmp_path / "mirror", repository=where)) as agent:
            there = is_in(VersionState.AVAILABLE, "digits", 1_090_000, 1_095_000)
            return await until_inventory(agent, there, "both are mirrored")

    inventory = asyncio.run(mirrored())
    assert inventory.repository.message == "", "a card is part of the layout: nothing to complain about"
    assert visible(tmp_path / "mirror") == {
        "digits/config.pbtxt",
        "digits/1090000/model.onnx",
        "digits/1095000/model.onnx",
    }


def test_show_draws_a_bucket_and_renders_cards_with_the_profiles_of_today(
    s3: S3Server, with_cards: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = uri(request)
    assert command(s3, "publish", with_cards, where).exit_code == 0
    before = stored(s3, where)
    card = command(s3, "show", where, "--card", "digits/1095000")
    assert card.exit_code == 0, card.output
    assert "It was not profiled when this card was written" in card.output
    assert plan_text(PLAN) in card.output, "the plan is had back from the card in the bucket"
    assert stored(s3, where) == before

    root = s3.folder / "objects" / where.removeprefix("s3://") / "digits"
    curve = [
        {"rate": rate, "p50Seconds": 0.01, "p95Seconds": 0.02, "p99Seconds": 0.02 + rate / 1000, "lateShare": 0.0}
        for rate in (5.0, 20.0, 60.0)
    ]
    for number, rate in ((1_090_000, 400.0), (1_095_000, 70.0)):
        profile = {"hardwareClass": "n100", "sloLatency": "400ms", "maxThroughput": rate, "curve": curve}
        (root / str(number) / "profiles").mkdir()
        (root / str(number) / "profiles" / "n100-20260101T000000Z.yaml").write_text(yaml.safe_dump(profile))
    assert "| n100 | - | 400ms | 70.0 |" in command(s3, "show", where, "--card", "digits/1095000").output
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    shown = command(s3, "show", where, "--html", page, "--png", picture)
    assert shown.exit_code == 0, shown.output
    text = page.read_text()
    assert "measured on n100: inferences per second within 400ms" in text
    assert text.count("<option ") == 3, "both curves together, and each alone"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert command(s3, "show", where, "--card", "digits/7").exit_code == 1


def test_no_s3_server_is_one_clear_line(folder: Path, s3: S3Server) -> None:
    nowhere = S3Server(s3.folder)  # its port is free
    outcome = command(nowhere, "publish", folder, "s3://models/nowhere")
    assert outcome.exit_code == 1
    assert "Traceback" not in outcome.output
    assert "s3://models/nowhere" in outcome.output
