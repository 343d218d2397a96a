"""A real S3 server (versitygw) on a local folder on loopback, and a line to it that can be thin or be cut."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import yaml

from rung.adapters.s3 import ModelRepository
from rung.core.repository_layout import config_key, model_key, profile_key, version_key
from rung_devcluster.tools import ensure_tools
from servers.hanging import hang
from servers.ports import free_port

ACCESS_KEY = "rung"
SECRET_KEY = "rung-secret"
BUCKET = "models"
START_SECONDS = 30.0
CONFIG = 'backend: "onnxruntime"\nmax_batch_size: 8\n'


@dataclass
class S3Server:
    """One server. `start` may be called again after `kill`: same port, same objects."""

    folder: Path
    port: int = field(default_factory=free_port)
    prefix: str = "demo"
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def uri(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs beside the URI and the endpoint."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1"}

    def start(self) -> S3Server:
        """Start the server and wait until it takes connections."""
        program = ensure_tools(["versitygw"])["versitygw"]
        root, attributes = self.folder / "objects", self.folder / "attributes"
        (root / BUCKET).mkdir(parents=True, exist_ok=True)
        attributes.mkdir(exist_ok=True)
        command: list[str | Path] = [
            program,
            "--port",
            f"127.0.0.1:{self.port}",
            "--access",
            ACCESS_KEY,
            "--secret",
            SECRET_KEY,
            "--quiet",
        ]
        with (self.folder / "versitygw.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "posix", "--sidecar", attributes, root], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"versitygw did not start:\n{(self.folder / 'versitygw.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash would; the objects stay."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)
            self.process = None

    def hang(self) -> None:
        """Stop it, so that it takes connections and never answers."""
        assert self.process is not None
        hang(self.process.pid)

    def repository(self, **options: float | str) -> ModelRepository:
        """A client for it."""
        return ModelRepository(
            self.uri,
            endpoint=self.endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            **options,  # type: ignore[arg-type]
        )

    def object_path(self, key: str) -> Path:
        """The file of an object, to damage it behind the server's back."""
        return self.folder / "objects" / BUCKET / self.prefix / key

    async def publish(
        self, task: str, number: int, content: bytes, *, config: str | None = CONFIG, declared: bytes | None = None
    ) -> None:
        """Publish one version as porting does: `declared` is what version.yaml speaks of, if not the content."""
        repository = self.repository()
        if config is not None:
            await repository.put_if_absent(config_key(task), config.encode())
        await repository.put_if_absent(model_key(task, number), content)
        await repository.put_if_absent(version_key(task, number), version_yaml(task, number, declared or content))

    async def publish_profile(self, task: str, number: int, hardware_class: str, time: datetime, rps: float) -> None:
        document = {"hardwareClass": hardware_class, "maxThroughput": rps}
        key = profile_key(task, number, hardware_class, time)
        await self.repository().put_if_absent(key, yaml.safe_dump(document).encode())


def version_yaml(task: str, number: int, content: bytes) -> bytes:
    document = {
        "taskRef": {"name": task},
        "version": number,
        "artifact": {
            "uri": f"s3://{BUCKET}/demo/{model_key(task, number)}",
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        },
        "accuracy": {"metric": "top1", "value": 0.9},
    }
    return yaml.safe_dump(document).encode()


@contextlib.contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    folder.mkdir(parents=True, exist_ok=True)
    server = S3Server(folder)
    try:
        yield server.start()
    finally:
        server.kill()


@dataclass
class Line:
    """A TCP line to a server: as thin as `bytes_per_second`, and `cut` breaks every connection on it."""

    port: int
    bytes_per_second: float = float("inf")
    carried_bytes: int = 0
    """From the server to the client."""
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        for writer in self._connections:
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def to(self, target_port: int) -> AsyncIterator[str]:
        """Run it; gives the endpoint for the client."""

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, downward: bool) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(16384):
                    writer.write(data)
                    await writer.drain()
                    if downward:
                        self.carried_bytes += len(data)
                        if self.bytes_per_second != float("inf"):
                            await asyncio.sleep(len(data) / self.bytes_per_second)
            writer.transport.abort() if writer.is_closing() else writer.close()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._connections.add(writer)
            try:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target_port)
            except OSError:
                writer.transport.abort()
                return
            self._connections.add(far_writer)
            await asyncio.gather(pump(reader, far_writer, False), pump(far_reader, writer, True))
            self._connections -= {writer, far_writer}

        server = await asyncio.start_server(connected, "127.0.0.1", self.port)
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            server.close()
            self.cut()
