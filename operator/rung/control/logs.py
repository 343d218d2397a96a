"""The operator's log: one JSON object a line, silent while nothing happens."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
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


def configure_logs(level: str, style: str) -> None:
    """Send the log to stderr, as JSON or as plain text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if style == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    if level != "DEBUG":
        for name, least in _NOISY.items():
            logging.getLogger(name).setLevel(least)
