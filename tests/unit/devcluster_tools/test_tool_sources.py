"""Downloads with checksums from a server on loopback, the order of the ways, builds that are interrupted."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rung_devcluster.tools import ToolError, cached_path, ensure_tools
from rung_devcluster.tools.catalogue import Release, Tool
from rung_devcluster.tools.fetch import ChecksumError, FetchError, fetch, find_checksum

PROGRAM = b"#!/bin/sh\necho own 0.1.0\n"
DEAD = "http://127.0.0.1:9"
"""The discard port: nothing listens there, the answer comes at once."""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]


class Releases(ThreadingHTTPServer):
    requests: list[str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, Releases]]:
    folder = tmp_path / "releases"
    folder.mkdir()
    with Releases(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as running:
        running.requests = []
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder, running
        running.shutdown()
        thread.join()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """A small Go program of our own, and an empty cache."""
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "go.mod").write_text("module rung.dev/devcluster/own\n\ngo 1.21\n")
    (folder / "main.go").write_text('package main\n\nfunc main() { println("own 0.1.0") }\n')
    return Tool(name="own", folder=folder, package="rung.dev/devcluster/own", found_on_path=False)


def publish(folder: Path, content: bytes, checksum: str | None = None) -> None:
    (folder / "own").write_bytes(content)
    (folder / "own.sha256").write_text(checksum or hashlib.sha256(content).hexdigest())


def released(tool: Tool, base: str) -> Tool:
    return replace(tool, release=Release(url=base + "/own", checksums_url=base + "/own.sha256"))


def test_a_release_with_its_checksum_is_taken_and_kept(own: Tool, server: tuple[str, Path, Releases]) -> None:
    base, folder, running = server
    publish(folder, PROGRAM)
    tool = released(own, base)
    lines: list[str] = []
    path = ensure_tools(["own"], lines.append, {"own": tool})["own"]
    assert path.read_bytes() == PROGRAM
    assert os.access(path, os.X_OK)
    assert "downloaded" in lines[1]
    asked = len(running.requests)
    again: list[str] = []
    assert ensure_tools(["own"], again.append, {"own": tool})["own"] == path
    assert again == []
    assert len(running.requests) == asked


def test_a_corrupted_release_is_refused_and_built_instead(own: Tool, server: tuple[str, Path, Releases]) -> None:
    base, folder, _ = server
    publish(folder, PROGRAM + b"rm -rf /\n", checksum=hashlib.sha256(PROGRAM).hexdigest())
    lines: list[str] = []
    path = ensure_tools(["own"], lines.append, {"own": released(own, base)})["own"]
    assert path.read_bytes()[:4] == b"\x7fELF"
    assert any("is not what" in line and "its SHA-256 is" in line for line in lines)
    assert [each.name for each in path.parent.iterdir()] == ["own"]


def test_a_checksum_that_was_never_published_refuses_the_release(
    tmp_path: Path, server: tuple[str, Path, Releases]
) -> None:
    base, folder, _ = server
    publish(folder, PROGRAM, checksum="not found here")
    with pytest.raises(ChecksumError, match="no SHA-256 of own"):
        fetch(base + "/own", base + "/own.sha256", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_program_inside_an_archive(tmp_path: Path, server: tuple[str, Path, Releases]) -> None:
    base, folder, _ = server
    with tarfile.open(folder / "own.tar.gz", "w:gz") as archive:
        for name, content in (("own-1/README", b"text"), ("own-1/own", PROGRAM)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("own-1/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    digest = hashlib.sha256((folder / "own.tar.gz").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  other.tar.gz\n{digest}  own.tar.gz\n")
    get = partial(fetch, base + "/own.tar.gz", base + "/SHA256SUMS", tmp_path / "target")
    get("own-1/own")
    assert (tmp_path / "target").read_bytes() == PROGRAM
    for member in ("own-1/missing", "own-1/link"):
        with pytest.raises(FetchError, match=member):
            get(member)


@pytest.mark.parametrize("text", ["", "0" * 63, f"{'0' * 64}  other", f"{'g' * 64}  own", f"{'0' * 40}  own"])
def test_texts_that_are_no_checksum(text: str) -> None:
    with pytest.raises(ChecksumError):
        find_checksum(text, "https://example.org/own")


def test_a_server_that_does_not_answer_is_asked_once(own: Tool, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    for file in own.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    first = released(own, DEAD)
    second = replace(released(own, DEAD), name="second", folder=folder)
    lines: list[str] = []
    ensure_tools(["own", "second"], lines.append, {"own": first, "second": second})
    assert sum("can't be reached" in line for line in lines) == 1
    assert any(line.endswith("127.0.0.1:9 did not answer before") for line in lines)
    assert lines[-1].startswith("tools: 2 ready")


def test_when_every_way_fails_the_message_names_each(own: Tool) -> None:
    (own.folder / "main.go").write_text("package main\n\nfunc main() { missing() }\n")
    with pytest.raises(ToolError) as refused:
        ensure_tools(["own"], lambda _: None, {"own": released(own, DEAD)})
    message = str(refused.value)
    assert message.startswith("own 0.1.0 can't be had:")
    assert "127.0.0.1 can't be reached" in message
    assert "go build -trimpath" in message
    assert "undefined: missing" in message
    assert not cached_path(own).exists()


INTERRUPTED = """
import sys
from pathlib import Path
from rung_devcluster.tools import ensure_tools
from rung_devcluster.tools.catalogue import Tool
tool = Tool(name="own", folder=Path(sys.argv[1]), package="rung.dev/devcluster/own", found_on_path=False)
ensure_tools(["own"], lambda line: print(line, flush=True), {"own": tool})
"""


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing_that_is_trusted_and_the_next_goes_on(
    own: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: signal.Signals
) -> None:
    started, gate = tmp_path / "started", tmp_path / "gate"
    fake = tmp_path / "bin" / "go"
    fake.parent.mkdir()
    # A Go that has written half of its output when it is interrupted.
    fake.write_text(
        '#!/bin/sh\n[ "$1" = version ] && { echo go version go9.9.9 linux/amd64; exit 0; }\n'
        'while [ "$1" != -o ]; do shift; done\n'
        f'printf half > "$2"; echo $$ > {started}; while [ ! -e {gate} ]; do sleep 0.05; done; printf whole > "$2"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    command = [sys.executable, "-c", INTERRUPTED, str(own.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: started.exists() and started.read_text().strip() != "")
        process.send_signal(way)
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert not cached_path(own).exists()

    gate.touch()
    if way == signal.SIGKILL:
        # The orphan ends by itself now; its half-made file must not become the program.
        wait_until(lambda: not Path(f"/proc/{started.read_text().strip()}").exists())
    assert not cached_path(own).exists()
    subprocess.run(command, check=True, timeout=30, stdout=subprocess.DEVNULL)
    assert cached_path(own).read_text() == "whole"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
