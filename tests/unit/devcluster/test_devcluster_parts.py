"""The parts of the cluster that need no cluster: certificates, cgroup folders, archives, sockets, processes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from rung_devcluster.cluster.cgroups import CgroupError, hierarchies, make_cgroups
from rung_devcluster.cluster.components import Component
from rung_devcluster.cluster.control import ClusterError, check_visible
from rung_devcluster.cluster.forward import forward
from rung_devcluster.cluster.linux import ProcessIdentity, only_child_of
from rung_devcluster.cluster.loading import ImageError, images_in
from rung_devcluster.cluster.node import last_lines
from rung_devcluster.cluster.pki import Authority
from rung_devcluster.cluster.probes import is_ready
from rung_devcluster.cluster.state import ClusterState, read_state, write_state
from rung_devcluster.system import snapshotter

HERE = ProcessIdentity.of(os.getpid())


# Certificates --------------------------------------------------------------------------------------------------------


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    here, there = socket.socketpair()
    here.settimeout(10)
    there.settimeout(10)

    def answer() -> None:
        with there:
            try:
                with server.wrap_socket(there, server_side=True) as secured:
                    secured.sendall(b"hello")
            except OSError:
                return

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with here, client.wrap_socket(here, server_hostname=host) as secured:
            assert secured.recv(5) == b"hello"
    finally:
        thread.join()


def test_a_certificate_holds_for_its_names_and_its_authority_only(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    serving = authority.issue("server", "server", server_names=("localhost", "127.0.0.1"))
    client = authority.issue("client", "admin", groups=("system:masters",))
    assert client.key.stat().st_mode & 0o077 == 0

    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_cert_chain(serving.certificate, serving.key)
    client_context = ssl.create_default_context(cafile=str(authority.certificate))
    client_context.load_cert_chain(client.certificate, client.key)
    handshake(server_context, client_context, "127.0.0.1")
    handshake(server_context, client_context, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context, client_context, "10.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context, ssl.create_default_context(cafile=str(stranger.certificate)), "127.0.0.1")


# Cgroups -------------------------------------------------------------------------------------------------------------


def test_version_1_gives_new_cgroups_the_processors_of_their_parent(tmp_path: Path) -> None:
    for name in ("cpu", "cpuset", "memory"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").touch()
    (tmp_path / "not-a-hierarchy").mkdir()
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-3\n")
    cluster = tmp_path / "cpuset" / "rung-devcluster-x"
    cluster.mkdir()
    (cluster / "cpuset.cpus").touch()  # the kernel makes these
    make_cgroups("x", 2, tmp_path)
    assert (cluster / "cpuset.cpus").read_text() == "0-3\n"
    assert all((tmp_path / name / "rung-devcluster-x" / "node-2").is_dir() for name in ("cpu", "cpuset", "memory"))
    assert len(hierarchies(tmp_path)) == 3


def test_two_names_of_one_hierarchy_are_one(tmp_path: Path) -> None:
    (tmp_path / "cpu,cpuacct").mkdir()
    (tmp_path / "cpu,cpuacct" / "cgroup.procs").touch()
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    assert len(hierarchies(tmp_path)) == 1


def test_version_2_without_a_controller_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    with pytest.raises(CgroupError, match="cpuset, pids"):
        make_cgroups("x", 1, tmp_path)


def test_a_machine_without_cgroups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match="no cgroups are mounted"):
        make_cgroups("x", 1, tmp_path)


# Images --------------------------------------------------------------------------------------------------------------


def archive(path: Path, manifest: object, name: str = "manifest.json") -> Path:
    content = json.dumps(manifest).encode()
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return path


def test_an_archive_tells_its_images(tmp_path: Path) -> None:
    manifest = [{"Config": "abc.json", "RepoTags": ["localhost/a:1", "localhost/a:2"]}]
    assert images_in(archive(tmp_path / "a.tar", manifest)) == {
        "localhost/a:1": "abc.json",
        "localhost/a:2": "abc.json",
    }


@pytest.mark.parametrize(
    "manifest", [{"Config": "x"}, [{"RepoTags": ["a:1"]}], ["text"], [{"Config": "x", "RepoTags": None}], 7, []]
)
def test_an_archive_without_an_image_is_refused(tmp_path: Path, manifest: object) -> None:
    with pytest.raises(ImageError, match=r"broken\.tar"):
        images_in(archive(tmp_path / "broken.tar", manifest))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a docker-archive"):
        images_in(tmp_path / "missing.tar")
    with pytest.raises(ImageError, match="not a docker-archive"):
        images_in(archive(tmp_path / "other.tar", [], name="index.json"))
    (tmp_path / "cut.tar").write_bytes(archive(tmp_path / "whole.tar", []).read_bytes()[:100])
    with pytest.raises(ImageError, match="not a docker-archive"):
        images_in(tmp_path / "cut.tar")


# Sockets and processes -----------------------------------------------------------------------------------------------


async def test_connections_are_carried_both_ways_and_half_closed() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Answers only when the other side has said all it has to say.
        writer.write((await reader.read()).upper())
        writer.close()

    async with await asyncio.start_server(shout, "127.0.0.1", 0) as server:
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        async with await forward(listener, *server.sockets[0].getsockname()):
            for text in (b"hello", b"x" * 1_000_000):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(text)
                writer.write_eof()
                assert await asyncio.wait_for(reader.read(), 10) == text.upper()
                writer.close()
                await writer.wait_closed()


async def test_a_connection_to_nobody_is_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    async with await forward(listener, *nobody):
        reader, writer = await asyncio.open_connection(*address)
        # An end, in order or not, but no waiting.
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.transport.abort()


def test_a_component_is_ready_when_its_socket_takes_connections(tmp_path: Path) -> None:
    component = Component("containerd", ("containerd",), ready_socket=tmp_path / "socket")
    assert not is_ready(component, tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert not is_ready(component, tmp_path)
        listener.listen()
        assert is_ready(component, tmp_path)


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    assert HERE.is_alive()
    assert not ProcessIdentity(HERE.pid, HERE.start_ticks - 1).is_alive()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        identity = ProcessIdentity.of(process.pid)
        assert identity.is_alive()
        assert only_child_of(process.pid) is None
        identity.send(signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL
    assert not identity.is_alive()
    identity.send(signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        ProcessIdentity.of(process.pid)


def test_the_state_survives_its_file_and_rubbish_is_no_state(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert read_state(path) is None
    state = ClusterState(HERE, HERE, {"a-1": HERE}, {"a-1": {"etcd": "ready"}}, ready=True, seconds_to_ready=1.5)
    write_state(path, state)
    assert read_state(path) == state
    for rubbish in ("", "{", "[]", "{}", '{"guard": 1}'):
        path.write_text(rubbish)
        assert read_state(path) is None


def test_the_first_process_collects_orphans_and_tells_how_each_ended(tmp_path: Path) -> None:
    # A process of its own: it takes every child's status, also those that this test's own process has.
    script = f"""
import asyncio, os, sys
from pathlib import Path
from rung_devcluster.cluster.linux import adopt_orphans
from rung_devcluster.cluster.reaper import Reaper

async def main():
    adopt_orphans()
    reaper = Reaper()
    log = Path({str(tmp_path / "log")!r})
    start = lambda *words: reaper.start(words, log=log, environment={{"PATH": os.environ["PATH"]}})
    _, good = start("sh", "-c", "echo said; (sleep 0.2; exit 9) & exit 3")
    _, bad = start("sh", "-c", "kill -TERM $$")
    print(await good, await bad)
    try:
        start("/no/such/program")
    except FileNotFoundError:
        print("missing")
    async with asyncio.timeout(10):
        while any(is_child(entry) for entry in Path("/proc").iterdir()):
            await asyncio.sleep(0.05)
    print("collected")

def is_child(entry):
    try:
        return entry.joinpath("stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid())
    except OSError:
        return False

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.splitlines() == ["3 -15", "missing", "collected"], done.stderr
    assert (tmp_path / "log").read_text() == "said\n"


# Messages and places -------------------------------------------------------------------------------------------------


def test_the_end_of_a_log_is_short_and_keeps_how_it_began(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_lines(log) == ()
    log.write_text("\n".join(str(number) for number in range(100)) + "\n\n")
    lines = last_lines(log)
    assert lines[0] == "0"
    assert lines[-1] == "99"
    assert len(lines) < 25
    log.write_bytes(b"\xff" * 100_000)
    assert len(last_lines(log)[0]) <= 400


def test_a_place_that_nodes_cannot_see_is_refused(tmp_path: Path) -> None:
    check_visible(tmp_path, Path("/usr/bin/env"))
    with pytest.raises(ClusterError, match="of which every node has its own"):
        check_visible(Path("/run/cluster"))
    (tmp_path / "link").symlink_to("/var/lib/somewhere")
    with pytest.raises(ClusterError, match="/var/lib"):
        check_visible(tmp_path / "link")


def test_images_are_unpacked_as_the_file_system_allows() -> None:
    kinds = {line.split()[1]: line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    assert snapshotter(Path("/")) == ("native" if kinds["/"] == "overlay" else "overlayfs")
