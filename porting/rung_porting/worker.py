"""Makes recipes in a process of its own: `python -m rung_porting.worker`, started by `rung-port run`.

Orders come as JSON lines on standard input, progress and outcomes go as JSON lines to standard output. When nobody
reads them any more, because `rung-port` was killed, the next line fails and the process ends.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from rung.api.porting import PortingPlan
from rung_porting.errors import PortingError
from rung_porting.importing import look_beside
from rung_porting.outcome import Outcome
from rung_porting.recipe import Recipe
from rung_porting.stages import Workshop
from rung_porting.store import Store

OUTCOME = TypeAdapter(Outcome)


class Order(BaseModel):
    """What a worker is given."""

    model_config = ConfigDict(frozen=True)

    plan: dict[str, Any]
    recipe: Recipe
    store: Path
    beside: Path
    """The folder of the plan, where its own classes may be."""


def main() -> None:
    """Make recipes until nothing more is asked for."""
    # The libraries print as they please; their lines go to the log, ours to the pipe.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(**content: object) -> None:
        try:
            lines.write(json.dumps(content) + "\n")
        except BrokenPipeError:
            os._exit(1)

    import torch

    torch.set_num_threads(1)  # trials are made side by side, one on each core; and sums stay in one order
    for line in sys.stdin:
        order = Order.model_validate_json(line)
        look_beside(order.beside)
        try:
            plan = PortingPlan.model_validate(order.plan)
            workshop = Workshop(plan, Store(order.store), lambda what, share: send(what=what, share=share))
            send(outcome=OUTCOME.dump_python(workshop.outcome(order.recipe), mode="json"))
        except PortingError as error:
            send(error=str(error))


if __name__ == "__main__":
    main()
