"""The processes that make recipes, for `rung-port run`: each makes one at a time, and is used again for the next."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rung_porting.errors import PortingError
from rung_porting.outcome import Outcome
from rung_porting.worker import OUTCOME, Order


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    process: subprocess.Popen[str]
    log: Any
    """What it says on standard error."""


class Workers:
    """At most `count` processes at a time; none is left when the context ends, however it ends."""

    def __init__(self, count: int) -> None:
        self._slots = threading.Semaphore(count)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []
        self._stopped = False

    def __enter__(self) -> Workers:
        """Start nothing yet: a process starts when it is first needed."""
        return self

    def __exit__(self, *_: object) -> None:
        """End every process and wait for it: what they finished is in the store."""
        with self._lock:
            self._stopped = True
            for worker in self._all:
                if worker.process.poll() is None:
                    worker.process.send_signal(signal.SIGKILL)
            for worker in self._all:
                worker.process.wait(timeout=10)
                for stream in (worker.process.stdin, worker.process.stdout, worker.log):
                    stream.close()  # type: ignore[union-attr]

    def make(self, order: Order, report: Callable[[str, float], None]) -> Outcome:
        """Make one recipe, as soon as a process is free.

        Raises:
            PortingError: the plan is wrong, the process ended, or the run is being stopped.
        """
        with self._free() as worker:
            try:
                outcome, error = _follow(worker.process, order, report)
            except (BrokenPipeError, ValueError):  # it ended, or was ended
                outcome, error = None, None
            if outcome is None:
                self._discard(worker)
                raise PortingError(error or self._last_words(worker))
            return outcome

    @contextmanager
    def _free(self) -> Iterator[_Worker]:
        with self._slots:
            with self._lock:
                if self._stopped:
                    raise PortingError("stopped")
                worker = self._idle.pop() if self._idle else self._start()
            yield worker
            with self._lock:
                self._idle.append(worker)

    def _start(self) -> _Worker:
        log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with its process
        process = subprocess.Popen(
            [sys.executable, "-m", "rung_porting.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
        worker = _Worker(process, log)
        self._all.append(worker)
        return worker

    def _discard(self, worker: _Worker) -> None:
        """End a process; it stays in the list of all, where it is waited for."""
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGKILL)

    def _last_words(self, worker: _Worker) -> str:
        status = worker.process.wait(timeout=10)
        if self._stopped:
            return "stopped"
        worker.log.seek(0)
        why = " (was there too little memory?)" if status == -signal.SIGKILL else ""
        last = "".join(worker.log.readlines()[-15:])
        return f"the process that worked on it ended with status {status}{why}\n{last}"


def _follow(
    process: subprocess.Popen[str], order: Order, report: Callable[[str, float], None]
) -> tuple[Outcome | None, str | None]:
    """Hand over the order and tell what comes back: the outcome, or the process's own word about its failure."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(order.model_dump_json() + "\n")
    process.stdin.flush()
    for line in process.stdout:
        content = json.loads(line)
        if "error" in content:
            return None, str(content["error"])
        if "outcome" in content:
            return OUTCOME.validate_python(content["outcome"]), None
        report(content["what"], content["share"])
    return None, None
