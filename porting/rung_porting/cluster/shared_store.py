"""The store of stages with a copy in S3, so that trials on different nodes build on each other's results."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from rung.adapters.s3 import AlreadyExists, ModelRepository, NotFound
from rung_porting.errors import StoreError
from rung_porting.outcome import Outcome
from rung_porting.store import ENTRY_FILE, Build, Entry, Store, file_sha256
from rung_porting.worker import OUTCOME

_STAGES, _OUTCOMES = "stages", "outcomes"


class SharedStore(Store):
    """A store whose entries are fetched from S3 where they are missing here, and put there once they are made.

    Files lie there under their SHA-256, and `entry.json` is uploaded last: an entry without it does not exist, and half
    an upload stands in nobody's way. Of two pods that make the same entry, the first one counts: the other one throws
    its own away, since bytes may differ between processors, and what is judged has to be what is published.

    Args:
        root: the folder here.
        workspace: s3://BUCKET/PREFIX of the copies; not the model repository, which agents list all the time.
    """

    def __init__(self, root: Path, workspace: ModelRepository) -> None:
        super().__init__(root)
        self.workspace = workspace

    def get(self, stage: str, digest: str) -> Entry | None:
        """Return an entry from here or from S3, or None. Raises RepositoryError, StoreError."""
        present = super().get(stage, digest)
        if present is None and self._fetch(f"{stage}-{digest}"):
            present = super().get(stage, digest)
        return present

    def _build(self, folder: Path, build: Build) -> Entry:
        entry = super()._build(folder, build)
        if asyncio.run(self._push(entry.folder)):
            return entry
        self._fetch(folder.name)
        stage, _, digest = folder.name.rpartition("-")
        theirs = super().get(stage, digest)
        if theirs is None:
            raise StoreError(f"{self.workspace.uri}/{_STAGES}/{folder.name} was made by another pod and is damaged")
        return theirs

    def _fetch(self, name: str) -> bool:
        return asyncio.run(self._download(name))

    async def _download(self, name: str) -> bool:
        prefix = f"{_STAGES}/{name}"
        try:
            text = await self.workspace.read_text(f"{prefix}/{ENTRY_FILE}")
        except NotFound:
            return False
        files = _files(text, f"{prefix}/{ENTRY_FILE}")
        temporary = self.root / f"{name}.fetched"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for file, sha256 in files.items():
            with (temporary / file).open("wb") as target:
                async for chunk in self.workspace.download(f"{prefix}/{sha256}"):
                    target.write(chunk)
            if file_sha256(temporary / file) != sha256:
                raise StoreError(f"{self.workspace.uri}/{prefix}/{sha256} is damaged; delete {prefix}")
        (temporary / ENTRY_FILE).write_text(text, encoding="utf-8")
        shutil.rmtree(self.root / name, ignore_errors=True)
        temporary.rename(self.root / name)
        return True

    async def _push(self, folder: Path) -> bool:
        """Upload an entry. Returns whether it is the one that counts."""
        text = await asyncio.to_thread((folder / ENTRY_FILE).read_text, encoding="utf-8")
        prefix = f"{_STAGES}/{folder.name}"
        for file, sha256 in _files(text, ENTRY_FILE).items():
            await self.workspace.put_if_absent(f"{prefix}/{sha256}", folder / file)
        try:
            await self.workspace.put_if_absent(f"{prefix}/{ENTRY_FILE}", text.encode())
        except AlreadyExists:
            return False
        return True

    # ------------------------------------------------------------------------------------------------------- outcomes

    def put_outcome(self, search: str, place: str, outcome: Outcome) -> Outcome:
        """Keep what came of a trial, for the rounds after it. Returns what is kept: the first one that was told.

        Raises RepositoryError, StoreError.
        """
        content = OUTCOME.dump_python(outcome, mode="json")
        for version in content["versions"]:
            version["model"] = "/".join(Path(version["model"]).parts[-2:])
        try:
            data = json.dumps(content).encode()
            asyncio.run(self.workspace.put_if_absent(f"{_OUTCOMES}/{search}/{place}.json", data))
        except AlreadyExists:
            return self.outcome(search, place) or outcome
        return outcome

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


def _files(text: str, key: str) -> dict[str, str]:
    """Return the files that an entry lists with their SHA-256: plain names, so that none is written elsewhere."""
    try:
        files = dict(json.loads(text)["files"])
        if all(PurePosixPath(name).name == name and re.fullmatch("[0-9a-f]{64}", files[name]) for name in files):
            return files
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise StoreError(f"{key} is no entry of a store; delete it")


def _two_names(path: str) -> str:
    parts = PurePosixPath(path).parts
    if len(parts) != 2 or ".." in parts or parts[0] == "/":
        raise ValueError(path)
    return path
