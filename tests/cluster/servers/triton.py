"""The real Triton Inference Server, from its wheel, on loopback: started, killed, stopped and continued by tests.

The server lives in an environment of its own (`.venv-triton`, from requirements/triton.txt). Each server gets a folder
with its own copy of the backends (Triton changes the mode of the Python backend's stub), its model repository and its
log. It runs as the leader of a process group, so that no stub outlives it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from servers.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = ROOT / ".venv-triton"
REQUIREMENTS = ROOT / "requirements" / "triton.txt"
OWN_BACKENDS = ROOT / "images" / "tritonserver" / "backends"
START_SECONDS = 60.0


def ensure_environment() -> Path:
    """Make the server's environment if it is not there; returns its `site-packages`.

    `make setup-triton` does the same; this spares whoever runs one test by hand from knowing it.
    """
    packages = ENVIRONMENT / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if not (packages / "pytriton" / "tritonserver").is_dir():
        uv = shutil.which("uv") or str(ROOT / ".venv-uv" / "bin" / "uv")
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, ENVIRONMENT], check=True)
        install: list[str | Path] = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        install += ["-r", REQUIREMENTS]
        subprocess.run([*install, "--python", ENVIRONMENT / "bin" / "python"], check=True, timeout=600)
    return packages


@dataclass
class TritonServer:
    """One server. `start` may be called again after `kill`: same ports, same repository, a new process."""

    folder: Path
    http_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    completes_configurations: bool = False
    """With completion each load starts a process of its own just to look, which takes a load from 0.5 s to 2 s."""
    extra_flags: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def repository(self) -> Path:
        return self.folder / "models"

    @property
    def log(self) -> Path:
        return self.folder / "tritonserver.log"

    @property
    def address(self) -> str:
        """Where the gRPC API is: host:port."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def start(self) -> TritonServer:
        """Start the server and wait until it is ready; raises RuntimeError with the end of its log otherwise."""
        packages = ensure_environment()
        server = packages / "pytriton" / "tritonserver"
        backends = self._lay_out_backends(server)
        self.repository.mkdir(parents=True, exist_ok=True)
        libraries = [packages / "nvidia_pytriton.libs", Path(sys.base_prefix) / "lib"]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "PATH": f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(packages),
            # Each version is a process: numpy's threads would only cost it memory.
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [
            server / "bin" / "tritonserver",
            "--model-control-mode=explicit",
            "--strict-readiness=false",
            *(() if self.completes_configurations else ("--disable-auto-complete-config",)),
            f"--model-repository={self.repository}",
            f"--backend-directory={backends}",
            *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")),
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-port={self.metrics_port}",
            "--metrics-interval-ms=500",
            "--exit-timeout-secs=5",
            *self.extra_flags,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def ensure(self) -> None:
        """Start the server again if it has ended."""
        if self.process is None or self.process.poll() is not None:
            self.kill()
            self.start()

    def _lay_out_backends(self, server: Path) -> Path:
        backends = self.folder / "backends"
        if not backends.exists():
            shutil.copytree(server / "backends", backends)
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
            shutil.copy(stub, backends / "python")
            shutil.copytree(OWN_BACKENDS / "onnxruntime", backends / "onnxruntime")
        return backends

    def _wait_until_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"tritonserver ended with status {self.process.returncode}:\n{self.tail()}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                url = f"http://127.0.0.1:{self.http_port}/v2/health/ready"
                with urllib.request.urlopen(url, timeout=1) as answer:
                    if answer.status == 200:
                        return
            time.sleep(0.05)
        raise RuntimeError(f"tritonserver was not ready after {START_SECONDS:.0f} s:\n{self.tail()}")

    def tail(self, lines: int = 30) -> str:
        """Return the last lines of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the server and its stubs: SIGSTOP hangs it, SIGCONT lets it go on."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def stub_pids(self) -> dict[int, str]:
        """Return the processes that serve the versions: process id to command line."""
        assert self.process is not None
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if os.getpgid(int(entry.name)) == self.process.pid and int(entry.name) != self.process.pid:
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        return found

    def cpu_seconds(self) -> float:
        """Return CPU seconds used so far by the server and its stubs that are alive, user and system."""
        assert self.process is not None
        total = 0
        for pid in (self.process.pid, *self.stub_pids()):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End the server and its stubs at once, as a crash would."""
        if self.process is None:
            return
        self.signal_all(signal.SIGKILL)
        self.process.wait(timeout=30)
        # The stubs are its children's children: they are gone when the group is.
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._group_lives():
            self.signal_all(signal.SIGKILL)
            time.sleep(0.02)
        self.process = None

    def _group_lives(self) -> bool:
        assert self.process is not None
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


@contextlib.contextmanager
def running_triton(folder: Path, *extra_flags: str, completes_configurations: bool = False) -> Iterator[TritonServer]:
    """Run a server in this folder for the length of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    server = TritonServer(folder, extra_flags=extra_flags, completes_configurations=completes_configurations)
    try:
        yield server.start()
    finally:
        server.kill()
