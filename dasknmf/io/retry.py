"""Retries of reads and writes after transient errors, with increasing waits.

Throttled requests, lost connections and restarts of servers are transient; other errors (a full disk, a
missing permission or key) are raised at once.
"""

from __future__ import annotations

import errno
import logging
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import tenacity

from dasknmf.errors import DaskNMFError, SourceError, UnavailableError, brief
from dasknmf.io.counts import count

log = logging.getLogger("dasknmf")

T = TypeVar("T")

_ATTEMPTS = 10
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 20.0
"""Seconds. Waits double, with a random time of up to `_FIRST_WAIT` added: some 45 s in all."""
_LONGEST = 60.0
"""Seconds after which there is no further retry: clients of object stores retry by themselves."""


_attempts: ContextVar[int | None] = ContextVar("dasknmf_attempts", default=None)


@contextmanager
def without_retries() -> Iterator[None]:
    """A context without retries, for work that may fail without harm."""
    token = _attempts.set(1)
    try:
        yield
    finally:
        _attempts.reset(token)


def patiently(call: Callable[[], T], what: str) -> T:
    """The result of `call`, which is repeated for as long as its errors are transient.

    Parameters
    ----------
    call : callable
        A function without arguments, which may be called repeatedly.
    what : str
        For messages: the key that is read or written, and its store.

    Raises
    ------
    UnavailableError
        If the errors are still transient after the last attempt. Other errors are raised as they are.
    """
    for attempt in tenacity.Retrying(**_policy(what)):
        with attempt:
            return call()
    raise AssertionError  # the policy returns or raises


def read_patiently(call: Callable[[], T], what: str) -> T:
    """The result of `call`, which reads V; see `patiently`.

    Raises
    ------
    SourceError
        If the store refuses the read.
    UnavailableError
        If errors are still transient after a minute; retries of the store's own client come on top.
    """
    with _naming(what):
        return patiently(call, what)


async def awaited_patiently(call: Callable[[], Awaitable[T]], what: str) -> T:
    """`read_patiently` for a call that is awaited."""
    with _naming(what):
        async for attempt in tenacity.AsyncRetrying(**_policy(what)):
            with attempt:
                return await call()
    raise AssertionError


@contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # every store, and every codec, has exceptions of its own
        if isinstance(error, (DaskNMFError, MemoryError)):
            raise
        raise SourceError(
            f"{what} cannot be read ({brief(error)}); V must stay unchanged, readable for every process of "
            "the fit: restore V, or check permissions and credentials, then repeat the same call."
        ) from error


def _policy(what: str) -> dict[str, Any]:
    def logged(state: tenacity.RetryCallState) -> None:
        count(retries=1)
        wait = state.next_action.sleep if state.next_action else 0.0
        log.warning("access to %s failed and is tried again in %.1f s: %s", what, wait, brief(_error(state)))

    def given_up(state: tenacity.RetryCallState) -> Any:
        error, number = _error(state), state.attempt_number
        raise UnavailableError(
            f"{what} could not be reached in {number} attempt{'s' * (number > 1)} within "
            f"{state.seconds_since_start or 0:.0f} s ({brief(error)}); completed passes are kept: repeat the "
            "same call when the storage answers."
        ) from error

    return {
        "retry": tenacity.retry_if_exception(transient),
        "stop": tenacity.stop_after_attempt(_attempts.get() or _ATTEMPTS)
        | tenacity.stop_after_delay(_LONGEST),
        "wait": tenacity.wait_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT)
        + tenacity.wait_random(0, _FIRST_WAIT),
        "before_sleep": logged,
        "retry_error_callback": given_up,
    }


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


_PERMANENT_CLASSES = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ssl.SSLCertVerificationError,
)
_PERMANENT_ERRNOS = {
    errno.EBADF,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EINVAL,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOSYS,
    errno.ENOTEMPTY,
    errno.EROFS,
    errno.EXDEV,
}
_TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504, 509}
"""HTTP statuses of transient errors."""
_TRANSIENT_CODES = {
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
"""Codes of transient errors of S3 and compatible stores, whatever the HTTP status: botocore's list."""
_PERMANENT_TEXTS = ("Forbidden", "CERTIFICATE_VERIFY_FAILED")
"""Texts of permanent errors without a code: of gcsfs, and of refused certificates."""
_TRANSIENT_CLASSES = {
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "azure.core.exceptions": ("ServiceRequestError", "ServiceResponseError"),
    "botocore.exceptions": (
        "ConnectionError",
        "HTTPClientError",
        "IncompleteReadError",
        # Raised by the metadata server of a cloud machine.
        "CredentialRetrievalError",
    ),
    "botocore.parsers": ("ResponseParserError",),
    "gcsfs.retry": ("ChecksumError",),
    "google.auth.exceptions": ("TransportError",),
    "http.client": ("IncompleteRead", "RemoteDisconnected"),
    "urllib3.exceptions": ("TimeoutError", "ProtocolError"),
}
"""Exceptions for lost connections and incomplete answers that are not subclasses of OSError."""
_STORAGE_CLASSES = {
    "aiohttp": ("ClientError",),
    "azure.core.exceptions": ("AzureError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "botocore.parsers": ("ResponseParserError",),
    "gcsfs.retry": ("HttpError", "ChecksumError"),
    "google.auth.exceptions": ("GoogleAuthError",),
    "http.client": ("HTTPException",),
    "urllib3.exceptions": ("HTTPError",),
}
"""Exceptions of storage libraries that are not subclasses of OSError."""


def transient(error: BaseException) -> bool:
    """Whether another attempt may succeed after this error."""
    if isinstance(error, DaskNMFError):
        return False  # raised after the retries
    if any(_code(each) in _TRANSIENT_CODES for each in _chain(error)):
        return True
    status = next(filter(None, map(_status, _chain(error))), None)
    if status is not None:
        return status in _TRANSIENT_STATUSES
    if isinstance(error, _PERMANENT_CLASSES) or any(words in str(error) for words in _PERMANENT_TEXTS):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in _PERMANENT_ERRNOS
    # An OSError without a number is decided by its class: codecs and readers raise it for damaged content.
    lost: tuple[type[BaseException], ...] = (ConnectionError, TimeoutError, *_loaded(_TRANSIENT_CLASSES))
    return any(isinstance(each, lost) for each in _chain(error))


def of_storage(error: BaseException) -> bool:
    """Whether an error comes from storage."""
    return isinstance(error, (OSError, *_loaded(_STORAGE_CLASSES)))


def _loaded(names: dict[str, tuple[str, ...]]) -> tuple[type[BaseException], ...]:
    """The named classes whose modules are imported."""
    found = (
        getattr(sys.modules[module], name, None)
        for module, own in names.items()
        if module in sys.modules
        for name in own
    )
    return tuple(each for each in found if each is not None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its direct cause: s3fs raises OSErrors from botocore's exceptions."""
    yield error
    if error.__cause__ is not None:
        yield error.__cause__


def _code(error: BaseException) -> str | None:
    """The S3 error code; None for other errors."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code if isinstance(code, str) else None


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error of botocore, aiohttp, azure or gcsfs; None for other errors."""
    response = getattr(error, "response", None)
    found = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    for name in ("status", "status_code", "code"):
        found = getattr(error, name, None) if found is None else found
    if isinstance(found, str) and found.isdecimal():  # gcsfs has strings in some errors
        found = int(found)
    return found if isinstance(found, int) and 400 <= found < 600 else None
