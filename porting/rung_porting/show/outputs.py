"""`rung-port show`: reads ladders from a folder or a bucket, writes pictures and pages, renders cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rung.adapters.repository_errors import Corrupt, NotFound
from rung.adapters.s3 import ModelRepository
from rung.api.porting import PortingPlan
from rung.core.repository_layout import card_key, config_key, is_task_name, parse_version_number
from rung_porting.errors import PortingError
from rung_porting.plan_file import read_plan
from rung_porting.repository.catalogue import Catalogue, read_local, read_remote
from rung_porting.show.card import PLAN_SUFFIX, card_text, plan_in_card
from rung_porting.show.record import Record, read_record, record_path
from rung_porting.show.view import TaskView, task_view


@dataclass(frozen=True, slots=True)
class Source:
    """Where ladders are: a folder as `run` writes it, or a repository at s3://BUCKET/PREFIX. One of the two is None."""

    name: str
    folder: Path | None
    repository: ModelRepository | None

    @staticmethod
    def named(name: str, endpoint: str | None) -> Source:
        """Return the source with this name. Raises ValueError: it is a malformed address."""
        if "://" in name:
            return Source(name, None, ModelRepository(name, endpoint=endpoint))
        return Source(name, Path(name), None)

    async def catalogue(self) -> Catalogue:
        """Read the ladders. Raises PortingError, RepositoryError."""
        if self.repository is not None:
            return await read_remote(self.repository)
        assert self.folder is not None
        return read_local(self.folder)

    def record(self, task: str) -> Record | None:
        """Return the record of a task's search; None where there is none. Raises PortingError: it can't be read."""
        path = record_path(self.folder, task) if self.folder is not None else None
        return read_record(path) if path is not None and path.exists() else None

    async def text(self, key: str) -> str | None:
        """Return a small text of the layout; None where there is none, or none that can be read as text."""
        try:
            if self.repository is not None:
                return await self.repository.read_text(key)
            assert self.folder is not None
            return (self.folder / key).read_text(encoding="utf-8")
        except (NotFound, Corrupt, OSError, UnicodeDecodeError):
            return None

    def plan_beside(self, task: str) -> PortingPlan | None:
        """Return the plan that `run` left beside the task's folder. Raises PortingError: it can't be read."""
        path = self.folder / f"{task}{PLAN_SUFFIX}" if self.folder is not None else None
        return read_plan(str(path)) if path is not None and path.exists() else None


@dataclass(slots=True)
class Shown:
    """What there is to show, and what is wrong with the rest."""

    catalogue: Catalogue
    views: list[TaskView] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


async def look(source: Source, tasks: Sequence[str] = (), hardware_class: str | None = None) -> Shown:
    """Read the ladders of these tasks, or of all.

    Raises:
        PortingError: there is no such task, or nothing of it was profiled on that hardware class.
        RepositoryError: the repository can't be read.
    """
    catalogue = await source.catalogue()
    for task in tasks:
        if task not in catalogue.ladders:
            there = ", ".join(catalogue.ladders) or "none"
            raise PortingError(f"there is no task {task!r} in {source.name}; there are: {there}")
    shown = Shown(catalogue, faults=list(catalogue.faults))
    chosen = {task: rows for task, rows in catalogue.ladders.items() if not tasks or task in tasks}
    profiled = sorted({name for rows in chosen.values() for row in rows for name in row.throughput_rps})
    if hardware_class is not None and hardware_class not in profiled:
        there = ", ".join(profiled) or "none"
        raise PortingError(f"no version was profiled on {hardware_class!r}; profiled hardware classes: {there}")
    for task, rows in chosen.items():
        try:
            record = source.record(task)
        except PortingError as error:
            shown.faults.append(str(error))
            record = None
        shown.views.append(task_view(task, rows, catalogue.documents, record, hardware_class))
    return shown


async def render_card(source: Source, name: str) -> str:
    """Return the card of TASK/VERSION with the profiles of today.

    Raises:
        PortingError: there is no such version, or it can't be read.
        RepositoryError: the repository can't be read.
    """
    task, _, text = name.partition("/")
    number = parse_version_number(text)
    if not is_task_name(task) or number is None:
        raise PortingError(f"{name!r} names no version: give TASK/VERSION, for example digits/1098820")
    catalogue = await source.catalogue()
    specs = {row.number: row.spec for row in catalogue.ladders.get(task, ())}
    if number not in specs:
        fault = next((each for each in catalogue.faults if f"{task}/{number}" in each), "")
        there = ", ".join(map(str, specs)) or "none"
        why = f": {fault}" if fault else f"; versions of {task}: {there}"
        raise PortingError(f"there is no version {name} in {source.name}{why}")
    # The card that was written with the version quotes the plan that made it; the one beside may be a later one.
    card = await source.text(card_key(task, number))
    plan = plan_in_card(card, task) if card is not None else source.plan_beside(task)
    return card_text(specs[number], list(specs.values()), await source.text(config_key(task)), plan)


def write_pictures(views: Sequence[TaskView], path: Path) -> list[Path]:
    """Draw all tasks into one file when its name ends in .png, else each into a file of its own in that folder.

    Raises:
        PortingError: it can't be written.
    """
    from rung_porting.show.picture import write_picture

    single = path.suffix.lower() == ".png"
    wanted = [(path, list(views))] if single else [(path / f"{view.task}.png", [view]) for view in views if view.rows]
    try:
        for file, shown in wanted:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_picture(shown, file)
    except OSError as error:
        raise PortingError(f"{error.filename or path}: {error.strerror}") from None
    return [file for file, _ in wanted]


def write_page(shown: Shown, source: Source, path: Path) -> None:
    """Write the page. Raises PortingError: it can't be written."""
    from rung_porting.show.page import render

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(shown.views, source.name, shown.faults), encoding="utf-8")
    except OSError as error:
        raise PortingError(f"{error.filename or path}: {error.strerror}") from None
