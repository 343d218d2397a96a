"""Ports one task in a process of its own: `python -m rung_porting.worker`, started by `rung-port run`.

The plan comes as JSON on standard input, progress and the outcome go as JSON lines to standard output. When nobody
reads them any more, because `rung-port` was killed, the next line fails and the process ends.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from rung_porting.errors import PortingError
from rung_porting.plan import TaskPlan
from rung_porting.stages import port
from rung_porting.store import Store


def main() -> int:
    """Port the task; returns the exit status."""
    order = json.loads(sys.stdin.read())
    plan = TaskPlan.model_validate(order["plan"])
    # The libraries print as they please; their lines go to the log, ours to the pipe.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(**content: object) -> None:
        try:
            lines.write(json.dumps(content) + "\n")
        except BrokenPipeError:
            os._exit(1)

    try:
        port(plan, Store(Path(order["store"])), lambda what, share: send(what=what, share=share))
    except PortingError as error:
        send(error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
