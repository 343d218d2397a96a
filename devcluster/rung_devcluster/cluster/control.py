"""Brings clusters up, looks at them and takes them down: what the command line and the tests call."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rung_devcluster
from rung_devcluster.cluster.cgroups import cgroup_root, hierarchies
from rung_devcluster.cluster.configuration import write_configuration
from rung_devcluster.cluster.layout import HOME_VARIABLE, Layout, home
from rung_devcluster.cluster.linux import ProcessIdentity
from rung_devcluster.cluster.loading import import_everywhere
from rung_devcluster.cluster.spec import ClusterSpec, check_name
from rung_devcluster.cluster.state import ClusterState, read_state
from rung_devcluster.cluster.supervision import RELEASE, UpError
from rung_devcluster.cluster.sweep import sweep
from rung_devcluster.system import cni_folder, program, snapshotter

DOWN_DEADLINE_SECONDS = 45.0
KILL_AFTER_SECONDS = 30.0
POLL_SECONDS = 0.1
HIDDEN_FOLDERS = (Path("/run"), Path("/var/run"), Path("/var/lib"), Path("/var/log"), Path("/proc"))


class ClusterError(RuntimeError):
    """What was asked is not possible; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """A cluster that is up."""

    spec: ClusterSpec
    layout: Layout
    state: ClusterState

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.layout.kubeconfig

    @property
    def tools(self) -> Mapping[str, Path]:
        """The programs that the cluster was started with, and kubectl, by name."""
        return {name: Path(path) for name, path in json.loads(self.layout.tools.read_text()).items()}


def find(name: str) -> RunningCluster | None:
    """Return the cluster when it runs; remove what is left of it when it does not."""
    layout = Layout.of(check_name(name))
    lock = _lock(layout.folder)
    if lock is not None:
        # Nobody holds it: whatever lies there was left by processes that were killed.
        try:
            _remove(name, layout)
        finally:
            os.close(lock)
        return None
    state = read_state(layout.state)
    if state is None or not layout.folder.exists():
        if not layout.folder.exists():
            _remove(name, layout)
        return None
    return RunningCluster(ClusterSpec.from_json(layout.spec.read_text()), layout, state)


def _remove(name: str, layout: Layout) -> None:
    traces = any((hierarchy / cgroup_root(name).lstrip("/")).exists() for hierarchy in hierarchies())
    if layout.folder.exists() or traces:
        sweep(name, layout)


def _lock(folder: Path) -> int | None:
    """Take the folder's lock; None when it is held by a living cluster or there is no folder."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def up(
    spec: ClusterSpec,
    tools: Mapping[str, Path],
    archives: Sequence[Path],
    *,
    tell: Callable[[Mapping[str, Any]], None],
    foreground: Callable[[RunningCluster], None] | None = None,
) -> RunningCluster:
    """Start a cluster and return once its nodes and its DNS are ready.

    `tools` has every program of the components by name, `archives` the system's images; `tell` gets each event. With
    `foreground`, that is called once the cluster is ready, and the cluster ends when it returns or raises.

    Raises ClusterError when there is such a cluster already, UpError (which names the component) when it does not
    come up; nothing is left then.
    """
    if find(spec.name) is not None or Layout.of(spec.name).folder.exists():
        raise ClusterError(f"there is a cluster {spec.name!r} already: `down` it first, or give another --name")
    layout = Layout.of(spec.name)
    check_visible(layout.folder, *tools.values(), Path(sys.prefix), Path(rung_devcluster.__file__))
    lock = _make_folder(layout)
    process: subprocess.Popen[bytes] | None = None
    released = False
    try:
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            _write_files(spec, layout, tools, archives, listener.getsockname()[1])
            process = _start_guard(layout, listener, lock)
        _follow(process, tell)
        state = read_state(layout.state)
        if state is None:
            raise UpError("the supervisor", "ended at once")
        cluster = RunningCluster(spec, layout, state)
        if foreground is not None:
            foreground(cluster)
        else:
            assert process.stdin is not None
            process.stdin.write(RELEASE)
            process.stdin.flush()
            released = True
        return cluster
    finally:
        if not released:
            _wind_up(spec.name, layout, process)
        if process is not None:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            # It outlives us; nothing shall wait for it.
            process.returncode = process.returncode if process.returncode is not None else 0
        os.close(lock)


def check_visible(*paths: Path) -> None:
    """Raise ClusterError for a path that a node could not see, because it has a folder of its own there."""
    for path in paths:
        for hidden in HIDDEN_FOLDERS:
            if path.resolve().is_relative_to(hidden):
                raise ClusterError(
                    f"{path} lies below {hidden}, of which every node has its own: choose another place "
                    f"(clusters: ${HOME_VARIABLE})"
                )


def _make_folder(layout: Layout) -> int:
    while True:
        home().mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            layout.folder.mkdir(mode=0o700)
        except FileExistsError:
            raise ClusterError(f"somebody is starting or ending {layout.folder.name!r} at this moment") from None
        except FileNotFoundError:
            # Another cluster's end removed the empty home between the two lines.
            continue
        handle = _lock(layout.folder)
        if handle is None:
            raise ClusterError(f"somebody is ending {layout.folder.name!r} at this moment")
        return handle


def _write_files(
    spec: ClusterSpec, layout: Layout, tools: Mapping[str, Path], archives: Sequence[Path], port: int
) -> None:
    every = {**{name: str(path) for name, path in tools.items()}, "containerd": str(program("containerd"))}
    layout.tools.write_text(json.dumps(every))
    layout.archives.write_text(json.dumps([str(archive.resolve()) for archive in archives]))
    write_configuration(
        spec,
        layout,
        host_port=port,
        cgroup_root=cgroup_root(spec.name),
        cni_programs=cni_folder(),
        snapshotter=snapshotter(layout.folder),
    )
    layout.spec.write_text(spec.to_json())


def _start_guard(layout: Layout, listener: socket.socket, lock: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rung_devcluster.cluster.supervisor", "--folder", str(layout.folder)]
    command += ["--listener", str(listener.fileno())]
    with layout.supervisor_log.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=(listener.fileno(), lock),
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(Path(rung_devcluster.__file__).parent.parent)},
            # A Ctrl-C belongs to `up`, which then ends the cluster in order.
            start_new_session=True,
        )


def _follow(process: subprocess.Popen[bytes], tell: Callable[[Mapping[str, Any]], None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "failed":
            raise UpError(event["component"], event["reason"], event["lines"])
        tell(event)
        if event["event"] == "up":
            return
    raise UpError("the supervisor", "ended before the cluster was up")


def _wind_up(name: str, layout: Layout, process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        sweep(name, layout)
        return
    # Without `up` there is no cluster: the supervisor ends it when this closes.
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout=DOWN_DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        down(name)
    sweep(name, layout)


def down(name: str) -> bool:
    """End a cluster and remove everything of it; return whether there was one.

    Raises ClusterError when somebody else starts or ends it just now, SweepError or CgroupError naming what could not
    be removed.
    """
    layout = Layout.of(check_name(name))
    there = layout.folder.exists()
    deadline = time.monotonic() + DOWN_DEADLINE_SECONDS
    while layout.folder.exists():
        if (state := read_state(layout.state)) is not None:
            _end(state)
        if (lock := _lock(layout.folder)) is not None:
            try:
                sweep(name, layout)
            finally:
                os.close(lock)
        elif time.monotonic() > deadline:
            raise ClusterError(f"somebody is starting or ending {name!r}: try again when that is done")
        else:
            time.sleep(POLL_SECONDS)
    _remove(name, layout)
    return there


def _end(state: ClusterState) -> None:
    everyone: tuple[ProcessIdentity, ...] = (state.guard, state.supervisor, *state.nodes.values())
    state.guard.send(signal.SIGTERM)
    state.supervisor.send(signal.SIGTERM)
    began = time.monotonic()
    while any(process.is_alive() for process in everyone):
        waited = time.monotonic() - began
        if waited > DOWN_DEADLINE_SECONDS:
            raise ClusterError("the cluster's processes do not end, not even when they are killed")
        if waited > KILL_AFTER_SECONDS:
            for process in everyone:
                process.send(signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def system_images(cluster: RunningCluster) -> tuple[Path, ...]:
    """Return the archives of the images that every node got at the start."""
    return tuple(Path(text) for text in json.loads(cluster.layout.archives.read_text()))


def load_image(cluster: RunningCluster, archive: Path) -> int:
    """Bring the images of a docker-archive into every node; return on how many nodes they were new.

    Raises ImageError.
    """
    nodes = [(cluster.state.nodes[node.name].pid, cluster.layout.node(node.number)) for node in cluster.spec.nodes]
    return import_everywhere(nodes, archive)
