"""A real Prometheus on loopback that scrapes given targets every second."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rung_devcluster.tools import ensure_tools
from servers.ports import free_port

START_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """What to scrape (`host:port`), and the labels of its samples (namespace, pod, ...)."""

    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    path: str = "/metrics"


@dataclass
class Prometheus:
    """`start`, `stop`, `kill`, `pause`, `resume`; the same address and the same data after a new start."""

    folder: Path
    port: int = field(default_factory=free_port)
    scrape_interval: str = "1s"
    _process: subprocess.Popen[bytes] | None = None
    _targets: tuple[Target, ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def scrape(self, *targets: Target) -> Prometheus:
        """Say what to scrape, before the start or while it runs."""
        self._targets = targets
        self._write_configuration()
        if self._process is not None:
            os.kill(self.pid, signal.SIGHUP)
        return self

    def start(self) -> Prometheus:
        """Start, and wait until it answers. Raises AssertionError with the end of its log when it does not."""
        self._write_configuration()
        program = ensure_tools(["prometheus"])["prometheus"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    f"--config.file={self._configuration}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    "--storage.tsdb.retention.time=1h",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self.wait_until(self._is_ready, "it is ready")
        return self

    def stop(self) -> None:
        """Stop it, however it is."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Hang it: it accepts connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a hung one go on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def query(self, expression: str) -> list[dict[str, object]]:
        """Return the result of an instant query."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
        assert isinstance(result, list)
        return result

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
        """Poll until the condition holds. Raises AssertionError after the given time, or when Prometheus ended."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = self._process is None or self._process.poll() is not None
            assert not ended, f"Prometheus ended:\n{self._tail()}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{self._tail()}"
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def _configuration(self) -> Path:
        return self.folder / "prometheus.yml"

    @property
    def _log(self) -> Path:
        return self.folder / "prometheus.log"

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""

    def _write_configuration(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = [
            {
                "job_name": f"target-{number}",
                "metrics_path": target.path,
                "static_configs": [{"targets": [target.address], "labels": dict(target.labels)}],
            }
            for number, target in enumerate(self._targets)
        ]
        interval = {"scrape_interval": self.scrape_interval, "scrape_timeout": self.scrape_interval}
        # JSON is YAML.
        self._configuration.write_text(json.dumps({"global": interval, "scrape_configs": jobs}))
