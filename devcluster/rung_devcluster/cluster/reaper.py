"""Starts programs as the first process of a pid namespace, which has to collect every orphan too."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Reaper:
    """Collects every child and orphan that ends, and tells whoever waits for one that it started.

    The standard library's own waiting only knows the children that it started itself, and would leave containers'
    orphans as zombies; waiting for any child takes the others' statuses away. So all waiting is done here.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[subprocess.Popen[bytes], asyncio.Future[int]]] = {}
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._collect)

    def start(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]
    ) -> tuple[int, asyncio.Future[int]]:
        """Start a program whose output is appended to `log`; return its number and its coming exit status.

        A negative status is the signal that ended it. Raises OSError when it cannot be started.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment), cwd="/"
            )
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[process.pid] = (process, ended)
        return process.pid, ended

    def _collect(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (entry := self._waiting.pop(pid, None)) is not None:
                process, ended = entry
                # Tell the standard library too, or it would wait for this number again.
                process.returncode = os.waitstatus_to_exitcode(status)
                if not ended.done():
                    ended.set_result(process.returncode)
