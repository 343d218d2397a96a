"""Where things stand in the model repository, and how versions are numbered. Pure: names in, names out.

The layout (`docs/architecture.md`, "The model repository in S3")::

    TASK/config.pbtxt
    TASK/VERSION/model.onnx
    TASK/VERSION/version.yaml
    TASK/VERSION/README.md
    TASK/VERSION/profiles/CLASS-TIME.yaml

Keys here are relative to the prefix of the repository. Names that come out of a bucket are never trusted:
`parse_key` accepts only what this module itself could have written, so no key can lead out of a folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

GENERATION_STEP = 1_000_000
ACCURACY_PARTS = 100_000
HIGHEST_VERSION_NUMBER = 2**63 - 1
"""Triton keeps version numbers in a signed 64-bit integer."""

CONFIG_FILE = "config.pbtxt"
MODEL_FILE = "model.onnx"
VERSION_FILE = "version.yaml"
CARD_FILE = "README.md"
PROFILES_FOLDER = "profiles"

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_VERSION_NUMBER = re.compile(r"[1-9][0-9]{0,18}")
_HARDWARE_CLASS = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PROFILE_FILE = re.compile(rf"{PROFILES_FOLDER}/(?P<hardware_class>[^/]+)-(?P<time>[0-9]{{8}}T[0-9]{{6}}Z)\.yaml")
_PROFILE_TIME = "%Y%m%dT%H%M%SZ"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=@+-]*")


class FileKind(StrEnum):
    """What one file of the repository is."""

    CONFIG = "config"
    MODEL = "model"
    VERSION = "version"
    PROFILE = "profile"
    CARD = "card"
    """For people: nothing that serves or registers reads it."""


_VERSION_FILES = {MODEL_FILE: FileKind.MODEL, VERSION_FILE: FileKind.VERSION, CARD_FILE: FileKind.CARD}


@dataclass(frozen=True, slots=True)
class RepositoryKey:
    """One file of the repository, taken apart. `number` is None for a task's config."""

    kind: FileKind
    task: str
    number: int | None = None
    hardware_class: str | None = None
    profiled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RepositoryUri:
    """`s3://BUCKET/PREFIX`, taken apart; the prefix has no slash at its ends and may be empty."""

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    def full_key(self, key: str) -> str:
        """The key in the bucket of a key that is relative to the prefix."""
        return f"{self.prefix}/{key}" if self.prefix else key

    def uri_of(self, key: str) -> str:
        """What `artifact.uri` of a version holds: `s3://BUCKET/PREFIX/KEY`."""
        return f"s3://{self.bucket}/{self.full_key(key)}"


def parse_repository_uri(uri: str) -> RepositoryUri:
    """Take `s3://BUCKET/PREFIX` apart.

    Raises:
        ValueError: it isn't one; the message says what one looks like.
    """
    scheme, separator, rest = uri.strip().partition("://")
    bucket, _, prefix = rest.partition("/")
    segments = [segment for segment in prefix.split("/") if segment]
    bad = not separator or scheme != "s3" or _BUCKET.fullmatch(bucket) is None
    if bad or any(_PREFIX_SEGMENT.fullmatch(segment) is None for segment in segments):
        raise ValueError(f"{uri!r} is not a model repository: give s3://BUCKET or s3://BUCKET/PREFIX")
    return RepositoryUri(bucket, "/".join(segments))


def is_task_name(name: str) -> bool:
    """Whether a name is a DNS label, as the name of a task (which is also its Triton model) has to be."""
    return _DNS_LABEL.fullmatch(name) is not None


def parse_version_number(text: str) -> int | None:
    """The version number that a folder's name stands for; None when it isn't one (`0`, `01`, `latest`, `..`)."""
    if _VERSION_NUMBER.fullmatch(text) is None:
        return None
    number = int(text)
    return number if number <= HIGHEST_VERSION_NUMBER else None


def version_number(generation: int, accuracy: float, taken: Collection[int] = ()) -> int:
    """The number of a new version: `generation x 1,000,000 + accuracy in parts per 100,000`; a tie takes the next.

    Args:
        generation: 1 and above; retraining raises it.
        accuracy: 0 to 1.
        taken: numbers of the task that exist already.

    Raises:
        ValueError: the generation or the accuracy is out of range, or the generation is full.
    """
    if generation < 1 or not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"generation {generation} must be at least 1 and accuracy {accuracy} between 0 and 1")
    number = generation * GENERATION_STEP + round(accuracy * ACCURACY_PARTS)
    while number in taken:
        number += 1
    if number >= (generation + 1) * GENERATION_STEP or number > HIGHEST_VERSION_NUMBER:
        raise ValueError(f"generation {generation} has no number left for accuracy {accuracy}")
    return number


def config_key(task: str) -> str:
    """`TASK/config.pbtxt`."""
    return f"{_task(task)}/{CONFIG_FILE}"


def model_key(task: str, number: int) -> str:
    """`TASK/VERSION/model.onnx`."""
    return f"{_version_folder(task, number)}/{MODEL_FILE}"


def version_key(task: str, number: int) -> str:
    """`TASK/VERSION/version.yaml`."""
    return f"{_version_folder(task, number)}/{VERSION_FILE}"


def card_key(task: str, number: int) -> str:
    """`TASK/VERSION/README.md`."""
    return f"{_version_folder(task, number)}/{CARD_FILE}"


def profile_key(task: str, number: int, hardware_class: str, profiled_at: datetime) -> str:
    """`TASK/VERSION/profiles/CLASS-TIME.yaml`; the time is written in UTC, to the second.

    Raises:
        ValueError: the hardware class isn't a Kubernetes label value, or the time has no time zone.
    """
    if _HARDWARE_CLASS.fullmatch(hardware_class) is None:
        raise ValueError(f"{hardware_class!r} is not a hardware class: it has to be a Kubernetes label value")
    if profiled_at.tzinfo is None:
        raise ValueError("the time of a profile needs a time zone")
    time = profiled_at.astimezone(UTC).strftime(_PROFILE_TIME)
    return f"{_version_folder(task, number)}/{PROFILES_FOLDER}/{hardware_class}-{time}.yaml"


def parse_key(key: str) -> RepositoryKey | None:
    """Take a key apart; None when it isn't a file of this layout (so whatever else lies in a bucket is left alone)."""
    task, _, inside = key.partition("/")
    if not is_task_name(task):
        return None
    if inside == CONFIG_FILE:
        return RepositoryKey(FileKind.CONFIG, task)
    folder, _, file = inside.partition("/")
    number = parse_version_number(folder)
    if number is None:
        return None
    if file in _VERSION_FILES:
        return RepositoryKey(_VERSION_FILES[file], task, number)
    return _parse_profile(task, number, file)


def newest_profiles(keys: Iterable[str]) -> dict[str, str]:
    """Of the profile keys of one version, the newest of each hardware class: `{class: key}`."""
    newest: dict[str, tuple[datetime, str]] = {}
    for key in keys:
        parsed = parse_key(key)
        if parsed is None or parsed.hardware_class is None or parsed.profiled_at is None:
            continue
        known = newest.get(parsed.hardware_class)
        if known is None or known < (parsed.profiled_at, key):
            newest[parsed.hardware_class] = (parsed.profiled_at, key)
    return {hardware_class: key for hardware_class, (_, key) in sorted(newest.items())}


def _parse_profile(task: str, number: int, file: str) -> RepositoryKey | None:
    match = _PROFILE_FILE.fullmatch(file)
    if match is None or _HARDWARE_CLASS.fullmatch(match["hardware_class"]) is None:
        return None
    try:
        time = datetime.strptime(match["time"], _PROFILE_TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    return RepositoryKey(FileKind.PROFILE, task, number, match["hardware_class"], time)


def _task(task: str) -> str:
    if not is_task_name(task):
        raise ValueError(f"{task!r} is not a task name: it has to be a DNS label (a-z, 0-9, '-', at most 63)")
    return task


def _version_folder(task: str, number: int) -> str:
    if not 1 <= number <= HIGHEST_VERSION_NUMBER:
        raise ValueError(f"{number} is not a version number: it has to be 1 to {HIGHEST_VERSION_NUMBER}")
    return f"{_task(task)}/{number}"
