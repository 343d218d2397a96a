"""What a command needs beside the base installation."""

from __future__ import annotations

import importlib.util

import click


def need(*modules: str, extra: str) -> None:
    """Say in one line what is missing, and the extra that brings it, instead of a traceback.

    Raises:
        click.ClickException: a module is not installed.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise click.ClickException(f"this needs {', '.join(missing)}: pip install 'rung[{extra}]'")
