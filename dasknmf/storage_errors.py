"""What the errors of storage mean: whether to ask again, and which exceptions are storage's at all.

Libraries of storage raise what they like: s3fs makes OSErrors of some of botocore's, whose HTTP status is
then that of the error behind it, and lets others through; aiohttp, gcsfs and adlfs have classes of their own.
None of them is imported here: who has raised one has it imported.
"""

from __future__ import annotations

import errno
import ssl
import sys
from collections.abc import Iterator

from dasknmf.errors import DaskNMFError

_PERMANENT = {
    errno.EACCES,
    errno.EBADF,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOSYS,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
    errno.EROFS,
    errno.EXDEV,
}
_BUSY = {408, 425, 429, 500, 502, 503, 504, 509}
"""Statuses with which a web server says: later."""
_LATER = {
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "LimitExceededException",
    "OperationAborted",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeout",
    "RequestTimeoutException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
"""Codes with which S3 and its kin say it, whatever the status, often 400: botocore asks again for these."""
_IN_WORDS = ("Forbidden", "CERTIFICATE_VERIFY_FAILED")
"""Refusals that are told in words alone: of gcsfs, and of a certificate, through any library."""
_LOST = {
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "azure.core.exceptions": ("ServiceRequestError", "ServiceResponseError"),
    "botocore.exceptions": (
        "ConnectionError",
        "HTTPClientError",
        "IncompleteReadError",
        # What the servers of a cloud's machines tell of their roles; they are asked again as any.
        "CredentialRetrievalError",
    ),
    "botocore.parsers": ("ResponseParserError",),
    "gcsfs.retry": ("ChecksumError",),
    "google.auth.exceptions": ("TransportError",),
    "http.client": ("IncompleteRead", "RemoteDisconnected"),
    "urllib3.exceptions": ("TimeoutError", "ProtocolError"),
}
"""Lost connections and halves of answers, for which libraries have classes beside OSError."""
_OF_STORAGE = {
    "aiohttp": ("ClientError",),
    "azure.core.exceptions": ("AzureError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "botocore.parsers": ("ResponseParserError",),
    "gcsfs.retry": ("HttpError", "ChecksumError"),
    "google.auth.exceptions": ("GoogleAuthError",),
    "http.client": ("HTTPException",),
    "urllib3.exceptions": ("HTTPError",),
}
"""All that storage may raise beside OSError."""


def transient(error: BaseException) -> bool:
    """Whether an error may be gone when the same is asked again."""
    if isinstance(error, DaskNMFError):
        return False  # asked often enough
    if any(_code(each) in _LATER for each in _chain(error)):
        return True
    status = next(filter(None, map(_status, _chain(error))), None)
    if status is not None:
        return status in _BUSY
    if isinstance(error, (FileNotFoundError, PermissionError, FileExistsError, ssl.SSLCertVerificationError)):
        return False
    if any(words in str(error) for words in _IN_WORDS):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in _PERMANENT
    # Of an OSError without a number the kind tells: codecs and readers of files raise it of what is damaged.
    lost: tuple[type[BaseException], ...] = (ConnectionError, TimeoutError, *_loaded(_LOST))
    return any(isinstance(each, lost) for each in _chain(error))


def of_storage(error: BaseException) -> bool:
    """Whether storage has raised it, and not a mistake of whoever asked."""
    return isinstance(error, (OSError, *_loaded(_OF_STORAGE)))


def _loaded(names: dict[str, tuple[str, ...]]) -> tuple[type[BaseException], ...]:
    """The classes of these names, as far as their modules are imported."""
    found = (
        getattr(sys.modules[module], name, None)
        for module, own in names.items()
        if module in sys.modules
        for name in own
    )
    return tuple(each for each in found if each is not None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from: s3fs raises OSErrors from botocore's."""
    yield error
    if error.__cause__ is not None:
        yield error.__cause__


def _code(error: BaseException) -> str | None:
    """What S3 calls it."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code if isinstance(code, str) else None


def _status(error: BaseException) -> int | None:
    """What a web server answered: of botocore, aiohttp, azure and gcsfs, in this order."""
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    for name in ("status", "status_code", "code"):
        found = getattr(error, name, None) if found is None else found
    if isinstance(found, str) and found.isdecimal():  # in gcsfs, at times
        found = int(found)
    return found if isinstance(found, int) and 400 <= found < 600 else None
