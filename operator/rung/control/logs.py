"""The operator's log: one JSON object a line, silent while nothing happens."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
REPEAT_SECONDS = 30.0
_NOISY = {
    "kopf": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "urllib3": logging.ERROR,
    "asyncio": logging.WARNING,
}


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and whatever `extra` named."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class FewRepeats(logging.Filter):
    """Lets a message about an API server that is away through once in half a minute, and shortens it.

    kopf writes one for each attempt of each watch, with the whole address of the connection.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be written."""
        message = record.getMessage()
        if not message.startswith("Request attempt #"):
            return True
        if self._clock() - self._last < REPEAT_SECONDS:
            return False
        self._last = self._clock()
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        what, _, why = message.partition(" -> ")
        record.msg, record.args = f"The API server does not answer as it should, trying on: {what} -> {why[-160:]}", ()
        return True


def configure_logs(level: str, style: str) -> None:
    """Send the log to stderr, as JSON or as plain text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if style == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    if level != "DEBUG":
        handler.addFilter(FewRepeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    if level != "DEBUG":
        for name, least in _NOISY.items():
            logging.getLogger(name).setLevel(least)
