"""The programs that the development cluster runs, each from the nearest place that has a fitting version.

In this order: KUBEBUILDER_ASSETS and PATH, the cache, the official release with its published checksum, a build with Go
from the pinned modules under `gotools/`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from rung_devcluster.cache import cache_folder, key_of, making_file, only_one, remove_leftovers
from rung_devcluster.commands import CommandError
from rung_devcluster.progress import Progress, to_stderr
from rung_devcluster.tools.catalogue import CATALOGUE, Tool, UnknownToolError, filled, find_tool, go_architecture
from rung_devcluster.tools.fetch import FetchError, UnreachableError, fetch
from rung_devcluster.tools.gobuild import NoGoError, build
from rung_devcluster.tools.versions import installed

__all__ = ["CATALOGUE", "Tool", "ToolError", "UnknownToolError", "ensure_tools", "tool_key"]


class ToolError(RuntimeError):
    """A tool could not be had in any way. The message tells each way that was tried and why it failed."""


@dataclass(slots=True)
class _Attempt:
    """What was learnt on the way from tool to tool."""

    progress: Progress
    unreachable: dict[str, str] = field(default_factory=dict)
    """Servers that did not answer, with the reason: they are not asked again."""


def ensure_tools(
    names: Iterable[str],
    progress: Progress = to_stderr,
    catalogue: Mapping[str, Tool] = CATALOGUE,
) -> Mapping[str, Path]:
    """Return the absolute path of each named program, getting or building what is missing.

    `progress` is called with a line for each tool that has to be made, and a closing line. Interrupted at any moment,
    the next call goes on with what was not finished.

    Raises UnknownToolError for a name that is not in the catalogue, ToolError when a tool can't be had.
    """
    wanted = [catalogue[name] if name in catalogue else find_tool(name) for name in dict.fromkeys(names)]
    found: dict[str, Path] = {}
    notes: dict[str, list[str]] = {}
    for tool in wanted:
        path, notes[tool.name] = _already_here(tool)
        if path is not None:
            found[tool.name] = path
    missing = [tool for tool in wanted if tool.name not in found]
    if missing:
        with only_one("tools", progress):
            remove_leftovers(cache_folder() / "tools")
            _make_all(missing, notes, found, progress)
    return {tool.name: found[tool.name] for tool in wanted}


def tool_key(tool: Tool) -> str:
    """Return a key of everything that a tool is made of: module, hashes, flags, machine."""
    return key_of([tool.package, *tool.build_flags, go_architecture(), *_sources(tool)])


def cached_path(tool: Tool) -> Path:
    """Return where the cache keeps a tool, whether it is there or not."""
    return cache_folder() / "tools" / f"{tool.folder.name}-{tool.version}-{_module_key(tool)}" / tool.name


def _module_key(tool: Tool) -> str:
    return key_of([*tool.build_flags, go_architecture(), *_sources(tool)])


def _sources(tool: Tool) -> list[Path]:
    return sorted(path for path in tool.folder.iterdir() if path.suffix in {".mod", ".sum", ".go"})


def _already_here(tool: Tool) -> tuple[Path | None, list[str]]:
    notes = []
    if tool.found_on_path:
        for candidate in installed(tool):
            if candidate.fits:
                return candidate.path, []
            notes.append(f"{candidate.path} is {candidate.printed}, not {tool.version}")
    path = cached_path(tool)
    return (path if path.exists() else None), notes


def _make_all(missing: list[Tool], notes: dict[str, list[str]], found: dict[str, Path], progress: Progress) -> None:
    attempt = _Attempt(progress)
    begin_seconds = time.monotonic()
    for number, tool in enumerate(missing, start=1):
        path = cached_path(tool)
        if not path.exists():  # another process may have made it while this one waited
            began = time.monotonic()
            head = f"tools: {tool.name} {tool.version} ({number} of {len(missing)})"
            for note in notes[tool.name]:
                progress(f"{head}: {note}")
            way = _make(tool, path, head, attempt)
            progress(f"{head}: {way} in {time.monotonic() - began:.0f} s")
        found[tool.name] = path
    progress(f"tools: {len(missing)} ready in {time.monotonic() - begin_seconds:.0f} s, kept in {cache_folder()}")


def _make(tool: Tool, path: Path, head: str, attempt: _Attempt) -> str:
    """Make a tool in the cache and return how."""
    reasons: list[str] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    if tool.release is not None:
        try:
            _download(tool, path, head, attempt)
        except FetchError as error:
            reasons.append(str(error))
            attempt.progress(f"{head}: {error}")
        else:
            return "downloaded"
    attempt.progress(f"{head}: building with Go; minutes for a big one, and it can be interrupted")
    try:
        with making_file(path) as temporary:
            build(tool, temporary)
    except (CommandError, NoGoError) as error:
        raise ToolError("\n".join([f"{tool.name} {tool.version} can't be had:", *reasons, str(error)])) from error
    return "built"


def _download(tool: Tool, path: Path, head: str, attempt: _Attempt) -> None:
    assert tool.release is not None
    url, checksums_url = filled(tool.release.url, tool), filled(tool.release.checksums_url, tool)
    server = urlsplit(url).netloc
    if server in attempt.unreachable:
        raise FetchError(f"{server} did not answer before")
    attempt.progress(f"{head}: downloading from {server}")
    member = filled(tool.release.member, tool) if tool.release.member else None
    try:
        with making_file(path) as temporary:
            fetch(url, checksums_url, temporary, member)
    except UnreachableError as error:
        attempt.unreachable[server] = str(error)
        raise
