"""Reading a plan: every mistake is named with its line, and a misspelt field with the nearest name."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rung.api.porting import PortingPlan
from rung_porting.errors import PortingError

LARGEST_BYTES = 1_000_000
_PLANS = "rung_porting.plans"
_SENTENCES = {
    "missing": "is missing",
    "model_type": "must be a mapping of fields",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list, for example [1, 8, 8]",
}


def builtin_plans() -> dict[str, str]:
    """Return the plans that come with rung-port: their YAML by name."""
    files = (each for each in resources.files(_PLANS).iterdir() if each.name.endswith(".yaml"))
    return {each.name.removesuffix(".yaml"): each.read_text(encoding="utf-8") for each in files}


def read_plan(name: str) -> PortingPlan:
    """Read a plan from a file, or a built-in one by its name.

    Raises:
        PortingError: there is no such file, or it is wrong; each mistake with its line.
    """
    path = Path(name)
    known = builtin_plans()
    if not path.exists() and name in known:
        return parse_plan(known[name], f"built-in plan {name}")
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise PortingError(f"{name} has more than {LARGEST_BYTES} bytes: that is no plan")
        return parse_plan(path.read_text(encoding="utf-8"), name)
    except UnicodeDecodeError as error:
        raise PortingError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from None
    except OSError as error:
        hint = f"; built-in plans: {', '.join(sorted(known))}" if isinstance(error, FileNotFoundError) else ""
        raise PortingError(f"{name}: {error.strerror}{hint}") from None


def parse_plan(text: str, where: str) -> PortingPlan:
    """Read a plan from YAML.

    Args:
        text: the YAML.
        where: what messages call it.

    Raises:
        PortingError: one line for each mistake, `WHERE:LINE: field: sentence`.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PortingError(f"{where}:{line}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise PortingError(f"{where}: {error}") from None
    if root is None or not isinstance(content, dict):
        raise PortingError(f"{where}:1: a plan is a mapping of fields: task, model, data, input, ...")
    mistakes = list(_unknown_fields(PortingPlan, root, ""))
    try:
        plan = PortingPlan.model_validate(content)
    except ValidationError as error:
        mistakes += _faults(error, root)
    except RecursionError:
        raise PortingError(f"{where}: it is nested too deeply") from None
    else:
        if not mistakes:
            return plan
    raise PortingError("\n".join(f"{where}:{line}: {sentence}" for line, sentence in sorted(set(mistakes))[:10]))


def _faults(error: ValidationError, root: yaml.Node) -> Iterator[tuple[int, str]]:
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        line, path = _find(root, fault["loc"])
        sentence = _SENTENCES.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        yield line, f"{path}: {sentence}" if path else sentence


def _find(root: yaml.Node, location: Iterable[str | int]) -> tuple[int, str]:
    """Return the line of a field, or of the nearest mapping around it that is there, and its path."""
    node, line, path = root, 1, ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}".removeprefix("." if not path else "")
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    node, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line, path


def _unknown_fields(model: type[BaseModel], node: yaml.Node, path: str) -> Iterator[tuple[int, str]]:
    """Yield each field that the model doesn't know, and each that is written twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    seen: set[str] = set()
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen:
            yield line, f"{path}{name}: is there twice"
        seen.add(name)
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(fields))}"
            yield line, f"{path}{name}: there is no such field; {hint}"
        elif (inner := _model_in(fields[name])) is not None:
            yield from _unknown_fields(inner, value, f"{path}{name}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in `Model` or `Model | None`."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), None)
