"""Data sets at an address: the same training as from the disk, and a line for what servers do."""

from __future__ import annotations

import gc
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import QUICK, run_cli, write_pairs
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st
from running import wait_for
from same_run import assert_same_run

from segtrain.config import DataConfig
from segtrain.config.addresses import CREDENTIALS, find_credentials, is_remote, strip_credentials
from segtrain.data import local_copy, remote_files
from segtrain.data.layouts.locate import locate
from segtrain.data.loading.workers import CONTEXT
from segtrain.errors import SegtrainError, UsageError

USER, PASSWORD, SIGNATURE = "anna", "h0rse-battery", "sig=5ecret%2Fpart"


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder, with the faults that `server.faults` names for a request's number."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm, wbufsize = True, 1 << 16

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client has gone
            self.close_connection = True

    def do_HEAD(self) -> None:  # noqa: N802
        if self._allowed():
            super().do_HEAD()

    def do_GET(self) -> None:  # noqa: N802
        if self._allowed():
            super().do_GET()

    def _allowed(self) -> bool:
        server: Server = self.server  # type: ignore[assignment]
        path = urlsplit(self.path).path
        with server.lock:
            server.requests[self.command, path] += 1
            number = server.requests.total()
        time.sleep(server.delay)
        self.fault = server.faults(self.command, path, number)
        if self.fault == "hang":
            server.ended.wait(20)
        elif self.fault == "endless":
            self.send_response(200)
            self.end_headers()
            while not server.ended.is_set():
                self.wfile.write(b"x" * 65536)
        elif isinstance(self.fault, int):
            self.send_error(self.fault)
        elif self.headers.get("Authorization") != server.authorization:
            self.send_error(401)
        elif server.query != urlsplit(self.path).query:
            self.send_error(403)
        else:
            return True
        self.close_connection = True
        return False

    def copyfile(self, source, outputfile) -> None:
        content = source.read()
        if self.fault == "truncated":
            self.close_connection = True
            content = content[: len(content) // 2]
        outputfile.write(content)

    def send_header(self, keyword: str, value: str) -> None:
        if keyword == "Content-Length" and self.fault == "lies" and self.command == "HEAD":
            value = str(int(value) + 7)
        super().send_header(keyword, value)


class Server(ThreadingHTTPServer):
    """A web server on the loopback, which counts its requests."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.faults: Callable[[str, str, int], str | int | None] = lambda *_: None
        self.delay, self.query, self.authorization = 0.0, "", None
        self.requests: Counter[tuple[str, str]] = Counter()
        self.lock, self.ended = threading.Lock(), threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ask_password(self) -> str:
        """Ask for user and password from now on; return the address with these."""
        given = f"{USER}:{PASSWORD}"
        self.authorization = f"Basic {b64encode(given.encode()).decode()}"
        return self.address.replace("://", f"://{given}@")

    def gets(self, end: str = "") -> int:
        return sum(n for (verb, path), n in self.requests.items() if verb == "GET" and end in path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the test a cache of its own, and no waiting."""
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(CREDENTIALS, "")
    monkeypatch.setattr(remote_files, "WAITS", (0,) * 4)
    yield tmp_path / "cache"
    start_anew()


def start_anew() -> None:
    """Forget what this process has opened, as a new one would."""
    local_copy.open_copy.cache_clear()
    local_copy.IN_USE.close()


@pytest.fixture
def roads(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "www" / "roads", 8)


@pytest.fixture
def server(roads: Path) -> Iterator[Server]:
    server = Server(roads.parent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    thread.join()
    server.server_close()


def copy_of(address: str, limit: float = 16) -> Path:
    start_anew()
    return locate(DataConfig(path=address, cache_gb=limit)).root


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refusal(address: str, kind: type[SegtrainError] = SegtrainError, limit: float = 16) -> str:
    with pytest.raises(kind) as raised:
        copy_of(address, limit)
    text = str(raised.value)
    assert "\n" not in text and PASSWORD not in text and SIGNATURE not in text
    return text


def fit(data: object, name: str, *options: object) -> Path:
    start_anew()
    answer = run_cli("fit", "--data", data, "--name", name, *QUICK, "--epochs", 2, *options)
    assert answer.code == 0, answer.stderr
    assert PASSWORD not in answer.stdout + answer.stderr
    return Path("runs", name)


# of every request, one in twenty fails, and one in a hundred is cut short; here more, for there
# are few requests
def unreliable(verb: str, path: str, number: int) -> str | int | None:
    return 503 if number % 7 == 3 else "truncated" if number % 11 == 5 else None


def test_a_training_from_a_bad_server_is_that_from_the_disk_bit_for_bit(cli, roads, server):
    server.faults, server.delay = unreliable, 0.002
    disk = fit(roads, "disk")
    remote = fit(f"{server.address}/roads", "remote", "--workers", 2, "--set", "data.cache=disk")
    assert_same_run(disk, remote)
    assert server.requests.total() > 40


def test_resume_and_evaluation_read_the_copy_and_the_config_has_the_address(cli, server):
    run = fit(f"{server.address}/roads/", "run", "--epochs", 1)
    assert f"path: {server.address}/roads\n" in (run / "config.yaml").read_text()
    before = server.gets(".png")
    start_anew()
    assert run_cli("fit", "--resume", run, "--epochs", 2).code == 0
    start_anew()
    answer = run_cli("eval", run, "--device", "cpu")
    assert answer.code == 0, answer.stderr
    assert server.gets(".png") == before == 16
    assert f"{server.address}/roads" in (run / "eval/val/report.html").read_text()


def test_another_address_of_the_same_name_is_another_data_set(cli, server, roads):
    write_pairs(roads.parent / "other/roads", 8)
    run = fit(f"{server.address}/roads", "run", "--epochs", 1)
    for address in (f"{server.address}/roads/", f"{server.address}/other/roads"):
        start_anew()
        assert run_cli("eval", run, "--device", "cpu", "--data", address).code == 0
    assert len([*(run / "eval").iterdir()]) == 2


def test_check_writes_the_address(cli, server):
    address = f"{server.address}/roads"
    answer = run_cli("check", address, "--write-config", "roads.yaml")
    assert answer.code == 0 and f"path: '{address}'\n" in Path("roads.yaml").read_text()
    assert f"data     {address}\n" in answer.stdout


# --- credentials


def test_credentials_are_in_nothing_that_is_written(cli, tmp_path, server, monkeypatch):
    address = server.ask_password()
    monkeypatch.setattr(sys, "argv", ["segtrain", "fit", "--data", f"{address}/roads"])
    run = fit(f"{address}/roads", "run")
    start_anew()
    assert run_cli("eval", run, "--device", "cpu").code == 0
    Path("set.yaml").write_text(f"data: {{path: '{address}/roads'}}")
    start_anew()
    dry = run_cli("fit", "--config", "set.yaml", *QUICK, "--dry-run")
    assert dry.code == 0 and f"path: {server.address}/roads" in dry.stdout
    Path("set.yaml").unlink()
    written = contents(tmp_path) | {"stdout": (dry.stdout + dry.stderr).encode()}
    assert len(written) > 30 and "runs/run/environment.json" in written
    secrets = (PASSWORD.encode(), b64encode(f"{USER}:{PASSWORD}".encode()))
    assert [name for name, text in written.items() if any(s in text for s in secrets)] == []


def test_credentials_are_given_again_by_the_environment(cli, server, monkeypatch):
    address = server.ask_password()
    run = fit(f"{address}/roads", "run", "--epochs", 1)
    monkeypatch.setenv(CREDENTIALS, "")  # another process
    start_anew()
    error = run_cli("fit", "--resume", run, "--epochs", 2).error
    assert "access denied (401); credentials are never stored: give SEGTRAIN_CREDENTIALS=" in error
    monkeypatch.setenv(CREDENTIALS, f"https://other.example/x?y {address}/")
    start_anew()
    assert run_cli("fit", "--resume", run, "--epochs", 2).code == 0


def test_an_internal_error_and_its_traceback_have_no_credentials(cli, monkeypatch, tmp_path):
    def fail(*_: object) -> None:
        raise RuntimeError(f"403, url='https://{USER}:{PASSWORD}@host/x?{SIGNATURE}'")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(local_copy, "_update", fail)
    for options in ([], ["--debug"]):
        start_anew()
        answer = run_cli("check", f"https://{USER}:{PASSWORD}@host/x?{SIGNATURE}", *options)
        assert answer.code == 1 and "internal error (RuntimeError)" in answer.stderr
        (log,) = tmp_path.glob("segtrain-error-*")
        for text in (answer.stdout, answer.stderr, log.read_text()):
            assert PASSWORD not in text and SIGNATURE not in text
        assert "https://host/x" in log.read_text()
        log.unlink()


def test_a_wrong_command_repeats_no_credentials(cli):
    error = run_cli("fit", f"https://{USER}:{PASSWORD}@host/x?{SIGNATURE}").error
    assert "https://host/x" in error and PASSWORD not in error and SIGNATURE not in error


def test_a_signature_in_the_query_is_that_of_all_files(server):
    server.query = SIGNATURE
    assert len(contents(copy_of(f"{server.address}/roads?{SIGNATURE}"))) == 16
    assert "access denied (403)" in refusal(f"{server.address}/other")


URLS = [
    ("https://host/set", "https://host/set", "", ""),
    ("https://u:p@host:8080/set?a=b&c", "https://host:8080/set", "u:p@", "?a=b&c"),
    ("https://u:p/w@d?x@host/set", "https://host/set", "u:p/w@d?x@", ""),
    ("https://host:8080/a@b", "https://host:8080/a@b", "", ""),
    ("s3://key:secret@bucket/set", "s3://bucket/set", "key:secret@", ""),
    ("hf://datasets/owner/name@main", "hf://datasets/owner/name@main", "", ""),
    ("zip://::https://u:p@host/a.zip?s", "zip://::https://host/a.zip", "u:p@", "?s"),
    ("see 'https://u:p@h/x?s', twice", "see 'https://h/x', twice", "u:p@", "?s"),
]


@pytest.mark.parametrize("text, stripped, user, query", URLS)
def test_credentials_are_taken_out_and_found_again(text, stripped, user, query):
    if "'" not in text:
        assert DataConfig(path=text).path == stripped
        assert find_credentials(stripped.removeprefix("zip://::")) == (user, query)
        assert find_credentials("https://host/settings") == ("", "")
        below = find_credentials(f"{stripped.removeprefix('zip://::')}/images")
        assert below == (user, query)
    assert strip_credentials(text) == strip_credentials(stripped) == stripped


@given(st.text(st.characters(categories=["L", "N"], include_characters="!$%*()_-+=:"), min_size=1))
def test_no_password_stays(password):
    assert strip_credentials(f"a https://u:{password}@host/x b") == "a https://host/x b"


# --- what servers do


def test_403_is_a_line(cli, server):
    server.faults = lambda *_: 403
    answer = run_cli("check", f"{server.address}/roads")
    assert answer.code == 1
    assert answer.error.startswith(f"error: {server.address}/roads: access denied (403)")
    assert server.requests.total() == 1  # it isn't tried again


def test_a_server_that_hangs_is_a_line(server, monkeypatch):
    monkeypatch.setattr(remote_files, "READ", 0.1)
    server.faults = lambda verb, path, _: "hang" if path.endswith("3.png") else None
    text = refusal(f"{server.address}/roads")
    assert "003.png: no answer within 0.1 seconds" in text


def test_a_page_that_hangs_is_a_line(server, monkeypatch):
    monkeypatch.setattr(remote_files, "READ", 0.1)
    server.faults = lambda *_: "hang"
    assert "/roads: no answer within 0.1 seconds" in refusal(f"{server.address}/roads")


@pytest.mark.parametrize("fault, said", [("lies", "bytes arrived"), ("truncated", "")])
def test_wrong_sizes_are_a_line_and_leave_nothing(server, own_cache, fault, said):
    server.faults = lambda verb, path, _: fault if path.endswith("masks/005.png") else None
    text = refusal(f"{server.address}/roads")
    assert "masks/005.png: " in text and said in text and "kept for the next try" in text
    assert server.requests["GET", "/roads/masks/005.png"] == 5  # each attempt
    assert not [name for name in contents(own_cache) if "005" in name and "masks" in name]
    assert not [*own_cache.rglob(".tmp-*")]
    server.faults = lambda *_: None
    assert len(contents(copy_of(f"{server.address}/roads"))) == 16


def test_an_endless_answer_is_a_line(server):
    server.faults = lambda verb, path, _: "endless" if path.endswith("1.png") else None
    text = refusal(f"{server.address}/roads")
    assert "1.png: the server doesn't say how large it is" in text
    server.faults = lambda verb, path, _: (
        "endless" if (verb, path[-5:]) == ("GET", "1.png") else None
    )
    assert "1.png: more than its" in refusal(f"{server.address}/roads")


def test_an_endless_page_is_a_line(server, monkeypatch):
    monkeypatch.setattr(remote_files, "LARGEST_PAGE", 10**6)
    server.faults = lambda *_: "endless"
    assert "more than its 1,000,000 bytes" in refusal(f"{server.address}/roads")


def test_a_server_that_is_not_there_is_a_line(server):
    address = f"{server.address}/roads"
    server.server_close()
    assert address in refusal(address)


def test_no_folder_and_no_page_of_links(server, roads):
    assert refusal(f"{server.address}/cars") == f"{server.address}/cars: no such file or folder"
    (roads / "index.html").write_text("<p>Welcome")
    assert "as a page of links, else give a list" in refusal(f"{server.address}/roads")


def test_links_lead_nowhere_else(server, roads, tmp_path):
    write_pairs(tmp_path / "www" / "other", 3)
    links = ["images/", "masks/", "../other/images/", "/etc/passwd", "//h/x.png", "?C=N;O=D", "#x"]
    links += [
        "./masks/",
        "mailto:a@b.c",
        "http://127.0.0.1:1/x.png",
        "images/%2e%2e/x.png",
        "..%2Fother",
        ".git/",
        "a\\b",
        "",
    ]
    page = "".join(f'<a href="{link}">x</a>' for link in links)
    (roads / "index.html").write_text(page)
    assert len(contents(copy_of(f"{server.address}/roads"))) == 16
    assert {path.split("/")[1] for _, path in server.requests} == {"roads"}


def test_names_of_any_kind_survive(server, roads):
    for part, name in (("images", "images/000.png"), ("masks", "masks/000.png")):
        for stem in ("a b", "ü?#%41", "x&amp;y", "semi;colon+plus"):
            shutil.copy(roads / name, roads / part / f"{stem}.png")
    assert contents(copy_of(f"{server.address}/roads")) == contents(roads)


# --- the copy


def test_what_changes_there_changes_here(server, roads):
    copy_of(f"{server.address}/roads")
    before = server.gets(".png")
    shutil.copy(roads / "images/001.png", roads / "images/000.png")
    os.utime(roads / "images/000.png", (1, 1))
    (roads / "images/007.png").unlink()
    shutil.rmtree(roads / "masks")
    write_pairs(roads, 7, images="old/images", masks="new_masks")
    shutil.rmtree(roads / "old")
    assert contents(copy := copy_of(f"{server.address}/roads")) == contents(roads)
    assert sorted(p.name for p in copy.iterdir()) == ["images", "new_masks"]
    assert server.gets(".png") == before + 1 + 7


def test_another_file_of_equal_size_is_fetched_also_after_a_fault(server, roads):
    address, file = f"{server.address}/roads", roads / "notes.txt"
    file.write_text("old")
    copy_of(address)
    file.write_text("new")
    os.utime(file, (1, 1))
    server.faults = lambda verb, path, _: "truncated" if path.endswith("notes.txt") else None
    refusal(address)
    assert server.requests["GET", "/roads/notes.txt"] == 1 + 5
    server.faults = lambda *_: None
    assert contents(copy_of(address)) == contents(roads)


def test_without_the_server_the_copy_is_read_and_it_says_so(cli, server):
    address = f"{server.address}/roads"
    run = fit(address, "run")
    server.faults = lambda *_: 503
    start_anew()
    answer = run_cli("eval", run, "--device", "cpu")
    assert answer.code == 0
    assert f"{address}: the server answers 503; the copy is used that was made before" in (
        answer.stdout + answer.stderr
    )
    next(copy_of(address).rglob("*.png")).unlink()
    assert "the server answers 503; its copy lacks 1 of 16 files" in refusal(address)
    server.faults = lambda *_: 403  # no fault of the way: it must not be read any more
    assert "access denied" in refusal(address)


COPY = """
import sys
from segtrain.config import DataConfig
from segtrain.data.layouts.locate import locate
from segtrain.data.loading.workers import CONTEXT
print(locate(DataConfig(path=sys.argv[1])).root)
"""


def start_copy(address: str) -> subprocess.Popen:
    command = [sys.executable, "-c", COPY, address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_kill_leaves_nothing_half_written(server, roads, own_cache):
    server.faults = lambda verb, path, _: (
        "hang" if verb == "GET" and path.endswith("6.png") else None
    )
    process = start_copy(f"{server.address}/roads")
    wait_for(lambda: len([*own_cache.rglob("[0-9]*.png")]) == 14)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    whole = contents(roads)
    (home,) = (own_cache / "remote").iterdir()
    found = contents(home / "roads")
    assert all(whole[name] == content for name, content in found.items() if ".tmp" not in name)
    server.faults, before = (lambda *_: None), server.gets(".png")
    assert contents(copy_of(f"{server.address}/roads")) == whole
    assert server.gets(".png") == before + 2  # the others are there


def test_two_processes_make_one_copy(server, roads):
    server.delay = 0.01
    processes = [start_copy(f"{server.address}/roads") for _ in range(2)]
    places = {process.communicate(timeout=60)[0] for process in processes}
    (place,) = places
    assert contents(Path(place.strip())) == contents(roads)
    assert server.gets(".png") == 16


def test_the_copies_are_bounded(server, roads, own_cache):
    for name in ("cars", "boats"):
        shutil.copytree(roads, roads.parent / name)
    one = sum(map(len, contents(roads).values())) / 1e9
    assert "16 files of" in refusal(f"{server.address}/roads", limit=one / 2)
    first = copy_of(f"{server.address}/roads", 2.5 * one)
    second = copy_of(f"{server.address}/cars", 2.5 * one)
    copy_of(f"{server.address}/roads", 2.5 * one)  # now the cars are the older ones
    third = copy_of(f"{server.address}/boats", 2.5 * one)
    assert [path.exists() for path in (first, second, third)] == [True, False, True]
    assert sum(map(len, contents(own_cache).values())) / 1e9 < 2.5 * one
    local_copy.open_copy(f"{server.address}/roads", 2.5 * one)  # in use, beside the boats
    with pytest.raises(SegtrainError, match="GB in use; raise it"):
        local_copy.open_copy(f"{server.address}/cars", 2.5 * one)


# --- lists, zips and stores


def write_lists(folder: Path) -> None:
    pairs = [f"images/{index:03}.png,masks/{index:03}.png\n" for index in range(8)]
    (folder / "train.txt").write_text("image,mask\n" + "".join(pairs[:4]))
    (folder / "val.txt").write_text("".join(pairs[4:6]))


def test_a_list_needs_no_page_of_links(cli, server, roads):
    write_lists(roads)
    (roads / "index.html").write_text("")
    # as S3's for what isn't there, where the folder must not be listed
    server.faults = lambda verb, path, _: 403 if not (roads.parent / path[1:]).exists() else None
    disk = fit(roads / "train.txt", "disk")
    assert_same_run(disk, fit(f"{server.address}/roads/train.txt", "remote"))
    assert server.gets("006.png") == 0


def test_a_list_of_missing_files_is_a_line(cli, server, roads):
    (roads / "train.txt").write_text("a/1.png b/1.png\na/2.png b/2.png\n")
    answer = run_cli("check", f"{server.address}/roads/train.txt")
    assert answer.code == 1 and "none of its pairs is there" in answer.error
    assert "no such file" in refusal(f"{server.address}/roads/trian.txt")
    assert "give its folder" in refusal(f"{server.address}/roads/x.json", UsageError)


@pytest.mark.parametrize("form", ["{web}/a.zip", "zip://::{web}/a.zip", "zip://{disk}", "{disk}"])
def test_a_zip_is_unpacked(server, roads, form):
    archive = shutil.make_archive(str(roads.parent / "a"), "zip", roads.parent, "roads")
    address = form.format(web=server.address, disk=archive)
    assert contents(copy_of(address)) == contents(roads)
    before = server.gets()
    copy = copy_of(address)
    assert copy.name == "roads" and server.gets() == before
    location = locate(DataConfig(path=address))
    assert location.config.path in (archive, f"{server.address}/a.zip")
    images = f"zip://roads/images::{address.removeprefix('zip://').removeprefix('::')}"
    assert contents(copy_of(images)) == contents(roads / "images")


def test_a_hostile_zip_writes_nowhere_else(tmp_path, roads, own_cache):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("../x.png", "/y.png", "a/../../z.png", ".hidden/x.png", "a\\..\\b.png"):
            archive.writestr(name, b"x")
        archive.write(roads / "images/000.png", "images/000.png")
    assert [*contents(copy_of(str(tmp_path / "a.zip")))] == ["images/000.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "cache", "www"]


def test_a_damaged_zip_is_a_line(cli, tmp_path, roads):
    archive = Path(shutil.make_archive(str(tmp_path / "a"), "zip", roads))
    content = archive.read_bytes()
    archive.write_bytes(content[:-100])
    assert "not a zip file" in run_cli("check", archive).error
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        place = opened.getinfo("images/000.png").header_offset + 200
    archive.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    start_anew()
    assert run_cli("check", archive).error.count("a.zip/") == 1
    assert "no such file" in run_cli("check", tmp_path / "b.zip").error


class FakeBucket(DirFileSystem):
    """Files of a folder as those of a bucket, which no test can reach."""

    protocol = ("s3", "gs", "hf")
    root = ""

    def __init__(self, **_: object):
        super().__init__(path=self.root, fs=LocalFileSystem(), skip_instance_cache=True)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.partition("://")[2] or path


@pytest.fixture
def bucket(monkeypatch, roads) -> None:
    monkeypatch.setattr(FakeBucket, "root", str(roads.parent.parent))
    for scheme in FakeBucket.protocol:
        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, scheme, FakeBucket)


@pytest.mark.parametrize("address", ["s3://www/roads", "gs://www/roads/"])
def test_a_bucket_is_copied(cli, bucket, roads, address):
    copy = copy_of(address)
    assert contents(copy) == contents(roads) and copy.name == "roads"
    write_lists(roads)
    assert len(contents(copy_of(f"{address.rstrip('/')}/train.txt").parent)) == 14


def test_a_bucket_trains_as_the_disk(cli, bucket, roads):
    assert_same_run(fit(roads, "disk"), fit("s3://www/roads", "remote"))


def test_a_missing_package_is_named(monkeypatch):
    for package, extra in (("s3fs", "s3"), ("gcsfs", "gs")):
        monkeypatch.setitem(sys.modules, package, None)
        assert f"pip install 'segtrain-cli[{extra}]'" in refusal(f"{extra}://bucket/set")


def test_the_hub_has_data_sets(monkeypatch):
    assert "hf://datasets/OWNER/NAME" in refusal("hf://owner/name", UsageError)
    assert "hf://datasets/owner/name" in refusal("hf://datasets/owner/name")  # offline in tests


def test_a_forked_worker_closes_no_connection(server, tmp_path, monkeypatch):
    """It would wait a second for the thread that does so, which only its parent has."""
    parent, closed, close = os.getpid(), tmp_path / "closed", HTTPFileSystem.close_session

    def record(*of: object) -> None:
        return close(*of) if os.getpid() == parent else closed.touch()

    monkeypatch.setattr(HTTPFileSystem, "close_session", staticmethod(record))
    gc.disable()  # the parent may close them
    try:
        copy_of(f"{server.address}/roads")
        worker = CONTEXT.Process(target=gc.collect)
        worker.start()
        worker.join()
    finally:
        gc.enable()
    assert worker.exitcode == 0 and not closed.exists()


@pytest.mark.parametrize(
    "path, remote",
    [
        ("https://host/a", True), ("S3://bucket/a", True), ("zip://a", True), ("a/b.zip", True),
        ("C:\\data\\a.zip", True), ("c:/data/a.ZIP", True), ("C:\\data", False), ("d:/data", False),
        ("a:b/c.zip", False), ("data", False),
    ],
)  # fmt: skip
def test_what_is_copied_before_it_is_read(path: str, remote: bool):
    """Addresses and zips; a drive of Windows is no scheme."""
    assert is_remote(path) is remote
