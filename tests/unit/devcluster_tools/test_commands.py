"""Programs that fail, hang, are missing, or outlive whoever started them."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rung_devcluster.cache import TEMPORARY_PREFIX, making, making_file, remove_leftovers
from rung_devcluster.commands import CommandError, run


def test_what_a_program_prints_is_returned() -> None:
    assert run(["sh", "-c", "echo out; echo err >&2"], what="test", deadline_seconds=10) == "out\n"


def test_a_failure_names_purpose_command_status_and_last_lines() -> None:
    with pytest.raises(CommandError) as failed:
        run(["sh", "-c", "seq 100; echo why >&2; exit 7"], what="etcd: building", deadline_seconds=10)
    message = str(failed.value)
    assert message.startswith("etcd: building: `sh -c seq 100; echo why >&2; exit 7` ended with status 7\n")
    assert message.endswith("    100\n    why")
    assert "    50\n" not in message


def test_a_missing_program_is_named() -> None:
    with pytest.raises(CommandError, match="could not start `no-such-program -v`"):
        run(["no-such-program", "-v"], what="test", deadline_seconds=10)


def test_at_the_deadline_the_whole_family_ends(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"trap '' TERM; sleep 60 & echo $! > {child}; echo begun; wait"
    with pytest.raises(CommandError, match=r"(?s)did not end within 0.5 s and was stopped.*begun"):
        run(["sh", "-c", script], what="test", deadline_seconds=0.5)
    until_gone(int(child.read_text()))


def test_a_program_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    number = tmp_path / "number"
    script = (
        "from rung_devcluster.commands import run\n"
        f"run(['sh', '-c', 'echo $$ > {number}; exec sleep 60'], what='test', deadline_seconds=50)"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as starter:
        deadline = time.monotonic() + 20
        while not (number.exists() and number.read_text().strip()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        starter.kill()
    until_gone(int(number.read_text()))


def test_what_was_made_halfway_is_never_seen_and_leftovers_go(tmp_path: Path) -> None:
    with suppress(RuntimeError), making(tmp_path / "folder") as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    with suppress(RuntimeError), making_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "kept").touch()
    (tmp_path / f"{TEMPORARY_PREFIX}folder").mkdir()
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / f"{TEMPORARY_PREFIX}1-own").touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "module"]


def test_whoever_was_quicker_wins(tmp_path: Path) -> None:
    with making(tmp_path / "folder") as temporary:
        (temporary / "late").touch()
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "first").touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["first"]


def until_gone(number: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{number}/exe").exists():
        assert time.monotonic() < deadline, f"process {number} is still there"
        time.sleep(0.02)
