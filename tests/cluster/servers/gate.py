"""The gate in front of a Triton, as a process on loopback: built from `gate/` once for each state of its sources."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung_devcluster.programs import ensure_program
from servers.ports import free_port
from servers.triton import ROOT, TritonServer

START_SECONDS = 20.0


@dataclass
class Gate:
    """One gate. `start` may be called again after `kill`."""

    triton: TritonServer
    folder: Path
    grpc_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where clients' gRPC calls go: host:port."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def url(self) -> str:
        """Where clients' HTTP requests go."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def tasks_file(self) -> Path:
        return self.folder / "tasks.json"

    @property
    def agent_environment(self) -> dict[str, str]:
        """What an agent beside it has to know."""
        return {
            "RUNG_AGENT_GATE_FILE": str(self.tasks_file),
            "RUNG_AGENT_GATE_METRICS": f"127.0.0.1:{self.metrics_port}",
        }

    @property
    def log(self) -> Path:
        return self.folder / "gate.log"

    def configure(self, tasks: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the tasks as the agent does: all at once."""
        new = self.folder / "tasks.new"
        new.write_text(json.dumps({"tasks": tasks}))
        new.replace(self.tasks_file)

    def start(self) -> Gate:
        """Start the gate and wait until it answers; raises RuntimeError with its log otherwise."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [
            ensure_program(ROOT / "gate"), f"-grpc-address={self.address}", f"-http-address=127.0.0.1:{self.http_port}",
            f"-metrics-address=127.0.0.1:{self.metrics_port}", f"-triton-grpc={self.triton.address}",
            f"-triton-http=http://127.0.0.1:{self.triton.http_port}", f"-tasks={self.tasks_file}", "-index-every=50ms",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError, urllib.error.URLError):
                self.page("healthz")
                return self
            time.sleep(0.02)
        log_text = self.log.read_text()
        self.kill()
        raise RuntimeError(f"the gate did not start:\n{log_text}")

    def page(self, name: str) -> str:
        """Return a page of its own: healthz or metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/{name}", timeout=2) as answer:
            return str(answer.read().decode())

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)
            self.process = None


@contextlib.contextmanager
def running_gate(triton: TritonServer, folder: Path) -> Iterator[Gate]:
    """Run a gate in front of a server for the length of the block."""
    gate = Gate(triton, folder)
    try:
        yield gate.start()
    finally:
        gate.kill()
