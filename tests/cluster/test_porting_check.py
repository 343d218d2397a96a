"""`rung-port publish --triton`: what does not load or answer on a real server is never published."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rung.adapters.triton import State, TritonClient
from rung_porting.cli import main
from rung_porting.repository.folder import write_config, write_version
from servers.models import config_text, version_model
from servers.s3 import S3Server
from servers.triton import TritonServer

pytestmark = pytest.mark.cluster


def write(root: Path, number: int, content: bytes, accuracy: float, flops: int) -> None:
    source = root.parent / "source.onnx"
    source.write_bytes(content)
    spec = {
        "taskRef": {"name": "digits"},
        "version": number,
        "artifact": {"uri": "model.onnx", "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)},
        "accuracy": {"metric": "accuracy", "value": accuracy, "samples": 700, "dataset": "test"},
        "lineage": {"method": "base", "flops": flops},
    }
    write_version(root, "digits", number, source, spec)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    write_config(root, "digits", config_text("digits"))
    write(root, 1_095_000, version_model(1_095_000, layers=4), 0.95, 400)
    write(root, 1_090_000, version_model(1_090_000), 0.90, 100)
    return root


def publish(s3: S3Server, folder: Path, triton: str) -> Result:
    arguments = ["publish", str(folder), "s3://models/rung", "--endpoint", s3.endpoint, "--triton", triton]
    return CliRunner(env=s3.environment).invoke(main, arguments)


def stored(s3: S3Server) -> list[str]:
    root = s3.folder / "objects/models/rung"
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


async def left_over(address: str) -> list[str]:
    async with TritonClient(address) as server:
        return [entry.model for entry in await server.index() if entry.state is State.READY]


def test_what_works_is_published_and_leaves_nothing_on_the_server(
    s3: S3Server, triton: TritonServer, folder: Path
) -> None:
    done = publish(s3, folder, triton.address)
    assert done.exit_code == 0, done.output
    assert "2 published, 0 there already, 0 left out, 0 refused" in done.output
    assert asyncio.run(left_over(triton.address)) == []


def test_what_does_not_load_is_refused_with_the_servers_reason_and_the_others_go_on(
    s3: S3Server, triton: TritonServer, folder: Path
) -> None:
    write(folder, 1_093_000, b"no network at all", 0.93, 200)
    done = publish(s3, folder, triton.address)
    assert done.exit_code == 1
    assert f"refused: digits-1093000: it does not work on {triton.address}: " in done.output
    assert not [key for key in stored(s3) if "1093000" in key]
    assert len([key for key in stored(s3) if key.endswith("version.yaml")]) == 2


def test_a_configuration_that_fits_no_version_publishes_nothing_not_even_itself(
    s3: S3Server, triton: TritonServer, folder: Path
) -> None:
    (folder / "digits/config.pbtxt").write_text(config_text("digits").replace('"INPUT"', '"IMAGE"'))
    done = publish(s3, folder, triton.address)
    assert done.exit_code == 1
    assert done.output.count("it does not work on") == 2
    assert stored(s3) == []


def test_a_server_that_is_not_there_is_one_sentence(s3: S3Server, folder: Path) -> None:
    done = publish(s3, folder, "127.0.0.1:9")
    assert done.exit_code == 1
    assert "the versions can't be checked: 127.0.0.1:9: " in done.output
    assert stored(s3) == []
