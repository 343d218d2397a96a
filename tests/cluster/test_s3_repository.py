"""The model repository against a real S3 server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import pytest

from rung.adapters.s3 import AlreadyExists, Corrupt, Denied, ModelRepository, NotFound, Unreachable
from rung.core.repository_layout import RepositoryKey, config_key, model_key, parse_key, profile_key, version_key
from servers.ports import free_port
from servers.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, Line, S3Server, running_s3, version_yaml

pytestmark = pytest.mark.cluster


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    with running_s3(tmp_path / "s3") as server:
        yield server


async def test_reads_back_what_was_published_with_the_newest_profile_of_each_class(s3: S3Server) -> None:
    await s3.publish("digits", 1_098_000, b"network")
    await s3.publish("digits", 1_099_000, b"better network")
    await s3.publish("parity", 3, b"other network")
    for day, rps in ((1, 10.0), (9, 90.0), (5, 50.0)):
        await s3.publish_profile("digits", 1_098_000, "jetson-orin", datetime(2026, 1, day, tzinfo=UTC), rps)
    await s3.publish_profile("digits", 1_098_000, "rpi5", datetime(2025, 1, 1, tzinfo=UTC), 7.0)
    repository = s3.repository()

    assert await repository.list_tasks() == ["digits", "parity"]
    assert await repository.list_versions("digits") == [1_098_000, 1_099_000]
    record = await repository.read_version("digits", 1_098_000)
    assert record.size_bytes == len(b"network")
    assert record.spec["accuracy"] == {"metric": "top1", "value": 0.9}
    assert {p["hardwareClass"]: p["maxThroughput"] for p in record.spec["profiles"]} == {
        "jetson-orin": 90.0,
        "rpi5": 7.0,
    }
    assert "onnxruntime" in await repository.read_config("digits")


async def test_a_version_without_its_document_does_not_exist_and_strangers_are_ignored(s3: S3Server) -> None:
    repository = s3.repository()
    await repository.put_if_absent(model_key("digits", 5), b"half published")
    for stranger in ("README.md", "Bad_Name/1/version.yaml", "digits/007/version.yaml", "digits/latest/model.onnx"):
        await repository.put_if_absent(stranger, b"?")
    listing = await repository.list_objects()

    assert listing.tasks() == []
    assert set(listing.ignored) == {
        "README.md",
        "Bad_Name/1/version.yaml",
        "digits/007/version.yaml",
        "digits/latest/model.onnx",
    }
    with pytest.raises(NotFound, match=r"digits/5/version\.yaml does not exist"):
        await repository.read_version("digits", 5)


async def test_a_listing_of_thousands_is_gone_through_once(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, numbers, classes = 100, range(1, 11), ("jetson-orin", "rpi5")
    times = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
    keys = [config_key(f"task-{task}") for task in range(tasks)]
    for name, number in product((f"task-{task}" for task in range(tasks)), numbers):
        keys += [model_key(name, number), version_key(name, number)]
        keys += [profile_key(name, number, each, time) for each, time in product(classes, times)]
    for key in (*keys, model_key("half-published", 1)):
        path = s3.object_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    parsed: Counter[str] = Counter()

    def counting(key: str) -> RepositoryKey | None:
        parsed[key] += 1
        return parse_key(key)

    monkeypatch.setattr("rung.adapters.s3.parse_key", counting)
    listing = await s3.repository().list_objects()
    assert listing.tasks() == sorted(f"task-{task}" for task in range(tasks))
    for name, number in product(listing.tasks(), numbers):
        assert listing.versions(name) == [*numbers]
        assert listing.profiles(name, number) == {each: profile_key(name, number, each, times[1]) for each in classes}
    assert listing.versions("half-published") == listing.versions("nosuchtask") == []
    assert parsed == Counter([*keys, model_key("half-published", 1)])


async def test_nothing_is_ever_overwritten(s3: S3Server, tmp_path: Path) -> None:
    repository = s3.repository()
    content = bytes(range(256)) * 20_000
    assert await repository.put_if_absent("digits/1/model.onnx", content) is True
    (tmp_path / "model.onnx").write_bytes(content)
    assert await repository.put_if_absent("digits/1/model.onnx", tmp_path / "model.onnx") is False
    for other in (content[:-1], content[:-1] + b"!"):
        with pytest.raises(AlreadyExists, match=r"digits/1/model\.onnx"):
            await repository.put_if_absent("digits/1/model.onnx", other)
    assert s3.object_path("digits/1/model.onnx").read_bytes() == content


async def test_of_publishers_at_the_same_moment_one_wins(s3: S3Server) -> None:
    repository = s3.repository()
    attempts = [repository.put_if_absent(config_key("digits"), f"# {number}".encode()) for number in range(8)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert [outcome for outcome in outcomes if outcome is True] == [True]
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 7


async def test_downloads_from_any_offset(s3: S3Server) -> None:
    content = bytes(range(256)) * 12_345
    repository = s3.repository()
    await repository.put_if_absent("digits/1/model.onnx", content)
    for offset in (0, 1, len(content) - 1):
        chunks = [chunk async for chunk in repository.download("digits/1/model.onnx", offset=offset)]
        assert b"".join(chunks) == content[offset:]
    with pytest.raises(Corrupt):
        _ = [chunk async for chunk in repository.download("digits/1/model.onnx", offset=len(content))]


async def test_a_download_over_a_thin_line_gets_on_as_long_as_bytes_flow(s3: S3Server) -> None:
    content = bytes(range(256)) * 3072
    await s3.repository().put_if_absent("digits/1/model.onnx", content)
    line = Line(free_port(), bytes_per_second=256 * 1024)
    async with line.to(s3.port) as endpoint:
        # Three seconds of line, where nothing may stand still for more than two.
        repository = ModelRepository(
            s3.uri,
            endpoint=endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            deadline_seconds=1.0,
            stall_seconds=1.0,
        )
        chunks = [chunk async for chunk in repository.download("digits/1/model.onnx")]
    assert b"".join(chunks) == content
    assert len(chunks) > 3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "YAML mapping"),
        (b"[1, 2]", "YAML mapping"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"a: &x [1]\nb: *x\n", "aliases"),
        (b"a: !!python/object/apply:os.system [id]\n", "not plain YAML"),
        (b"[" * 5000, "not plain YAML"),
        (b"version: 7\n", "artifact: Field required"),
        (version_yaml("digits", 8, b"x"), "says version 8"),
        (version_yaml("digits", 7, b"x").replace(b"bytes: 1", b"bytes: -1"), "artifact.bytes"),
        (version_yaml("digits", 7, b"x").replace(b"sha256: ", b"sha256: ../"), "artifact.sha256"),
        (b"# " + b"x" * (1 << 20), "over the limit"), (b"a: 1\n" * 10_000, "over the limit"),
    ],
)  # fmt: skip
async def test_a_malformed_document_is_named_with_its_fault(s3: S3Server, text: bytes, fault: str) -> None:
    repository = s3.repository()
    await repository.put_if_absent(version_key("digits", 7), text)
    with pytest.raises(Corrupt, match=r"digits/7/version\.yaml") as caught:
        await repository.read_version("digits", 7)
    assert fault in str(caught.value)


async def test_a_missing_bucket_and_wrong_credentials_are_told_apart(s3: S3Server) -> None:
    with pytest.raises(NotFound, match="bucket does not exist"):
        await ModelRepository(
            "s3://nowhere", endpoint=s3.endpoint, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY
        ).list_objects()
    for key, secret in ((ACCESS_KEY, "wrong"), ("nobody", "wrong")):
        repository = ModelRepository(s3.uri, endpoint=s3.endpoint, access_key_id=key, secret_access_key=secret)
        with pytest.raises(Denied, match="access key"):
            await repository.list_objects()
        with pytest.raises(Denied):
            await repository.put_if_absent("digits/config.pbtxt", b"x")


async def test_a_server_that_is_away_or_hangs_costs_its_deadline_at_most(s3: S3Server) -> None:
    await s3.publish("digits", 1, b"x" * 100)
    repository = s3.repository(deadline_seconds=1.0, stall_seconds=1.0)
    s3.hang()
    started = time.monotonic()
    with pytest.raises(Unreachable):
        await repository.list_objects()
    with pytest.raises(Unreachable):
        _ = [chunk async for chunk in repository.download("digits/1/model.onnx")]
    s3.kill()
    with pytest.raises(Unreachable):
        await repository.put_if_absent("digits/2/model.onnx", b"x")
    assert time.monotonic() - started < 20, "three calls with a deadline of a second each"


@pytest.mark.parametrize(
    "uri", ["", "models/demo", "http://models", "s3://", "s3://UPPER/x", "s3://models/../x", "s3://m/a b"]
)
def test_a_malformed_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="s3://BUCKET"):
        ModelRepository(uri, endpoint=f"http://127.0.0.1:{free_port()}")


def test_a_malformed_endpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        ModelRepository(f"s3://{BUCKET}", endpoint="localhost:7070")
