"""Downloads official release binaries and refuses whatever does not match the published checksum."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

CONNECT_DEADLINE_SECONDS = 4.0
"""Also the longest silence in the middle of a download."""
DOWNLOAD_DEADLINE_SECONDS = 600.0
CHECKSUMS_LIMIT_BYTES = 1 << 20
DOWNLOAD_LIMIT_BYTES = 1 << 30
_BLOCK_BYTES = 1 << 18
_SHA256 = re.compile(r"\b[0-9a-fA-F]{64}\b")


class FetchError(RuntimeError):
    """A release could not be had. The message says from where and why."""


class UnreachableError(FetchError):
    """Its server does not answer: no use asking it for the next release."""


class ChecksumError(FetchError):
    """What came is not what was published; nothing of it was kept."""


def fetch(url: str, checksums_url: str, target: Path, member: str | None = None) -> None:
    """Download a program to `target` and make it executable, only if its published SHA-256 matches.

    `member` is the program's path inside the archive at `url`; None when the download is the program itself.
    The checksums file may hold one bare checksum, or lines of `checksum  file name`.

    Raises UnreachableError when nothing answers, ChecksumError on a mismatch, FetchError for every other fault.
    """
    download = target.with_name(target.name + ".download")
    try:
        wanted = find_checksum(_read(checksums_url, CHECKSUMS_LIMIT_BYTES).decode(errors="replace"), url)
        found = _save(url, download)
        if found != wanted:
            raise ChecksumError(f"{url} is not what {checksums_url} says: its SHA-256 is {found}, not {wanted}")
        if member is None:
            download.replace(target)
        else:
            _extract(download, member, target)
        target.chmod(0o755)
    finally:
        download.unlink(missing_ok=True)


def find_checksum(text: str, url: str) -> str:
    """Return the SHA-256 that a checksums file gives for the file at `url`.

    Raises ChecksumError when the file gives none.
    """
    name = urlsplit(url).path.rsplit("/", 1)[-1]
    lines = [line.split() for line in text.splitlines() if line.strip()]
    for words in lines:
        if len(words) == 2 and words[1].lstrip("*").rsplit("/", 1)[-1] == name and _SHA256.fullmatch(words[0]):
            return words[0].lower()
    if len(lines) == 1 and len(lines[0]) == 1 and _SHA256.fullmatch(lines[0][0]):
        return lines[0][0].lower()
    raise ChecksumError(f"no SHA-256 of {name} was published beside it")


def _read(url: str, limit_bytes: int) -> bytes:
    with _open(url) as response:
        try:
            content = response.read(limit_bytes + 1)
        except (OSError, HTTPException) as error:
            raise FetchError(f"{url}: broke off: {error}") from error
    if len(content) > limit_bytes:
        raise FetchError(f"{url}: longer than {limit_bytes} bytes")
    return content


def _save(url: str, target: Path) -> str:
    """Save a download and return its SHA-256."""
    deadline = time.monotonic() + DOWNLOAD_DEADLINE_SECONDS
    digest, size = hashlib.sha256(), 0
    with _open(url) as response, target.open("wb") as file:
        while True:
            try:
                block = response.read(_BLOCK_BYTES)
            except (OSError, HTTPException) as error:
                raise FetchError(f"{url}: broke off after {size} bytes: {error}") from error
            if not block:
                return digest.hexdigest()
            size += len(block)
            if size > DOWNLOAD_LIMIT_BYTES:
                raise FetchError(f"{url}: longer than {DOWNLOAD_LIMIT_BYTES} bytes")
            if time.monotonic() > deadline:
                raise FetchError(f"{url}: {size} bytes came in {DOWNLOAD_DEADLINE_SECONDS:g} s, and it was not all")
            digest.update(block)
            file.write(block)


def _open(url: str) -> IO[bytes]:
    if urlsplit(url).scheme not in {"http", "https"}:
        raise FetchError(f"{url}: only http and https")
    try:
        return cast("IO[bytes]", urllib.request.urlopen(url, timeout=CONNECT_DEADLINE_SECONDS))  # noqa: S310
    except urllib.error.HTTPError as error:
        raise FetchError(f"{url}: the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise UnreachableError(f"{urlsplit(url).hostname} can't be reached: {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise UnreachableError(f"{urlsplit(url).hostname} can't be reached: {error}") from error


def _extract(archive: Path, member: str, target: Path) -> None:
    try:
        with tarfile.open(archive) as opened:
            entry = opened.getmember(member)
            content = opened.extractfile(entry) if entry.isfile() else None
            if content is None or entry.size > DOWNLOAD_LIMIT_BYTES:
                raise FetchError(f"{member} in the archive is not a program")
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
    except (KeyError, tarfile.TarError, EOFError) as error:
        raise FetchError(f"the archive holds no {member}: {error}") from error
