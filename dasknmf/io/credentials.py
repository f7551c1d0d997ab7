"""URLs that hold credentials are refused: what names a place is written into logs, messages and reports."""

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
"""Schemes with a place before the @, and no user."""
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
"""Schemes with a user or a container before the @; in others it may be a token."""


def refuse_credentials(place: Any, kind: type[DaskNMFError]) -> None:
    """Raise if a URL, or the name of a store, holds a user's secret.

    Parameters
    ----------
    place : path, URL or store
    kind : type
        The error to raise; its message does not hold the URL.
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
            f"the URL {scheme}://… holds credentials, and the names of places are written into logs and "
            "messages: give the URL without them, and credentials by the environment (AWS_ACCESS_KEY_ID, "
            "AWS_PROFILE, …) or in fsspec's configuration (~/.config/fsspec)."
        )


def _has_secret(scheme: str, authority: str) -> bool:
    user, _, host = authority.rpartition("@")
    if user and scheme not in _NAMES_A_USER:
        return True
    # A secret with a slash ends the authority early, and its start is then no port.
    return ":" in user or not _PORT.fullmatch(host)
