"""What a pod says when it ends: read by the operator from the file that Kubernetes keeps (4 kB at most)."""

from __future__ import annotations

import json
import os
from pathlib import Path

LARGEST_BYTES = 4096


def leave(**content: object) -> None:
    """Write the last words where RUNG_LAST_WORDS says; without it nothing is written.

    What is too long loses the end of its longest list, so that the rest can be read.
    """
    path = os.environ.get("RUNG_LAST_WORDS")
    if not path:
        return
    while len(text := json.dumps(content)) > LARGEST_BYTES:
        lists = {name: value for name, value in content.items() if isinstance(value, list) and value}
        if not lists:
            text = json.dumps({"message": text[: LARGEST_BYTES // 2]})
            break
        longest = max(lists, key=lambda name: len(lists[name]))
        content = {**content, longest: lists[longest][:-1]}
    Path(path).write_text(text, encoding="utf-8")
