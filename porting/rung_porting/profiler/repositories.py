"""Where the profiler finds versions and writes profiles: the model repository in S3, or a folder of its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from rung.adapters.s3 import ModelRepository
from rung.core.repository_layout import config_key, newest_profiles


class Repository(Protocol):
    """Where versions are listed and profiles are written: S3 or a folder of the same layout."""

    async def versions(self, task: str) -> list[int]:
        """Return the numbers of the versions that exist, ascending."""

    async def config_text(self, task: str) -> str:
        """Return the text of config.pbtxt."""

    async def newest_profile(self, task: str, number: int, hardware_class: str) -> str | None:
        """Return the text of the newest profile of this version on a class; None when there is none."""

    async def write(self, key: str, text: str) -> None:
        """Write a new file; never overwrites."""


class S3Repository:
    """The model repository in S3; credentials come from the AWS_* environment."""

    def __init__(self, uri: str, endpoint: str | None) -> None:
        self._repository = ModelRepository(uri, endpoint=endpoint)

    async def versions(self, task: str) -> list[int]:
        """Return the versions with a version.yaml."""
        return await self._repository.list_versions(task)

    async def config_text(self, task: str) -> str:
        """Return the text of config.pbtxt."""
        return await self._repository.read_config(task)

    async def newest_profile(self, task: str, number: int, hardware_class: str) -> str | None:
        """Return the text of the newest profile of this version on a class; None when there is none."""
        key = (await self._repository.list_objects()).profiles(task, number).get(hardware_class)
        return None if key is None else await self._repository.read_text(key)

    async def write(self, key: str, text: str) -> None:
        """Write a new object."""
        await self._repository.put_if_absent(key, text.encode())


class FolderRepository:
    """A folder of the repository's layout, as Triton itself reads it; versions need no version.yaml."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def versions(self, task: str) -> list[int]:
        """Return the numbered folders."""
        return sorted(int(path.name) for path in (self._folder / task).glob("[1-9]*") if path.name.isdigit())

    async def config_text(self, task: str) -> str:
        """Return the text of config.pbtxt."""
        return (self._folder / config_key(task)).read_text(encoding="utf-8")

    async def newest_profile(self, task: str, number: int, hardware_class: str) -> str | None:
        """Return the text of the newest profile of this version on a class; None when there is none."""
        key = self._profiles(task, number).get(hardware_class)
        return None if key is None else (self._folder / key).read_text(encoding="utf-8")

    def _profiles(self, task: str, number: int) -> dict[str, str]:
        paths = (self._folder / task / str(number)).glob("profiles/*.yaml")
        return newest_profiles(str(path.relative_to(self._folder)) for path in paths)

    async def write(self, key: str, text: str) -> None:
        """Write a new file."""
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)


def open_repository(uri: str, endpoint: str | None) -> Repository:
    """Return the repository at `s3://BUCKET/PREFIX` or in a folder. Raises ValueError for a malformed URI."""
    if "://" in uri:
        return S3Repository(uri, endpoint)
    if not Path(uri).is_dir():
        raise ValueError(f"{uri!r} is neither s3://BUCKET/PREFIX nor a folder")
    return FolderRepository(Path(uri))
