"""Addresses of remote data sets; their credentials stay in this process and its children alone."""

from __future__ import annotations

import os
import re

CREDENTIALS = "SEGTRAIN_CREDENTIALS"  # addresses with their credentials, between blanks
REMOTE = re.compile(r"(https?|s3|gs|hf|zip)://|([a-z]:[\\/])?[^:]+\.zip$", re.IGNORECASE)
# a password may hold what should have been escaped in it: after the colon is no port then
URL = re.compile(
    r"((?:https?|s3|gs|hf)://)"
    r"([^/?#\s]*@|[^/?#\s:]*:(?!\d+(?:[/?#\s]|$))\S*@)?"
    r"([^?\s'\"]*)(\?[^\s'\"]*)?",
    re.IGNORECASE,
)


def is_remote(path: str) -> bool:
    """Return whether a data set is copied before it is read: from an address, or out of a zip."""
    return bool(REMOTE.match(path)) and not os.path.isdir(path)


def strip_credentials(text: str) -> str:
    """Return a text whose URLs have no user, no password and no query, which may be a signature."""
    return URL.sub(r"\1\3", text)


def take_credentials(text: str) -> str:
    """Return a text as `strip_credentials` does; what is stripped is kept for `find_credentials`.

    It is kept in this process's environment, which is that of the processes it starts, too.
    """
    known = os.environ.get(CREDENTIALS, "").split()
    new = [url[0] for url in URL.finditer(text) if (url[2] or url[4]) and url[0] not in known]
    if new:
        os.environ[CREDENTIALS] = " ".join([*new, *known])
    return strip_credentials(text)


def find_credentials(address: str) -> tuple[str, str]:
    """Return "user:password@" and "?query" for an address; '' each where none were given.

    Those of a folder hold for all that is below it.
    """
    for url in URL.finditer(os.environ.get(CREDENTIALS, "")):
        place = (url[1] + url[3]).rstrip("/")
        if f"{address}/".startswith(f"{place}/"):
            return url[2] or "", url[4] or ""
    return "", ""
