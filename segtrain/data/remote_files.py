"""Files of a remote data set, through fsspec: listed, and fetched whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from html.parser import HTMLParser
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote, urldefrag, urljoin

from fsspec.callbacks import Callback
from fsspec.core import url_to_fs

from segtrain.config.addresses import CREDENTIALS, find_credentials, strip_credentials
from segtrain.console import progress
from segtrain.data.layouts.folders import DEEPEST, MOST_FOLDERS
from segtrain.errors import SegtrainError, UsageError, first_line, translate_errors
from segtrain.files import whole_file

Item = TypeVar("Item")
Result = TypeVar("Result")
THREADS = 16
WAITS = (0.2, 1, 3, 8)  # seconds before each further attempt
CONNECT, READ = 10, 20  # seconds in which a web server must answer, and go on answering
LARGEST_PAGE = 1 << 26  # bytes of a folder's index page
BUSY = (408, 429)  # statuses of a client's fault that pass
WEB = ("http://", "https://")
# package of a scheme, the extra that has it, and where its credentials come from
STORES = {
    "s3": ("s3fs", "s3", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws"),
    "gs": ("gcsfs", "gs", "GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth"),
    "hf": ("huggingface_hub", "", "HF_TOKEN, or hf auth login"),
}
OF_WEB = f"{CREDENTIALS}=https://USER:PASSWORD@HOST/ or another address with them, or --data"


class RemoteFault(SegtrainError):
    """A fault of a server, or on the way to it; one that lasts is not tried again."""

    @property
    def lasts(self) -> bool:
        cause = find_cause(self.__cause__)
        status = find_status(cause) or 0
        return (
            isinstance(cause, FileNotFoundError | PermissionError | ImportError)
            or isinstance(cause, OSError)
            and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG)
            or 400 <= status < 500
            and status not in BUSY
        )


class Entry(NamedTuple):
    """A remote file."""

    size: int | None  # bytes, where the server says so
    stamp: str  # differs once the file has changed, as far as the server says so


class _AtMost(Callback):
    """An end to a transfer of more bytes than were announced."""

    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if self.value > self.limit:
            raise ValueError(f"more than the {self.limit:,} bytes that it may have arrived")


class _Links(HTMLParser):
    """The addresses that a page links to."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if (tag, name) == ("a", "href") and value]


class RemoteFiles:
    """The files below an address. Their names are relative to it, with slashes.

    Raises UsageError for an address that can't be one, RemoteFault where files can't be had.
    """

    def __init__(self, address: str):
        self.address, self.is_web = address, address.startswith(WEB)
        self.user, self.query = find_credentials(address)
        self.stopped = Event()  # by the first fault, so that other threads don't try again
        scheme = address.partition("://")[0]
        self.waits = () if scheme == "zip" else WAITS
        self.hint = OF_WEB if self.is_web else STORES.get(scheme, ("", "", ""))[2]
        if scheme in STORES and self.user:
            raise UsageError(f"{address}: credentials in it are not read; give {self.hint}")
        if scheme == "hf" and not address.startswith("hf://datasets/"):
            raise UsageError(f"{address}: data sets of the hub are hf://datasets/OWNER/NAME")
        options: dict[str, Any] = {"skip_instance_cache": True}
        with translate_errors(lambda error: self._explain(address, error), RemoteFault):
            if self.is_web:
                from aiohttp import ClientTimeout

                limits = ClientTimeout(total=None, sock_connect=CONNECT, sock_read=READ)
                plain = {"Accept-Encoding": "identity"}  # so that sizes are the files' own
                client = {"timeout": limits, "headers": plain, "trust_env": True}
                options |= {"encoded": True, "client_kwargs": client}
            self.files, self.base = url_to_fs(address, **options)
        if self.is_web:
            self.base = quote(self.base, safe="/%:@!$&'()*+,;=~[]")

    def list_names(self) -> dict[str, dict[str, Any]]:
        """Return the name of each file, without hidden ones, and what the listing says of it."""
        if self.is_web:
            return self._follow_links()
        found = self.attempt(self.address, lambda: self.files.find(self.base, detail=True))
        start = self.base and f"{self.base.rstrip('/')}/"
        names = {place.removeprefix(start): info for place, info in found.items()}
        return {name: info for name, info in names.items() if is_name(name)}

    def describe(self, name: str, info: dict[str, Any] | None = None) -> Entry | None:
        """Return size and stamp of a file, None where there is none of that name."""
        try:
            found = info or self.attempt(name, lambda: self.files.info(self._place(name)))
        except RemoteFault as fault:
            if is_missing(fault):
                return None
            raise
        said = {key: value for key, value in found.items() if key not in ("name", "url")}
        digest = hashlib.sha256(repr(sorted(said.items())).encode()).hexdigest()
        return Entry(found.get("size"), digest[:16])

    def fetch(self, name: str, size: int | None, target: Path, most: int = LARGEST_PAGE) -> int:
        """Write a file to `target` and return its bytes, at most `most` where none are announced.

        Raise RemoteFault where other bytes than announced arrive each time.
        """

        def copy() -> int:
            with whole_file(target) as temporary, self._translate(name):
                limit = _AtMost(most if size is None else size)
                self.files.get_file(self._place(name), str(temporary), callback=limit)
                arrived = temporary.stat().st_size
                if arrived != (arrived if size is None else size):
                    raise EOFError(f"{arrived:,} bytes arrived, and it has {size:,}")
                return arrived

        return self.attempt(name, copy)

    def attempt(self, name: str, action: Callable[[], Result]) -> Result:
        """Return the result of an action, tried again after faults that may pass."""
        for wait in (*self.waits, None):
            try:
                with self._translate(name):
                    return action()
            except RemoteFault as fault:
                if wait is None or fault.lasts or self.stopped.wait(wait):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def map(self, function: Callable[[Item], Result], items: list[Item], label: str) -> list:
        """Return the results of a function for the items, in order, by many threads at once."""
        with ThreadPoolExecutor(THREADS) as pool, ExitStack() as on_fault:
            on_fault.callback(self.stopped.set)
            results = list(progress(pool.map(function, items), label, len(items)))
            on_fault.pop_all()
        return results

    def _follow_links(self) -> dict[str, dict[str, Any]]:
        """Return the files that a web server's index pages name, below this address alone."""
        found: dict[str, dict[str, Any]] = {}
        folders, seen = [""], 1
        for _ in range(DEEPEST + 1):
            pages = self.map(self._read_links, folders, "listing")
            links = [
                folder + link for folder, page in zip(folders, pages, strict=True) for link in page
            ]
            found |= {name: {} for name in links if name[-1] != "/"}
            folders = [name for name in links if name[-1] == "/"]
            seen += len(folders)
            if seen > MOST_FOLDERS:
                raise SegtrainError(f"{self.address}: more than {MOST_FOLDERS:,} folders")
        return found

    def _read_links(self, folder: str) -> list[str]:
        def read() -> bytes:
            page = io.BytesIO()
            self.files.get_file(self._place(folder), page, callback=_AtMost(LARGEST_PAGE))
            return page.getvalue()

        page = self.attempt(folder, read).decode("utf-8", "replace")
        place = f"{self.base}/{quote(folder)}"
        links = [urldefrag(urljoin(place, link)).url for link in _Links(page).found]
        links = [strip_credentials(link) for link in links]
        below = [unquote(link[len(place) :]) for link in links if link.startswith(place)]
        names = [name for name in below if name.count("/") == name.endswith("/")]
        return sorted({name for name in names if is_name(name.removesuffix("/"))})

    def _place(self, name: str) -> str:
        """Return a file's path in its file system; of the web, its URL with the credentials."""
        if not self.is_web:
            return f"{self.base.rstrip('/')}/{name}" if self.base else name
        scheme, _, rest = self.base.partition("://")
        return f"{scheme}://{self.user}{rest}/{quote(name)}{self.query}"

    def _translate(self, name: str) -> AbstractContextManager[None]:
        place = f"{self.address}/{name}".removesuffix("/")
        return translate_errors(lambda error: self._explain(place, error), RemoteFault)

    def _explain(self, place: str, error: Exception) -> str:
        cause = find_cause(error)
        status = find_status(cause)
        package, extra, _ = STORES.get(place.partition("://")[0], ("fsspec[http]", "", ""))
        if isinstance(cause, ImportError):
            wanted = f"'segtrain-cli[{extra}]'" if extra else package
            return f"{place}: it is read by {package}, which is not installed; pip install {wanted}"
        if status in (401, 403) or isinstance(cause, PermissionError):
            refused = f" ({status})" if status else ""
            return f"{place}: access denied{refused}; credentials are never stored: {self.hint}"
        if status == 404 or isinstance(cause, FileNotFoundError):
            return f"{place}: no such file or folder"
        if isinstance(cause, TimeoutError):
            return f"{place}: no answer within {READ} seconds"
        if status:
            return f"{place}: the server answers {status}"
        return f"{place}: {strip_credentials(first_line(cause))}"


def is_name(name: str) -> bool:
    """Return whether a file may have this name below a folder; no hidden ones may."""
    parts = name.split("/")
    return all(
        part and part[0] != "." and not re.search(r"[\\\0]|^__MACOSX$", part) for part in parts
    )


def is_missing(fault: RemoteFault) -> bool:
    """Return whether a server has answered that there is no such file."""
    cause = find_cause(fault.__cause__)
    return find_status(cause) == 404 or isinstance(cause, FileNotFoundError)


def find_cause(error: Any) -> Any:
    """Return the fault behind a FileNotFoundError: fsspec raises it for each that info meets."""
    while isinstance(error, FileNotFoundError) and error.__cause__:
        error = error.__cause__
    return error


def find_status(error: Any) -> int | None:
    """Return the HTTP status in an exception of aiohttp, gcsfs or the hub's client."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status", "status_code", "code"):
            if isinstance(found := getattr(holder, name, None), int):
                return found
    return None
