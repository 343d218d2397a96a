"""The user's own classes: found by import path, beside the plan's file too; faults are told with the user's lines."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from typing import Any

from rung_porting.errors import PortingError


def find_class(path: str, expected: type, what: str) -> type[Any]:
    """Import `package.module:Class`.

    Args:
        path: where it is; the folder of the plan must be on sys.path already, see `look_beside`.
        expected: what it must be a subclass of.
        what: what the message calls it: model, data.

    Raises:
        PortingError: no such module or class, it fails while it is imported, or it is something else.
    """
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise PortingError(
                f"{what} {path}: there is no module {missing!r}; looked in {_looked_in()}; is the path "
                "package.module:Class, and is the package installed or beside the plan?"
            ) from None
        raise PortingError(f"{what} {path}: {module_name} needs the module {missing!r}: pip install it") from None
    except Exception as error:  # the user's code: anything
        raise PortingError(f"{what} {path}: {module_name} fails while it is imported: {where(error)}") from None
    found = getattr(module, class_name, None)
    if found is None:
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        near = difflib.get_close_matches(class_name, classes, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(classes)) or 'no class'}"
        raise PortingError(f"{what} {path}: {module_name} has no {class_name}; {hint}")
    if not (inspect.isclass(found) and issubclass(found, expected)):
        raise PortingError(f"{what} {path} must be a subclass of {expected.__module__}.{expected.__qualname__}")
    return found


def construct(made: type[Any], arguments: dict[str, Any], what: str) -> Any:
    """Call a user's class with the plan's arguments. Raises PortingError with the user's own line."""
    try:
        inspect.signature(made).bind(**arguments)
    except TypeError as error:
        raise PortingError(f"{what} {made.__qualname__}: the plan's arguments don't fit: {error}") from None
    try:
        return made(**arguments)
    except Exception as error:  # the user's code: anything
        raise PortingError(f"{what} {made.__qualname__}({_listed(arguments)}) fails: {where(error)}") from None


def look_beside(folder: Path) -> None:
    """Let classes beside the plan be imported."""
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))


def where(error: BaseException) -> str:
    """Return an error of the user's code with the file and line it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "rung_porting" not in frame.filename]
    own = [frame for frame in own if not frame.filename.startswith("<")]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


def source_sha256(path: str, what: str) -> str:
    """Return the SHA-256 of the file that a class is written in, so that a changed class is ported anew.

    Nothing of it is imported but the packages around it.

    Raises:
        PortingError: there is no such module.
    """
    module_name = path.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module_name)
    except Exception as error:  # a package around it: the user's code, anything
        raise PortingError(f"{what} {path}: {module_name} can't be found: {where(error)}") from None
    if spec is None:
        raise PortingError(
            f"{what} {path}: there is no module {module_name!r}; looked in {_looked_in()}; is the path "
            "package.module:Class, and is the package installed or beside the plan?"
        )
    if spec.origin is None or not Path(spec.origin).is_file():
        return "no file"
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def _looked_in() -> str:
    return f"{sys.path[0]} and the installed packages"


def _listed(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())[:200]
