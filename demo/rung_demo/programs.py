"""Runs kubectl, helm and the like: each with a deadline, each failure as one error with what the program said."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

TAIL_LINES = 15
FORWARD_DEADLINE_SECONDS = 20.0


class DemoError(Exception):
    """The demo can't go on; the message says what failed and what to do."""


def run(
    arguments: Sequence[str | Path],
    *,
    deadline_seconds: float,
    env: Mapping[str, str] | None = None,
    text: str | None = None,
    tells: bool = False,
) -> str:
    """Run a program to its end and return what it printed; of one that `tells`, the errors go to the terminal instead.

    Raises DemoError when it fails or passes its deadline.
    """
    process = start(arguments, env=env, reads=text is not None, tells=tells)
    return finish(process, deadline_seconds=deadline_seconds, text=text)


def start(
    arguments: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    reads: bool = False,
    tells: bool = False,
) -> subprocess.Popen[str]:
    """Start a program, for `finish`. Raises DemoError when it is not installed."""
    try:
        return subprocess.Popen(
            [str(argument) for argument in arguments],
            env={**os.environ, **(env or {})},
            text=True,
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if tells else subprocess.STDOUT,
        )
    except FileNotFoundError:
        raise DemoError(f"{arguments[0]} is not installed") from None


def finish(process: subprocess.Popen[str], *, deadline_seconds: float, text: str | None = None) -> str:
    """Wait for a program that was started and return what it printed. Raises DemoError as `run` does."""
    words = process.args
    assert isinstance(words, list)
    shown = " ".join(words[:6]) + (" ..." if len(words) > 6 else "")
    try:
        said, _ = process.communicate(text, timeout=deadline_seconds)
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        raise DemoError(f"{shown} did not end within {deadline_seconds:.0f} s\n{_tail(said)}") from None
    finally:
        end(process)
    if process.returncode != 0:
        raise DemoError(f"{shown} failed with status {process.returncode}\n{_tail(said)}")
    return said


def _tail(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-TAIL_LINES:])


@dataclass(frozen=True)
class Kubernetes:
    """The cluster that the demo uses, through its kubeconfig: the same programs for every cluster."""

    kubeconfig: Path
    kubectl_path: Path
    helm_path: Path
    namespace: str = "default"
    env: Mapping[str, str] = field(default_factory=dict)

    def _env(self) -> dict[str, str]:
        return {**self.env, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *arguments: str, text: str | None = None, deadline_seconds: float = 60.0) -> str:
        """Run kubectl in the demo's namespace. Raises DemoError."""
        words: list[str | Path] = [self.kubectl_path, "--namespace", self.namespace, *arguments]
        return run(words, deadline_seconds=deadline_seconds, env=self._env(), text=text)

    def helm(self, *arguments: str, deadline_seconds: float = 180.0) -> str:
        """Run helm in the demo's namespace. Raises DemoError."""
        words: list[str | Path] = [self.helm_path, "--namespace", self.namespace, *arguments]
        return run(words, deadline_seconds=deadline_seconds, env=self._env())

    def apply(self, manifest: Path | str) -> None:
        """Apply a manifest: a file, or its text. Raises DemoError."""
        if isinstance(manifest, Path):
            self.kubectl("apply", "--filename", str(manifest))
        else:
            self.kubectl("apply", "--filename", "-", text=manifest)

    def stream(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a kubectl that goes on printing (logs --follow). The caller ends it."""
        words = [str(self.kubectl_path), "--namespace", self.namespace, *arguments]
        return subprocess.Popen(
            words, env={**os.environ, **self._env()}, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    @contextmanager
    def forwarded(self, target: str, port: int) -> Iterator[str]:
        """Forward a port of a service or pod to a free one on loopback; yields HOST:PORT. Raises DemoError."""
        words = [str(self.kubectl_path), "--namespace", self.namespace, "port-forward", target, f":{port}"]
        process = subprocess.Popen(
            words, env={**os.environ, **self._env()}, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield f"127.0.0.1:{_forwarded_port(process, target)}"
        finally:
            end(process)


def _forwarded_port(process: subprocess.Popen[str], target: str) -> int:
    watchdog = threading.Timer(FORWARD_DEADLINE_SECONDS, process.kill)
    watchdog.start()
    said = []
    port = None
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"127\.0\.0\.1:(\d+) ->", line):
            port = int(found[1])
            break
    watchdog.cancel()
    if port is None:
        raise DemoError(f"port-forward to {target} failed\n{_tail(''.join(said))}")
    # Nobody reads what it prints later on; a full pipe would stop it.
    threading.Thread(target=_drain, args=(process.stdout,), daemon=True).start()
    return port


def _drain(stream: IO[str]) -> None:
    with stream:
        stream.read()


def end(process: subprocess.Popen[str], patience_seconds: float = 5.0) -> None:
    """End a program that was started here."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
