"""The first process of a node: makes its namespaces into a machine, starts the components and keeps them running.

It talks to the supervisor over its standard input and output, one message a line: it reads Order values and writes
JSON events. When the supervisor is gone, so is this process, and with it everything in its namespaces.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from rung_devcluster.cluster.components import Component, components_of
from rung_devcluster.cluster.forward import forward
from rung_devcluster.cluster.layout import Layout
from rung_devcluster.cluster.node_system import prepare_mounts, prepare_network
from rung_devcluster.cluster.probes import is_ready
from rung_devcluster.cluster.reaper import Reaper
from rung_devcluster.cluster.spec import API_SERVER_PORT, ClusterSpec, NodeSpec
from rung_devcluster.commands import CommandError

READY_DEADLINE_SECONDS = 60.0
POLL_SECONDS = 0.1
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 60.0
FIRST_LINES = 3
LAST_LINES = 15
LINE_LENGTH = 400


class Order(StrEnum):
    """What the supervisor tells a node."""

    NETWORK = "network"  # the links to the other nodes are there
    IMAGES = "images"  # the system's images are in containerd


class ComponentFailedError(RuntimeError):
    """A component ended, or was not ready in time, before the node was up."""

    def __init__(self, component: str, reason: str, log: Path) -> None:
        super().__init__(f"{component} {reason}")
        self.component = component
        self.reason = reason
        self.log = log


class Node:
    """One node's components."""

    def __init__(self, spec: ClusterSpec, node: NodeSpec, layout: Layout, tools: Mapping[str, str]) -> None:
        self._spec = spec
        self._node = node
        self._layout = layout
        self._files = layout.node(node.number)
        self._components = components_of(spec, node, layout, tools)
        self._reaper = Reaper()
        self._done: dict[str, asyncio.Event] = {
            name: asyncio.Event() for name in ("network", "images", *(each.name for each in self._components))
        }
        self._up = False
        self._environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "TMPDIR": str(self._files.temporary),
        }

    def note(self, order: Order) -> None:
        """Go on with what waited for this."""
        self._done[order.value].set()

    async def run(self, listener: socket.socket | None) -> None:
        """Start everything, say so, and keep it running for ever; raises ComponentFailedError before that."""
        await self._done["network"].wait()
        prepare_network(self._spec, self._node)
        async with asyncio.TaskGroup() as tasks:
            for component in self._components:
                tasks.create_task(self._keep(component))
            if listener is not None:
                _server = await forward(listener, "127.0.0.1", API_SERVER_PORT)
            for component in self._components:
                await self._done[component.name].wait()
            self._up = True
            tell("up")

    async def _keep(self, component: Component) -> None:
        for name in component.after:
            await self._done[name].wait()
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            status = await self._run_once(component)
            if not self._up:
                raise ComponentFailedError(component.name, _end_of(status), self._files.log(component.name))
            if time.monotonic() - began > STEADY_SECONDS:
                pause_seconds = FIRST_PAUSE_SECONDS
            tell("ended", component=component.name, reason=_end_of(status))
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _run_once(self, component: Component) -> int:
        log = self._files.log(component.name)
        try:
            pid, ended = self._reaper.start(
                component.command, log=log, environment={**self._environment, **component.environment}
            )
        except OSError as error:
            raise ComponentFailedError(component.name, f"could not be started: {error.strerror}", log) from error
        began = time.monotonic()
        tell("started", component=component.name, pid=pid)
        while not ended.done():
            if await asyncio.to_thread(is_ready, component, self._layout.pki / "ca.crt"):
                self._done[component.name].set()
                tell("ready", component=component.name, seconds=time.monotonic() - began)
                break
            if not self._up and time.monotonic() - began > READY_DEADLINE_SECONDS:
                raise ComponentFailedError(component.name, f"was not ready within {READY_DEADLINE_SECONDS:g} s", log)
            await asyncio.wait((ended,), timeout=POLL_SECONDS)
        return await ended


def tell(event: str, **details: object) -> None:
    """Send the supervisor one event."""
    print(json.dumps({"event": event, **details}), flush=True)


def _end_of(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def last_lines(log: Path) -> Sequence[str]:
    """Return the last lines of a log, few and short enough for a person.

    A program that refuses its arguments says so first and explains all of them after that: the first lines are kept.
    """
    try:
        lines = [line[:LINE_LENGTH] for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ()
    if len(lines) <= FIRST_LINES + LAST_LINES:
        return tuple(lines)
    return (*lines[:FIRST_LINES], f"({len(lines) - FIRST_LINES - LAST_LINES} more lines)", *lines[-LAST_LINES:])


async def _obey(node: Node) -> None:
    """Pass the supervisor's orders on; return when it is gone."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        node.note(Order(line.decode().strip()))


async def _main(spec: ClusterSpec, number: int, layout: Layout, listener: socket.socket | None) -> None:
    node_spec = spec.nodes[number - 1]
    prepare_mounts(node_spec, layout.node(number))
    node = Node(spec, node_spec, layout, json.loads(layout.tools.read_text()))
    tell("hello")
    running = asyncio.create_task(node.run(listener))
    obeying = asyncio.create_task(_obey(node))
    done, _ = await asyncio.wait((running, obeying), return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def main() -> None:
    """Be a node until the supervisor goes; every other process here ends with this one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--listener", type=int)
    arguments = parser.parse_args()
    layout = Layout(arguments.folder)
    spec = ClusterSpec.from_json(layout.spec.read_text())
    listener = None if arguments.listener is None else socket.socket(fileno=arguments.listener)
    try:
        asyncio.run(_main(spec, arguments.number, layout, listener))
    except* ComponentFailedError as group:
        error = _first(group)
        tell("failed", component=error.component, reason=error.reason, lines=last_lines(error.log))
    except* CommandError as commands:
        tell("failed", component="node", reason=str(commands.exceptions[0]), lines=())
    # Interpreter shutdown would wait for a probe in another thread; the kernel cleans up better.
    sys.stdout.flush()
    os._exit(0)


def _first(group: BaseExceptionGroup[ComponentFailedError]) -> ComponentFailedError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    main()
