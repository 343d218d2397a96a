"""Runs other programs with a deadline and says plainly what went wrong."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

LAST_LINES = 20
END_DEADLINE_SECONDS = 5.0
_DIES_WITH_US = ("setpriv", "--pdeathsig", "TERM", "--")
"""However this process ends, the program that it started is told to end too."""


class CommandError(RuntimeError):
    """A program could not be started, failed, or passed its deadline. The message is made for a person."""


def run(
    command: Sequence[str | Path],
    *,
    what: str,
    deadline_seconds: float,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end and return what it printed on its standard output.

    `what` names the purpose in error messages ("etcd: go build"). `environment` replaces the whole environment. The
    program gets a process group of its own; at the deadline, and at Ctrl-C, the whole group is ended.

    Raises CommandError when the program is missing, ends with another status than 0, or passes the deadline; the
    message carries the command and the last lines that it printed.
    """
    words = [str(word) for word in command]
    line = " ".join(words)
    if shutil.which(words[0]) is None:
        raise CommandError(f"{what}: could not start `{line}`: {words[0]} is not there or not a program")
    # Files instead of pipes: a grandchild that keeps a pipe open can't hang us, and the last lines survive a kill.
    with TemporaryFile() as output, TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [*_DIES_WITH_US, *words],
                cwd=folder,
                env=None if environment is None else dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            raise CommandError(f"{what}: could not start `{line}`: {error.strerror}") from error
        try:
            status = process.wait(timeout=deadline_seconds)
        except subprocess.TimeoutExpired:
            _end_group(process)
            raise CommandError(
                f"{what}: `{line}` did not end within {deadline_seconds:g} s and was stopped\n"
                f"{_last_lines(output, errors)}"
            ) from None
        except BaseException:
            _end_group(process)
            raise
        if status != 0:
            raise CommandError(f"{what}: `{line}` ended with status {status}\n{_last_lines(output, errors)}")
        output.seek(0)
        return output.read().decode(errors="replace")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=END_DEADLINE_SECONDS)


def _last_lines(*streams: object) -> str:
    lines: deque[str] = deque(maxlen=LAST_LINES)
    for stream in streams:
        stream.seek(0)  # type: ignore[attr-defined]
        lines.extend(raw.decode(errors="replace").rstrip() for raw in stream)  # type: ignore[attr-defined]
    return "\n".join(f"    {line}" for line in lines if line) or "    (it printed nothing)"
