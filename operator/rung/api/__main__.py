"""Write the CustomResourceDefinitions, or check that they are up to date."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from rung.api.crd import HEADER, crd_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m rung.api`. Returns the exit status: 0 done or up to date, 1 out of date."""
    parser = argparse.ArgumentParser(prog="python -m rung.api", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    crds = commands.add_parser("crds", help="write the CustomResourceDefinitions as YAML")
    crds.add_argument("directory", type=Path, metavar="DIR", help="where the files are")
    crds.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a file is out of date")
    options = parser.parse_args(arguments)
    return _check(options.directory) if options.check else _write(options.directory)


def _write(directory: Path) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    wanted = crd_files()
    for path in _superfluous(directory):
        path.unlink()
        print(f"removed {path}")
    for name, text in wanted.items():
        (directory / name).write_text(text, encoding="utf-8")
        print(f"wrote {directory / name}")
    return 0


def _check(directory: Path) -> int:
    differences: list[str] = [f"{path} belongs to no kind\n" for path in _superfluous(directory)]
    for name, text in crd_files().items():
        path = directory / name
        present = path.read_text(encoding="utf-8") if path.exists() else ""
        differences += difflib.unified_diff(
            present.splitlines(keepends=True), text.splitlines(keepends=True), f"{path} (present)", f"{path} (wanted)"
        )
    if differences:
        sys.stdout.writelines(differences)
        print(f"{directory} is out of date: run `python -m rung.api crds {directory}`")
        return 1
    return 0


def _superfluous(directory: Path) -> list[Path]:
    """Return files that were generated once and belong to no kind any more. Files of other origin are left alone."""
    return [
        path
        for path in sorted(directory.glob("*.yaml"))
        if path.name not in crd_files() and path.read_text(encoding="utf-8").startswith(HEADER)
    ]


if __name__ == "__main__":
    sys.exit(main())
