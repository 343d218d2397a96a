"""What the supervisor does: starts the nodes, joins them, brings in images and DNS, reports, and ends them all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import rung_devcluster
from rung_devcluster.cluster.api import ApiClient, ApiError, is_condition_true
from rung_devcluster.cluster.cgroups import CgroupError, make_cgroups
from rung_devcluster.cluster.dns import DEPLOYMENT_PATH, NAME, NAMESPACE, dns_objects
from rung_devcluster.cluster.layout import Layout
from rung_devcluster.cluster.linux import ProcessIdentity, only_child_of
from rung_devcluster.cluster.loading import ImageError, import_archive
from rung_devcluster.cluster.node import Order, last_lines
from rung_devcluster.cluster.node_system import NODES_LINK, link_name
from rung_devcluster.cluster.spec import ClusterSpec, NodeSpec
from rung_devcluster.cluster.state import ClusterState, write_state
from rung_devcluster.commands import CommandError, run

READY_DEADLINE_SECONDS = 90.0
LINK_DEADLINE_SECONDS = 10.0
END_DEADLINE_SECONDS = 20.0
POLL_SECONDS = 0.2
RELEASE = b"release\n"
"""What `up` writes when the cluster shall live on without it."""

_NAMESPACES = (
    "unshare",
    "--mount",
    "--net",
    "--pid",
    "--uts",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation=private",
)


class UpError(RuntimeError):
    """The cluster did not come up, or ended. `component` is at fault; `lines` end its log."""

    def __init__(self, component: str, reason: str, lines: Sequence[str] = ()) -> None:
        super().__init__(f"{component} {reason}")
        self.component = component
        self.reason = reason
        self.lines = tuple(lines)


class StoppedError(Exception):
    """Somebody wants the cluster to end."""


def supervise(spec: ClusterSpec, layout: Layout, guard: ProcessIdentity, listener: socket.socket) -> None:
    """Run the cluster until it is told to stop, `up` goes before it is released, or a node ends."""
    asyncio.run(_Supervisor(spec, layout, guard, listener).run())


def report(event: str, **details: object) -> None:
    """Tell `up`, as long as it listens."""
    with suppress(OSError, ValueError):
        print(json.dumps({"event": event, **details}), flush=True)


class _Supervisor:
    def __init__(
        self,
        spec: ClusterSpec,
        layout: Layout,
        guard: ProcessIdentity,
        listener: socket.socket,
    ) -> None:
        self._spec = spec
        self._layout = layout
        self._listener = listener
        self._archives = [Path(text) for text in json.loads(layout.archives.read_text())]
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._pids: dict[str, int] = {}
        self._components: dict[str, dict[str, str]] = {node.name: {} for node in spec.nodes}
        self._seen: dict[tuple[str, str], asyncio.Event] = {}
        self._state = ClusterState(guard=guard, supervisor=ProcessIdentity.of(os.getpid()))
        self._began = time.monotonic()

    async def run(self) -> None:
        """Bring the cluster up, wait for its end, take it down."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._stop_when(stop))
                tasks.create_task(self._stop_without_up())
                await self._bring_up(tasks)
        except* UpError as group:
            error = _first(group)
            report("failed", component=error.component, reason=error.reason, lines=error.lines)
        except* TimeoutError:
            reason = f"was not up within {READY_DEADLINE_SECONDS:g} s"
            report("failed", component="the cluster", reason=reason, lines=last_lines(self._layout.supervisor_log))
        except* (CgroupError, CommandError, ImageError, ApiError, OSError) as others:
            report("failed", component="supervisor", reason=str(_first(others)), lines=())
        except* StoppedError:
            pass
        finally:
            await self._end_nodes()

    async def _stop_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        raise StoppedError

    async def _stop_without_up(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        if await reader.readline() != RELEASE:
            raise StoppedError

    async def _bring_up(self, tasks: asyncio.TaskGroup) -> None:
        write_state(self._layout.state, self._state)
        make_cgroups(self._spec.name, len(self._spec.nodes))
        for node in self._spec.nodes:
            await self._start(node)
            tasks.create_task(self._follow(node))
        self._listener.close()
        async with asyncio.timeout(READY_DEADLINE_SECONDS):
            for node in self._spec.nodes:
                await self._event(node, "hello").wait()
                self._pids[node.name] = await self._first_process_of(node)
            self._note(nodes={name: ProcessIdentity.of(pid) for name, pid in self._pids.items()})
            self._join_nodes()
            for node in self._spec.nodes:
                await self._order(node, Order.NETWORK)
            async with asyncio.TaskGroup() as steps:
                steps.create_task(self._make_dns())
                for node in self._spec.nodes:
                    steps.create_task(self._bring_images(node))
                for node in self._spec.nodes:
                    steps.create_task(self._event(node, "up").wait())
            await self._wait_until_ready()
        seconds = time.monotonic() - self._began
        self._note(ready=True, seconds_to_ready=seconds)
        report("up", seconds=seconds)

    async def _start(self, node: NodeSpec) -> None:
        listening = ("--listener", str(self._listener.fileno())) if node.number == 1 else ()
        environment = {**os.environ, "PYTHONPATH": str(Path(rung_devcluster.__file__).parent.parent)}
        with self._layout.supervisor_log.open("ab") as log:
            self._processes[node.name] = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig=KILL", "--", *_NAMESPACES, "--"),
                *(sys.executable, "-m", "rung_devcluster.cluster.node"),
                *("--folder", str(self._layout.folder), "--number", str(node.number), *listening),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(self._listener.fileno(),) if node.number == 1 else (),
                cwd="/",
                env=environment,
            )

    async def _follow(self, node: NodeSpec) -> None:
        """Read what a node says until it ends, which is the end of the cluster."""
        process = self._processes[node.name]
        assert process.stdout is not None
        async for line in process.stdout:
            event: dict[str, Any] = json.loads(line)
            kind = event["event"]
            if kind == "failed":
                raise UpError(f"{event['component']} (on {node.name})", event["reason"], event["lines"])
            if kind in {"ready", "ended"}:
                self._components[node.name][event["component"]] = "ready" if kind == "ready" else event["reason"]
                self._note(components=self._components)
            if kind == "ready":
                report("ready", node=node.name, component=event["component"], seconds=event["seconds"])
                self._event(node, event["component"]).set()
            elif kind in {"hello", "up"}:
                self._event(node, kind).set()
        raise UpError(node.name, "ended", last_lines(self._layout.supervisor_log))

    async def _first_process_of(self, node: NodeSpec) -> int:
        pid = only_child_of(self._processes[node.name].pid)
        if pid is None:
            raise UpError(node.name, "ended at once", last_lines(self._layout.supervisor_log))
        return pid

    def _join_nodes(self) -> None:
        first = self._pids[self._spec.nodes[0].name]
        for other in self._spec.nodes[1:]:
            run(
                (
                    *("nsenter", f"--net=/proc/{first}/ns/net"),
                    *("ip", "link", "add", link_name(other), "type", "veth"),
                    *("peer", "name", NODES_LINK, "netns", str(self._pids[other.name])),
                ),
                what=f"joining {other.name}",
                deadline_seconds=LINK_DEADLINE_SECONDS,
            )

    async def _order(self, node: NodeSpec, order: Order) -> None:
        writer = self._processes[node.name].stdin
        assert writer is not None
        writer.write(f"{order.value}\n".encode())
        await writer.drain()

    async def _bring_images(self, node: NodeSpec) -> None:
        await self._event(node, "containerd").wait()
        for archive in self._archives:
            await asyncio.to_thread(import_archive, self._pids[node.name], self._layout.node(node.number), archive)
        await self._order(node, Order.IMAGES)

    async def _make_dns(self) -> None:
        await self._event(self._spec.nodes[0], "kube-apiserver").wait()
        client = ApiClient(self._layout.kubeconfig)
        for path, thing in dns_objects():
            await asyncio.to_thread(client.create, path, thing)

    async def _wait_until_ready(self) -> None:
        client = ApiClient(self._layout.kubeconfig)
        await self._poll(
            lambda: all(
                is_condition_true(client.get(f"/api/v1/nodes/{node.name}"), "Ready") for node in self._spec.nodes
            ),
            "the nodes are not Ready",
        )
        report("ready", node="cluster", component="nodes", seconds=time.monotonic() - self._began)
        await self._poll(
            lambda: is_condition_true(client.get(DEPLOYMENT_PATH), "Available"), "CoreDNS is not Available"
        )

    async def _poll(self, is_true: Callable[[], bool], otherwise: str) -> None:
        last = otherwise
        try:
            while True:
                try:
                    if await asyncio.to_thread(is_true):
                        return
                except ApiError as error:
                    last = f"{otherwise}: {error}"
                await asyncio.sleep(POLL_SECONDS)
        except asyncio.CancelledError:
            if time.monotonic() - self._began >= READY_DEADLINE_SECONDS:
                raise UpError(
                    "the cluster",
                    f"was not ready within {READY_DEADLINE_SECONDS:g} s: {last}",
                    last_lines(self._most_telling_log()),
                ) from None
            raise

    def _most_telling_log(self) -> Path:
        """CoreDNS's own log when it ever ran, else the kubelet's."""
        logs = [
            log
            for node in self._spec.nodes
            for log in self._layout.node(node.number).var_log.glob(f"pods/{NAMESPACE}_{NAME}-*/{NAME}/*.log")
        ]
        return max(logs, key=lambda log: log.stat().st_mtime, default=self._layout.node(1).log("kubelet"))

    def _event(self, node: NodeSpec, name: str) -> asyncio.Event:
        return self._seen.setdefault((node.name, name), asyncio.Event())

    def _note(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        write_state(self._layout.state, self._state)

    async def _end_nodes(self) -> None:
        """End every node and wait until the kernel has ended everything in it."""
        pids = [only_child_of(process.pid) for process in self._processes.values()]
        waiting = [_ended(pid) for pid in pids if pid is not None]
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*waiting), timeout=END_DEADLINE_SECONDS)
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _ended(pid: int) -> None:
    """Kill a process and wait until it is gone; the first process of a namespace goes last of all in it."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(handle, gone.set)
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        await gone.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _first(group: BaseExceptionGroup[Exception]) -> Any:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
