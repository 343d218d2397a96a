"""The agent's mirror against a real S3 server: what becomes visible to Triton, and what is said about the rest."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import obstore
import pytest

from rung.adapters.agent import AgentClient, Inventory, VersionState
from rung.core.repository_layout import config_key, model_key, version_key
from servers.agents import agent_settings, is_in, metric, running_agent, until, until_inventory, version, visible
from servers.ports import free_port
from servers.s3 import CONFIG, Line, S3Server, version_yaml

pytestmark = pytest.mark.cluster

MEBIBYTE = 1 << 20


def content(seed: int, size_bytes: int = 100_000) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


async def test_mirrors_everything_and_shows_nothing_else(s3: S3Server, models: Path) -> None:
    for number in (1, 2):
        await s3.publish("digits", number, content(number))
    await s3.publish("parity", 1_098_000, content(3))
    async with running_agent(agent_settings(s3, models, triton_memory_limit_bytes=5 * MEBIBYTE)) as agent:
        inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "parity", 1_098_000), "parity is there")
        inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 2), "digits are there")

        assert visible(models) == {
            "digits/config.pbtxt", "digits/1/model.onnx", "digits/2/model.onnx",
            "parity/config.pbtxt", "parity/1098000/model.onnx",
        }  # fmt: skip
        assert (models / "digits/2/model.onnx").read_bytes() == content(2)
        assert inventory.tasks["digits"].config == CONFIG
        assert inventory.repository.reachable
        assert inventory.repository.last_contact is not None
        assert inventory.disk.used_bytes == 300_000
        assert inventory.memory.limit_bytes == 5 * MEBIBYTE
        assert await metric(agent, "rung_agent_mirror_bytes_total") == 300_000
        assert await metric(agent, "rung_agent_versions") == 3
        assert await metric(agent, "rung_agent_repository_reachable") == 1

        await s3.publish("digits", 9, content(9))
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 9), "a later version is there")


async def test_the_inventory_says_when_memory_was_measured(s3: S3Server, models: Path) -> None:
    began_seconds = time.monotonic()
    async with running_agent(agent_settings(s3, models)) as agent:
        ages: list[float] = []

        def is_measured_again(found: Inventory) -> bool:
            ages.extend([] if found.memory.age_seconds is None else [found.memory.age_seconds])
            return len(ages) > 1 and ages[-1] < ages[-2]

        await until_inventory(agent, is_measured_again, "its age has grown, and it is measured again")
        assert all(0 <= age <= time.monotonic() - began_seconds for age in ages)


async def test_a_download_that_was_cut_goes_on_where_it_was(s3: S3Server, models: Path) -> None:
    size_bytes = 12 * MEBIBYTE
    whole = content(1, size_bytes)
    await s3.publish("digits", 1, whole)
    line = Line(free_port(), bytes_per_second=20 * MEBIBYTE)
    async with (
        line.to(s3.port) as endpoint,
        running_agent(agent_settings(s3, models, endpoint=endpoint)) as agent,
    ):
        await until(lambda: _at_least(agent, "rung_agent_mirror_bytes_total", 3 * MEBIBYTE), "some of it arrived")
        s3.kill()
        line.cut()
        await until_inventory(agent, lambda found: not found.repository.reachable, "the cut is noticed")
        before = await metric(agent, "rung_agent_mirror_bytes_total")
        assert 0 < before < size_bytes
        assert visible(models) == {"digits/config.pbtxt"}

        s3.start()
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1), "the rest is fetched")
        assert (models / "digits/1/model.onnx").read_bytes() == whole
        assert await metric(agent, "rung_agent_mirror_bytes_total") == size_bytes, "no byte was fetched twice"


async def test_a_partial_file_is_resumed_by_the_next_agent_and_a_bad_one_is_begun_anew(
    s3: S3Server, models: Path
) -> None:
    good, bad = content(1, 3 * MEBIBYTE), content(2, 3 * MEBIBYTE)
    await s3.publish("digits", 1, good)
    await s3.publish("digits", 2, bad)
    line = Line(free_port(), bytes_per_second=4 * MEBIBYTE)
    async with line.to(s3.port) as endpoint:
        for number in (1, 2):
            async with running_agent(agent_settings(s3, models, endpoint=endpoint)) as agent:
                await agent.put_wanted({"digits": [number]})
                await until(partial(_partial, models, number, MEBIBYTE), f"a part of {number} is on the disk")
    spoilt = next((models / ".rung/partial").glob("digits.2.*"))
    spoilt.write_bytes(b"\0" * spoilt.stat().st_size)

    async with running_agent(agent_settings(s3, models)) as agent:
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 2), "both are there")
        assert (models / "digits/1/model.onnx").read_bytes() == good
        assert (models / "digits/2/model.onnx").read_bytes() == bad
        assert await metric(agent, "rung_agent_mirror_failures_total") == 0
        assert list((models / ".rung/partial").iterdir()) == []


async def test_corrupt_and_truncated_objects_are_named_and_never_shown_until_they_are_repaired(
    s3: S3Server, models: Path
) -> None:
    whole = content(1)
    for number in (1, 2, 3, 4):
        await s3.publish("digits", number, whole)
    flipped = bytes([whole[0] ^ 1]) + whole[1:]
    s3.object_path(model_key("digits", 1)).write_bytes(flipped)
    s3.object_path(model_key("digits", 2)).write_bytes(whole[:-1])
    s3.object_path(model_key("digits", 3)).unlink()
    async with running_agent(agent_settings(s3, models)) as agent:
        inventory = await until_inventory(agent, is_in(VersionState.CORRUPT, "digits", 1, 2, 3), "all three are named")
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 4), "the good one is there")

        messages = [inventory.tasks["digits"].versions[number].message for number in (1, 2, 3)]
        assert all(
            f"digits/{number}/model.onnx" in message for number, message in zip((1, 2, 3), messages, strict=True)
        )
        assert inventory.tasks["digits"].versions[1].sha256 in messages[0]
        assert "99999 bytes" in messages[1]
        assert "100000" in messages[1]
        assert "missing" in messages[2]
        assert visible(models) == {"digits/config.pbtxt", "digits/4/model.onnx"}
        assert await metric(agent, "rung_agent_mirror_failures_total") >= 3

        for number in (1, 2, 3):
            s3.object_path(model_key("digits", number)).write_bytes(whole)
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 2, 3), "all are there once repaired")


async def test_hostile_and_malformed_things_are_told_and_harm_nobody_else(s3: S3Server, models: Path) -> None:
    await s3.publish("good", 1, content(1))
    await s3.publish("badconfig", 1, content(2), config="backend: {{{")
    await s3.publish("wrongname", 1, content(2), config='name: "good"')
    await s3.publish("noconfig", 1, content(2), config=None)
    repository = s3.repository()
    await repository.put_if_absent(config_key("baddoc"), CONFIG.encode())
    await repository.put_if_absent(model_key("baddoc", 1), b"x")
    await repository.put_if_absent(version_key("baddoc", 1), b"version: [")
    await repository.put_if_absent(model_key("baddoc", 2), b"x")
    await repository.put_if_absent(version_key("baddoc", 2), version_yaml("baddoc", 3, b"x"))
    store = repository._small
    strangers = (
        "UPPER/1",
        "a_b/1",
        "dots.in.name/1",
        "good/01",
        "good/0",
        "good/-1",
        "good/99999999999999999999",
        "good/1e3",
        ".rung/1",
    )
    for stranger in strangers:
        for name, text in (("model.onnx", b"x"), ("version.yaml", version_yaml("good", 1, b"x"))):
            await obstore.put_async(store, f"{s3.prefix}/{stranger}/{name}", text)
    async with running_agent(agent_settings(s3, models)) as agent:
        inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "good", 1), "the good one is there")
        inventory = await until_inventory(agent, is_in(VersionState.CORRUPT, "baddoc", 1, 2), "documents are named")

        assert visible(models) == {"good/config.pbtxt", "good/1/model.onnx", "baddoc/config.pbtxt"}
        assert set(inventory.tasks) == {"good", "badconfig", "wrongname", "noconfig", "baddoc"}
        for task, fault in (
            ("badconfig", "config.pbtxt"),
            ("wrongname", "names the model 'good'"),
            ("noconfig", "is missing"),
        ):
            waiting = version(inventory, task, 1)
            assert waiting is not None
            assert waiting.state is VersionState.PENDING
            assert fault in waiting.message
        assert "baddoc/1/version.yaml" in inventory.tasks["baddoc"].versions[1].message
        assert "wrong folder" in inventory.tasks["baddoc"].versions[2].message
        assert "not part of the layout" in inventory.repository.message
        assert {path.name for path in s3.folder.parent.glob("*")} == {"s3", "models"}


async def test_goes_on_without_the_repository_and_comes_back_with_it(s3: S3Server, models: Path) -> None:
    await s3.publish("digits", 1, content(1))
    async with running_agent(agent_settings(s3, models)) as agent:
        seen = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1), "it is there")
        s3.kill()
        away = await until_inventory(agent, lambda found: not found.repository.reachable, "it is seen to be away")
        assert away.repository.message
        assert away.repository.last_contact is not None
        assert seen.repository.last_contact is not None
        assert away.repository.last_contact >= seen.repository.last_contact
        assert is_in(VersionState.AVAILABLE, "digits", 1)(away)
        assert await metric(agent, "rung_agent_repository_reachable") == 0

        s3.start()
        await s3.publish("digits", 2, content(2))
        back = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 2), "it catches up")
        assert back.repository.reachable
        assert back.repository.message == ""


async def test_starts_without_the_repository_from_what_is_on_the_disk_verified_again(
    s3: S3Server, models: Path
) -> None:
    for number in (1, 2, 3):
        await s3.publish("digits", number, content(number))
    async with running_agent(agent_settings(s3, models)) as agent:
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 2, 3), "all are there")
    s3.kill()
    (models / "digits/2/model.onnx").write_bytes(content(99))
    (models / "digits/3/model.onnx").write_bytes(content(3)[:-7])
    untouched = (models / "digits/1/model.onnx").stat().st_mtime_ns

    async with running_agent(agent_settings(s3, models)) as agent:
        inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1), "1 is verified")
        inventory = await until_inventory(agent, is_in(VersionState.CORRUPT, "digits", 2, 3), "2 and 3 are found out")
        assert not inventory.repository.reachable
        assert inventory.tasks["digits"].config == CONFIG
        assert visible(models) == {"digits/config.pbtxt", "digits/1/model.onnx"}
        s3.start()
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 2, 3), "2 and 3 are fetched again")
        assert (models / "digits/2/model.onnx").read_bytes() == content(2)
        assert (models / "digits/1/model.onnx").stat().st_mtime_ns == untouched, "what is good is not touched"


async def test_a_file_that_somebody_else_put_there_is_adopted_if_right_and_left_alone_if_not(
    s3: S3Server, models: Path
) -> None:
    for number in (1, 2):
        await s3.publish("digits", number, content(number))
        (models / "digits" / str(number)).mkdir(parents=True)
    (models / "digits/1/model.onnx").write_bytes(content(1))
    (models / "digits/2/model.onnx").write_bytes(b"precious")
    async with running_agent(agent_settings(s3, models)) as agent:
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1), "the right one is adopted")
        inventory = await until_inventory(agent, is_in(VersionState.CORRUPT, "digits", 2), "the other one is told")
        assert "remove it by hand" in inventory.tasks["digits"].versions[2].message
        assert (models / "digits/2/model.onnx").read_bytes() == b"precious"
        assert await metric(agent, "rung_agent_mirror_bytes_total") == 0
        shutil.rmtree(models / "digits/2")
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 2), "it is fetched once there is room")


async def test_what_is_wanted_comes_first_even_in_the_middle_of_a_download(s3: S3Server, models: Path) -> None:
    for number in (1, 2, 3):
        await s3.publish("digits", number, content(number, 4 * MEBIBYTE))
    line = Line(free_port(), bytes_per_second=4 * MEBIBYTE)
    async with (
        line.to(s3.port) as endpoint,
        running_agent(agent_settings(s3, models, endpoint=endpoint, poll_seconds=60.0)) as agent,
    ):
        await until_inventory(agent, is_in(VersionState.DOWNLOADING, "digits", 1), "the cheapest is begun")
        await agent.put_wanted({"digits": [3], "nosuchtask": [1]})
        inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 3), "the wanted one is there")
        assert not is_in(VersionState.AVAILABLE, "digits", 1)(inventory)
        assert not is_in(VersionState.AVAILABLE, "digits", 2)(inventory)
        line.bytes_per_second = float("inf")
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 2, 3), "then the others")
        assert await metric(agent, "rung_agent_mirror_bytes_total") == 12 * MEBIBYTE, "what was put off was not lost"


async def test_what_exceeds_the_budget_waits_and_says_so(s3: S3Server, models: Path) -> None:
    await s3.publish("digits", 1, content(1))
    await s3.publish("digits", 2, content(2, 300_000))
    await s3.publish("digits", 3, content(3))
    async with running_agent(agent_settings(s3, models, disk_budget_bytes=250_000)) as agent:
        inventory = await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 3), "what fits is there")
        inventory = await until_inventory(
            agent, lambda found: "no room" in found.tasks["digits"].versions[2].message, "the huge one is explained"
        )
        assert inventory.tasks["digits"].versions[2].state is VersionState.PENDING
        assert "300000" in inventory.tasks["digits"].versions[2].message
        assert inventory.disk.used_bytes == 200_000
        assert not (models / "digits/2").exists()


@pytest.fixture
def small_volume(models: Path) -> Iterator[Path]:
    """The models' folder as a volume of two mebibytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small volume needs root")
    models.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", models], check=True)
    try:
        yield models
    finally:
        subprocess.run(["umount", models], check=True)


async def test_a_full_volume_is_told_and_survived(s3: S3Server, small_volume: Path) -> None:
    await s3.publish("digits", 1, content(1, 200_000))
    await s3.publish("digits", 2, content(2, 4 * MEBIBYTE))
    await s3.publish("digits", 3, content(3, 200_000))
    async with running_agent(agent_settings(s3, small_volume)) as agent:
        inventory = await until_inventory(
            agent, lambda found: "volume is full" in _message(found, "digits", 2), "the full volume is told"
        )
        assert inventory.tasks["digits"].versions[2].state is VersionState.PENDING
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1, 3), "what fits is there")
        process = await asyncio.create_subprocess_exec("mount", "-o", "remount,size=16m", small_volume)
        assert await process.wait() == 0
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 2), "with room it goes on")


async def test_retracted_versions_stay_until_their_room_is_needed(s3: S3Server, models: Path) -> None:
    await s3.publish("digits", 1, content(1))
    async with running_agent(agent_settings(s3, models)) as agent:
        await until_inventory(agent, is_in(VersionState.AVAILABLE, "digits", 1), "it is there")
        shutil.rmtree(s3.object_path("digits"))
        inventory = await until_inventory(
            agent, lambda found: "no longer" in _message(found, "digits", 1), "its retraction is told"
        )
        assert is_in(VersionState.AVAILABLE, "digits", 1)(inventory)


async def _at_least(agent: AgentClient, name: str, value: float) -> bool:
    return await metric(agent, name) >= value


async def _partial(models: Path, number: int, size_bytes: int) -> bool:
    sizes = [path.stat().st_size for path in (models / ".rung/partial").glob(f"digits.{number}.*")]
    return bool(sizes) and sizes[0] >= size_bytes


def _message(inventory: Inventory, task: str, number: int) -> str:
    found = version(inventory, task, number)
    return found.message if found else ""
