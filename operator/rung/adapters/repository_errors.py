"""What can be wrong with the model repository, and how an S3 client's faults are told apart."""

from __future__ import annotations

import re

from obstore.exceptions import (
    AlreadyExistsError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)


class RepositoryError(Exception):
    """Something about the model repository is not as it should be; the message says what, and where."""


class Unreachable(RepositoryError):  # noqa: N818 - the name says what the repository is
    """The repository did not answer in time, or not sensibly. Trying again later may help."""


class NotFound(RepositoryError):  # noqa: N818
    """The bucket or the object does not exist."""


class Denied(RepositoryError):  # noqa: N818
    """The credentials are missing, wrong, or not enough for this."""


class Corrupt(RepositoryError):  # noqa: N818
    """An object is there, but is not what it should be."""


class AlreadyExists(RepositoryError):  # noqa: N818
    """The key holds other content already, and nothing is ever overwritten."""


_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_METADATA_ADDRESS = "169.254.169.254"  # where credentials are looked for when none are given
_DENIED_CODES = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "XAdminUserNotFound",
}


def translated(what: str, error: Exception) -> RepositoryError:
    """One of ours for an S3 client's fault. Answers differ by vendor: look at its kind, its status, its S3 code.

    Args:
        what: the URI that was asked for.
        error: what the client raised.
    """
    text = str(error)
    status, code = (match[1] if match else "" for match in (_STATUS.search(text), _CODE.search(text)))
    said = f" ({status} {code})".replace(" )", ")") if status else ""
    if isinstance(error, (AlreadyExistsError, PreconditionError)):
        return AlreadyExists(f"{what} exists already with other content: nothing is ever overwritten")
    denied = isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or status in {"401", "403"}
    if denied or code in _DENIED_CODES:
        return Denied(f"{what}: access denied{said}: check the access key, the secret key and the bucket's policy")
    if _METADATA_ADDRESS in text:
        return Denied(f"{what}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if isinstance(error, FileNotFoundError) or status == "404":
        return NotFound(f"{what}: the bucket does not exist" if code == "NoSuchBucket" else f"{what} does not exist")
    if status == "416" or "rror parsing Path" in text:
        return Corrupt(f"{what}: {_first_line(text)}{said}")
    return Unreachable(f"{what}: {_first_line(text)}")


def _first_line(text: str) -> str:
    line = text.split("\n", 1)[0].removeprefix("Generic S3 error: ").removeprefix("Error performing list request: ")
    return line.split(": <?xml", 1)[0].strip()[:300]
