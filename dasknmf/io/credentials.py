"""Refusal of URLs with credentials: names of places are written into logs, messages and reports."""

from __future__ import annotations

import re
from typing import Any

from dasknmf.errors import DaskNMFError

_AUTHORITY = re.compile(r"([a-zA-Z][\w+.-]*)://([^/?#\s]*)")
_PORT = re.compile(r"[^:]*(:\d{1,5})?|\[[0-9a-fA-F:.%]*\](:\d{1,5})?")
_QUERY = re.compile(
    r"[?&;#]([\w.-]*(token|signature|secret|passw|credential|api[-_]?key|accesskey|authorization"
    r"|(?<![a-z])auth(?![a-z]))[\w.-]*|sig|key|pwd)=",
    re.IGNORECASE,
)
_NAMES_A_PLACE = {"github", "git"}
"""Schemes in which the text before the @ names a place, not a user."""
_NAMES_A_USER = {
    "abfs",
    "abfss",
    "adl",
    "az",
    "ftp",
    "hdfs",
    "sftp",
    "smb",
    "ssh",
    "wasb",
    "wasbs",
    "webhdfs",
}
"""Schemes in which the text before the @ is a user or a container; in others it may be a token."""


def refuse_credentials(place: Any, kind: type[DaskNMFError]) -> None:
    """Raise an error if a URL, or the name of a store, holds credentials.

    Parameters
    ----------
    place : path, URL or store
    kind : type
        The class of the error; its message does not repeat the URL.
    """
    text = str(place)
    if "://" not in text:
        return
    schemes = [
        scheme
        for scheme, authority in _AUTHORITY.findall(text)
        if scheme not in _NAMES_A_PLACE and _has_secret(scheme, authority)
    ]
    if schemes or _QUERY.search(text):
        scheme = schemes[0] if schemes else text.partition("://")[0].rpartition("(")[2]
        raise kind(
            f"the URL {scheme}://… contains credentials, which would appear in logs and messages: give the "
            "URL without them, and the credentials in the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, …) or "
            "in fsspec's configuration (~/.config/fsspec)."
        )


def _has_secret(scheme: str, authority: str) -> bool:
    user, _, host = authority.rpartition("@")
    if user and scheme not in _NAMES_A_USER:
        return True
    # A slash in a secret ends the authority early: the part after the colon is then no port.
    return ":" in user or not _PORT.fullmatch(host)
