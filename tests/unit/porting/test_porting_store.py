"""The store of finished stages: nothing twice, nothing by halves, nothing damaged."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rung_porting.errors import PortingError
from rung_porting.store import Missing, Store, default_root, digest_of


class Builder:
    def __init__(self, text: str = "weights") -> None:
        self.text = text
        self.calls = 0

    def __call__(self, folder: Path, unfinished: Path) -> dict[str, object]:
        self.calls += 1
        (folder / "weights.bin").write_text(self.text)
        return {"accuracy": 0.5}


def test_a_stage_is_built_once(tmp_path: Path) -> None:
    builder = Builder()
    first = Store(tmp_path).make("base", "d1", builder)
    again = Store(tmp_path).make("base", "d1", builder)
    assert builder.calls == 1
    assert first == again
    assert (again.folder / "weights.bin").read_text() == "weights"
    assert again.result["accuracy"] == 0.5
    assert again.result["seconds"] >= 0


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    builder = Builder()
    entry = Store(tmp_path).make("base", "d1", builder)
    (entry.folder / "weights.bin").write_text("wEights")
    assert Store(tmp_path).get("base", "d1") is None
    assert (Store(tmp_path).make("base", "d1", builder).folder / "weights.bin").read_text() == "weights"
    assert builder.calls == 2


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3, "result": {}}', '{"files": {"gone": "x"}, "result": {}}'])
def test_an_entry_that_says_nonsense_is_no_entry(tmp_path: Path, content: str) -> None:
    entry = Store(tmp_path).make("base", "d1", Builder())
    (entry.folder / "entry.json").write_text(content)
    assert Store(tmp_path).get("base", "d1") is None


def test_a_stage_that_fails_leaves_its_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    def fails(folder: Path, unfinished: Path) -> dict[str, object]:
        (folder / "half").write_text("")
        (unfinished / "last.ckpt").write_text("epoch 3")
        raise RuntimeError("no memory")

    seen: list[str] = []

    def resumes(folder: Path, unfinished: Path) -> dict[str, object]:
        seen.append((unfinished / "last.ckpt").read_text())
        return {}

    store = Store(tmp_path)
    with pytest.raises(RuntimeError):
        store.make("base", "d1", fails)
    assert store.get("base", "d1") is None
    assert not list(tmp_path.glob("*.tmp"))
    entry = store.make("base", "d1", resumes)
    assert seen == ["epoch 3"]
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [entry.folder]


WAITS = """
import sys, time
from pathlib import Path
from rung_porting.store import Missing, Store
def build(folder, unfinished):
    print("building", flush=True)
    time.sleep(60)
Store(Path(sys.argv[1])).make("base", "d1", build)
"""


def test_one_process_makes_an_entry_and_a_killed_one_frees_its_place(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", WAITS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    built: list[str] = []

    def build(folder: Path, unfinished: Path) -> dict[str, object]:
        built.append(folder.name)
        return {}

    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "building\n"
        (left_behind,) = tmp_path.glob("base-d1.*.tmp")
        Store(tmp_path).make("base", "d2", build)  # another entry waits for nobody
        waiting = threading.Thread(target=lambda: Store(tmp_path).make("base", "d1", build))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        assert len(built) == 1
    finally:
        other.kill()
        other.wait(timeout=10)
        assert other.stdout is not None
        other.stdout.close()
    waiting.join(20)
    assert len(built) == 2
    assert not left_behind.exists(), "what a killed process left is cleared away"


def test_a_store_that_only_looks_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        Store(tmp_path, only_look=True).make("base", "d1", lambda folder, unfinished: {})
    Store(tmp_path).make("base", "d1", lambda folder, unfinished: {"answer": 42})
    assert Store(tmp_path, only_look=True).make("base", "d1", lambda *_: {}).result["answer"] == 42


def test_a_full_disk_is_one_clear_sentence_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    def build(folder: Path, unfinished: Path) -> dict[str, object]:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "weights.pt"))

    with pytest.raises(PortingError, match="the disk is full: make room, or set RUNG_CACHE"):
        Store(tmp_path).make("base", "d1", build)
    assert not list(tmp_path.glob("*.tmp"))
    assert Store(tmp_path).get("base", "d1") is None


def test_the_digest_depends_on_content_not_on_order() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_the_place_of_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path))
    assert default_root() == tmp_path / "porting"
    monkeypatch.delenv("RUNG_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "rung" / "porting"


def test_a_store_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PortingError, match="set RUNG_CACHE"):
        Store(tmp_path / "file" / "store")
