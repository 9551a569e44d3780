"""Files of a remote data set, through fsspec: listed, and fetched whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from html.parser import HTMLParser
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote, urldefrag, urljoin
from zipfile import BadZipFile

from fsspec.callbacks import Callback
from fsspec.core import url_to_fs

from segtrain.config.addresses import CREDENTIALS, find_credentials, strip_credentials
from segtrain.console import progress
from segtrain.data.layouts.folders import DEEPEST, MOST_FOLDERS
from segtrain.errors import SegtrainError, UsageError, first_line, translate_errors
from segtrain.files.whole import whole_file

Given = TypeVar("Given")
Result = TypeVar("Result")
THREADS = 16
WAITS = (0.2, 1, 3, 8)  # seconds before each further attempt
CONNECT, READ = 10, 20  # seconds in which a web server must answer, and go on answering
LARGEST_PAGE = 1 << 26  # bytes of a page of links
SAFE = "/%:@!$&'()*+,;=~[]"  # what an address may hold unquoted
PASSING = (408, 429)  # statuses below 500 of faults that pass
LASTING = (FileNotFoundError, PermissionError, ImportError, BadZipFile, zlib.error)
# of a scheme: the extra that reads it, and where credentials come from
STORES = {
    "s3": ("s3", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws"),
    "gs": ("gs", "GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth"),
    "hf": ("", "HF_TOKEN, or hf auth login"),
}
WEB = ("", f"{CREDENTIALS}=https://USER:PASSWORD@HOST/, or --data with them")
# file systems, until the process ends: loaders' workers are forked from it, and one of the web that
# a fork collects waits a second there for the thread that closes connections, which no fork has
KEPT: list[Any] = []


class RemoteFile(NamedTuple):
    """A remote file."""

    size: int  # bytes
    stamp: str  # differs once the file has changed, as far as the server says so


class RemoteFault(SegtrainError):
    """A fault of a server, or on the way to it."""

    @property
    def is_missing(self) -> bool:
        """True where there is no such file."""
        cause = find_cause(self.__cause__)
        return find_status(cause) == 404 or isinstance(cause, FileNotFoundError)

    @property
    def lasts(self) -> bool:
        """True where another attempt would fail, too."""
        cause, status = find_cause(self.__cause__), find_status(find_cause(self.__cause__))
        refused = 400 <= status < 500 and status not in PASSING
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        return refused or isinstance(cause, LASTING) or full


class _AtMost(Callback):
    """An end to transfers of more bytes than a file has."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if self.value > self.most:
            raise EOFError(f"more than its {self.most:,} bytes arrived")


class _Links(HTMLParser):
    """The addresses that a page links to."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if (tag, name) == ("a", "href") and value]


class RemoteFiles:
    """The files below an address; their names are relative to it, with slashes.

    Methods raise RemoteFault for what can't be had.
    """

    def __init__(self, address: str):
        scheme = address.partition("://")[0].lower()
        if scheme == "hf" and not address.startswith("hf://datasets/"):
            raise UsageError(f"{address}: data sets of the hub are hf://datasets/OWNER/NAME")
        self.address, self.is_web = address, scheme in ("http", "https")
        self.extra, self.credentials = STORES.get(scheme, WEB)
        self.stopped = Event()  # by the first fault, so that other threads don't try again
        options: dict[str, Any] = {"skip_instance_cache": True}
        if self.is_web:
            from aiohttp import ClientTimeout

            limits = ClientTimeout(total=None, sock_connect=CONNECT, sock_read=READ)
            as_stored = {"Accept-Encoding": "identity"}
            client = {"timeout": limits, "headers": as_stored, "trust_env": True}
            options |= {"encoded": True, "client_kwargs": client}
        with self._translate(""):
            self.files, base = url_to_fs(address, **options)
        self.base = base.rstrip("/")
        KEPT.append(self.files)

    def list_names(self) -> dict[str, dict[str, Any]]:
        """Return the name of each file, without hidden ones, and what the listing says of it."""
        if self.is_web:
            return self._follow_links()
        found = self.attempt("", lambda: self.files.find(self.base, detail=True))
        start = self.base and f"{self.base}/"
        names = {place.removeprefix(start): info for place, info in found.items()}
        return {name: info for name, info in names.items() if is_name(name)}

    def describe(self, name: str, info: dict[str, Any] | None = None) -> RemoteFile:
        """Return size and stamp of a file, by what a listing or the server says of it."""
        info = info or self.attempt(name, lambda: self.files.info(self._place(name)))
        if info.get("size") is None:
            raise SegtrainError(f"{self.address}/{name}: the server doesn't say how large it is")
        said = sorted((key, value) for key, value in info.items() if key not in ("name", "url"))
        return RemoteFile(info["size"], hashlib.sha256(repr(said).encode()).hexdigest()[:16])

    def fetch(self, name: str, size: int, target: Path) -> None:
        """Write a file to `target`, if all of its bytes arrive."""

        def copy() -> None:
            with whole_file(target) as temporary, self._translate(name):
                self.files.get_file(self._place(name), str(temporary), callback=_AtMost(size))
                if (arrived := temporary.stat().st_size) != size:
                    raise EOFError(f"{arrived:,} of its {size:,} bytes arrived")

        self.attempt(name, copy)

    def attempt(self, name: str, action: Callable[[], Result]) -> Result:
        """Return the result of an action on a file, tried again after faults that may pass."""
        for wait in WAITS:
            try:
                with self._translate(name):
                    return action()
            except RemoteFault as fault:
                if fault.lasts or self.stopped.wait(wait):
                    raise
        with self._translate(name):
            return action()

    def map(
        self, function: Callable[[Given], Result], items: Sequence[Given], label: str
    ) -> list[Result]:
        """Return the results of a function for the items, in order, by many threads at once."""
        with ThreadPoolExecutor(THREADS) as pool, ExitStack() as on_fault:
            on_fault.callback(self.stopped.set)
            results = list(progress(pool.map(function, items), label, len(items)))
            on_fault.pop_all()
        return results

    def _follow_links(self) -> dict[str, dict[str, Any]]:
        """Return the files that a web server's pages of links name, below the address alone."""
        found: dict[str, dict[str, Any]] = {}
        folders, count = [""], 0
        while folders and (count := count + len(folders)) <= MOST_FOLDERS:
            names = [
                name for page in self.map(self._read_links, folders, "listing") for name in page
            ]
            found |= {name: {} for name in names if name[-1] != "/"}
            folders = [name for name in names if name[-1] == "/" and name.count("/") <= DEEPEST]
        return found

    def _read_links(self, folder: str) -> list[str]:
        def read() -> bytes:
            page = io.BytesIO()
            self.files.get_file(self._place(folder), page, callback=_AtMost(LARGEST_PAGE))
            return page.getvalue()

        page = _Links(self.attempt(folder, read).decode("utf-8", "replace"))
        place = strip_credentials(self._place(folder))
        links = (strip_credentials(urldefrag(urljoin(place, link)).url) for link in page.found)
        names = {unquote(link[len(place) :]) for link in links if link.startswith(place)}
        here = (name for name in names if "/" not in name[:-1] and is_name(name.removesuffix("/")))
        return sorted(folder + name for name in here)

    def _place(self, name: str) -> str:
        """Return a file's path in its file system; of the web, its URL with the credentials."""
        if not self.is_web:
            return f"{self.base}/{name}" if self.base else name
        user, query = find_credentials(self.address)
        scheme, _, rest = self.base.partition("://")
        return f"{scheme}://{user}{quote(rest, SAFE)}/{quote(name)}{query}"

    def _translate(self, name: str) -> AbstractContextManager[None]:
        place = f"{self.address}/{name}".removesuffix("/")
        return translate_errors(lambda error: f"{place}: {self._explain(error)}", RemoteFault)

    def _explain(self, error: Exception) -> str:
        cause, status = find_cause(error), find_status(find_cause(error))
        if isinstance(cause, ImportError):
            return f"{first_line(cause)}; pip install 'segtrain-cli[{self.extra}]'"
        if status in (401, 403) or isinstance(cause, PermissionError):
            refused = f" ({status})" if status else ""
            return f"access denied{refused}; credentials are never stored: give {self.credentials}"
        if status == 404 or isinstance(cause, FileNotFoundError):
            return "no such file or folder"
        if isinstance(cause, TimeoutError):
            return f"no answer within {READ} seconds"
        return f"the server answers {status}" if status else strip_credentials(first_line(cause))


def is_name(name: str) -> bool:
    """Return whether a file may have this name below a folder; no hidden ones may."""
    parts = name.split("/")
    plain = all(part and part[0] != "." and part != "__MACOSX" for part in parts)
    return plain and not {"\\", "\0"} & {*name}


def find_cause(error: Any) -> Any:
    """Return the fault behind a FileNotFoundError: fsspec raises it for each that info meets."""
    while isinstance(error, FileNotFoundError) and error.__cause__:
        error = error.__cause__
    return error


def find_status(error: Any) -> int:
    """Return the HTTP status in an exception of aiohttp, gcsfs or the hub's client, else 0."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status", "status_code", "code"):
            if isinstance(found := getattr(holder, name, None), int):
                return found
    return 0
