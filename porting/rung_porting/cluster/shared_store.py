"""The store of stages with a copy in S3, so that trials on different nodes build on each other's results."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from rung.adapters.s3 import AlreadyExists, ModelRepository, NotFound
from rung_porting.errors import StoreError
from rung_porting.stages import Outcome
from rung_porting.store import ENTRY_FILE, Build, Entry, Store
from rung_porting.worker import OUTCOME

_STAGES, _OUTCOMES = "stages", "outcomes"


class SharedStore(Store):
    """A store whose entries are fetched from S3 where they are missing here, and put there once they are made.

    `entry.json` is uploaded last: an entry without it does not exist. Whoever comes second with an entry finds it
    there: stages are deterministic but for their times, so the first one counts.

    Args:
        root: the folder here.
        workspace: s3://BUCKET/PREFIX of the copies; not the model repository, which agents list all the time.
    """

    def __init__(self, root: Path, workspace: ModelRepository) -> None:
        super().__init__(root)
        self.workspace = workspace

    def get(self, stage: str, digest: str) -> Entry | None:
        """Return an entry from here or from S3, or None. Raises RepositoryError: S3 can't be reached or refuses."""
        present = super().get(stage, digest)
        if present is None and self._fetch(f"{stage}-{digest}"):
            present = super().get(stage, digest)
        return present

    def _build(self, folder: Path, build: Build) -> Entry:
        entry = super()._build(folder, build)
        names = sorted(path.name for path in entry.folder.iterdir() if path.name != ENTRY_FILE)
        asyncio.run(self._push(entry.folder, [*names, ENTRY_FILE]))
        return entry

    def _fetch(self, name: str) -> bool:
        return asyncio.run(self._download(name))

    async def _download(self, name: str) -> bool:
        prefix = f"{_STAGES}/{name}"
        try:
            text = await self.workspace.read_text(f"{prefix}/{ENTRY_FILE}")
        except NotFound:
            return False
        files = _file_names(text, f"{prefix}/{ENTRY_FILE}")
        temporary = self.root / f"{name}.fetched"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for file in files:
            with (temporary / file).open("wb") as target:
                async for chunk in self.workspace.download(f"{prefix}/{file}"):
                    target.write(chunk)
        (temporary / ENTRY_FILE).write_text(text, encoding="utf-8")
        shutil.rmtree(self.root / name, ignore_errors=True)
        temporary.rename(self.root / name)
        return True

    async def _push(self, folder: Path, names: list[str]) -> None:
        for name in names:
            try:
                await self.workspace.put_if_absent(f"{_STAGES}/{folder.name}/{name}", folder / name)
            except AlreadyExists:
                # Another pod was quicker, and its times differ. Where only other bytes of a file are there, from a pod
                # that ended half way, the entry stays incomplete: it is made again by whoever needs it.
                return

    # ------------------------------------------------------------------------------------------------------- outcomes

    def put_outcome(self, search: str, place: str, outcome: Outcome) -> None:
        """Keep what came of a trial, for the rounds after it. Raises RepositoryError."""
        content = OUTCOME.dump_python(outcome, mode="json")
        for version in content["versions"]:
            version["model"] = "/".join(Path(version["model"]).parts[-2:])
        try:
            data = json.dumps(content).encode()
            asyncio.run(self.workspace.put_if_absent(f"{_OUTCOMES}/{search}/{place}.json", data))
        except AlreadyExists:
            pass  # from a pod that was taken for dead

    def outcome(self, search: str, place: str) -> Outcome | None:
        """Return what came of a trial; None where its pods failed. Raises RepositoryError, StoreError."""
        key = f"{_OUTCOMES}/{search}/{place}.json"
        try:
            text = asyncio.run(self.workspace.read_text(key))
        except NotFound:
            return None
        try:
            content = json.loads(text)
            for version in content["versions"]:
                version["model"] = str(self.root / _two_names(version["model"]))
            return OUTCOME.validate_python(content)
        except (ValueError, KeyError, TypeError, ValidationError, RecursionError):
            raise StoreError(f"{self.workspace.uri.uri_of(key)} is no outcome of a trial; delete it") from None

    def fetch_models(self, outcome: Outcome) -> None:
        """Have the files of its versions here. Raises RepositoryError, StoreError where one is gone."""
        for version in outcome.versions:
            name = version.model.parent.name
            if not version.model.is_file() and not self._fetch(name):
                raise StoreError(f"{self.workspace.uri}/{_STAGES}/{name} is gone, and a version needs it")


def _file_names(text: str, key: str) -> list[str]:
    """Return the files that an entry lists: plain names, so that none is written elsewhere."""
    try:
        names = list(json.loads(text)["files"])
        if all(isinstance(name, str) and PurePosixPath(name).name == name for name in names):
            return names
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise StoreError(f"{key} is no entry of a store; delete it")


def _two_names(path: str) -> str:
    parts = PurePosixPath(path).parts
    if len(parts) != 2 or ".." in parts or parts[0] == "/":
        raise ValueError(path)
    return path
