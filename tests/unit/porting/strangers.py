"""A network and data that the project does not know, as a user writes them: taken from the README of porting."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

README = (Path(__file__).parents[3] / "porting/README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """Return the only block of code in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return str(found)


MODULE = block("python")
PLAN: dict[str, object] = yaml.safe_load(block("yaml"))


def write_stranger(folder: Path, code: str = MODULE, **changes: object) -> Path:
    """Write the module and a plan that uses it; returns the plan's path."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(code)
    plan = folder / "plan.yaml"
    plan.write_text(yaml.safe_dump({**PLAN, **changes}))
    return plan
