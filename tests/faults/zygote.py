"""Real processes of segtrain without paying its imports each time, and what goes wrong in them.

Run as a script, this is a process that imports segtrain once and then forks a child for each
request; the child runs the command line as `segtrain ARGV` would. `Zygote` is the other end.

A child tells what it is doing: every function of `FUNCTIONS` that it enters, and everything that
it writes below its folder, is an *event*: "forward", "validate", "write config.yaml", "replace
last.state.pt" and so on, in a file that outlives a kill. A request can aim at one of them: the
n-th "replace last.state.pt", before it is done or after, or half-way through the bytes of a write,
is where the child gets a signal, or finds the disk full.
"""

from __future__ import annotations

import atexit
import builtins
import importlib
import io
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

# object, its function, the event's name
FUNCTIONS = [
    ("segtrain.commands.fit", "make_plan", "plan"),
    ("segtrain.models.segmentation.SegmentationModel", "__init__", "model"),
    ("segtrain.data.loading.dataset.Pairs", "__getitem__", "load"),
    ("segtrain.training.step.TrainingModule", "forward", "forward"),
    ("torch.Tensor", "backward", "backward"),
    ("torch.optim.AdamW", "step", "update"),
    ("segtrain.training.loop", "validate", "validate"),
]
IMPORTS = (
    "segtrain.commands.fit segtrain.commands.eval segtrain.commands.predict segtrain.commands.check"
    " segtrain.cli.app"
    " torch.utils.tensorboard matplotlib.pyplot"
).split()
BEFORE, HALF, AFTER = "before", "half", "after"
START, END = "start", "end"
WRITES = ("mkdir", "open", "write", "fsync", "replace", "rename", "link", "symlink")


@dataclass
class Aim:
    """At the n-th event of that name ("*" is anything written): a signal, or a failing write."""

    event: str
    nth: int = 1
    when: str = BEFORE  # or AFTER; HALF: in the midst of a write's bytes
    signal: int = 0
    errno: int = 0  # that a write fails with
    lasting: bool = True  # so do all writes that follow


class Watch:
    """Tells of the events of this process, not of its children, and does what is aimed at one."""

    def __init__(self, root: str, trace: str, aims: list[Aim]):
        self.root, self.aims = os.path.join(os.path.realpath(root), ""), aims
        self.counts: dict[int, int] = {}
        self.broken = 0  # the error number of every write to come
        self.pid = os.getpid()
        self.trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def below(self, path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):  # a file descriptor
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.root)

    def tell(self, line: str) -> None:
        if os.getpid() == self.pid:
            with suppress(OSError):  # where the size of files is limited
                os.write(self.trace, f"{time.monotonic():.4f} {line}\n".encode())

    def run(
        self,
        event: str,
        act: Callable[[], Any],
        half: Callable[[], Any] | None = None,
        path: object = None,
    ) -> Any:
        """act(), as the event; a write has its path and may have its half."""
        self.tell(f"> {event}")
        try:
            return self._aimed(event, act, half, path)
        finally:
            self.tell(f"< {event}")

    def _aimed(self, event: str, act: Callable, half: Callable | None, path: object) -> Any:
        aim = self._hit(event, path is not None)
        if aim and aim.when != AFTER:
            if aim.when == HALF and half:
                half()
            if aim.signal:
                os.kill(os.getpid(), aim.signal)
            if aim.lasting:
                self.broken = aim.errno
        number = self.broken or (aim.errno if aim else 0)
        if number and path is not None:
            raise OSError(number, os.strerror(number), os.fsdecode(path))
        done = act()
        if aim and aim.when == AFTER and aim.signal:
            os.kill(os.getpid(), aim.signal)
        return done

    def _hit(self, event: str, is_write: bool) -> Aim | None:
        for place, aim in enumerate(self.aims):
            if aim.event == event or aim.event == "*" and is_write:
                self.counts[place] = self.counts.get(place, 0) + 1
                if self.counts[place] == aim.nth:
                    return aim
        return None

    def install(self) -> None:
        for owner, name, event in FUNCTIONS:
            self._wrap_function(_find(owner), name, event)
        for name in set(WRITES) & set(dir(os)) - {"open", "write", "fsync"}:
            self._wrap_path_call(name)
        plain_sync = os.fsync

        def fsync(fd: Any) -> None:
            path = os.readlink(f"/proc/self/fd/{fd if isinstance(fd, int) else fd.fileno()}")
            if not self.below(path):
                return plain_sync(fd)
            return self.run(f"fsync {kind(path)}", lambda: plain_sync(fd), path=path)

        if os.path.isdir("/proc/self/fd"):
            os.fsync = fsync
        io.open = builtins.open = self._opener(io.open)

    def _wrap_function(self, owner: Any, name: str, event: str) -> None:
        plain = getattr(owner, name)

        @wraps(plain)
        def told(*args: Any, **kwargs: Any) -> Any:
            return self.run(event, lambda: plain(*args, **kwargs))

        setattr(owner, name, told)

    def _wrap_path_call(self, name: str) -> None:
        plain = getattr(os, name)

        def told(first: Any, *rest: Any, **kwargs: Any) -> Any:
            path = first if name == "mkdir" else rest[0]
            if not self.below(path):
                return plain(first, *rest, **kwargs)
            event = f"{name} {kind(path)}"
            return self.run(event, lambda: plain(first, *rest, **kwargs), path=path)

        setattr(os, name, told)

    def _opener(self, plain: Callable) -> Callable:
        watch = self

        class File(io.FileIO):
            def write(self, content: Any) -> int:
                act = super().write
                half = memoryview(content).cast("B")[: len(content) // 2]
                return watch.run(
                    f"write {kind(self.name)}", lambda: act(content), lambda: act(half), self.name
                )

        def told(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Callable | None = None,
        ) -> Any:
            if opener or not set(mode) & set("wax+") or not watch.below(file):
                return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw_mode = mode.replace("b", "").replace("t", "")
            event = f"open {kind(file)}"
            raw = watch.run(event, lambda: File(os.fsdecode(file), raw_mode), path=file)
            if buffering == 0:
                return raw
            buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

        return told


def kind(path: object) -> str:
    """The name of what is written, less what differs from run to run."""
    name = re.sub(r"^\.tmp-(\d+-)?", "", os.path.basename(os.fsdecode(path)))
    name = re.sub(r"(events\.out).*", r"\1", name.replace(f"-{os.getpid()}", ""))
    return re.sub(r"[0-9a-f]{16,}|(?<=step-)\d+", "#", name)


def _find(dotted: str) -> Any:
    """A module, or a class in one."""
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return getattr(importlib.import_module(module), name)


# --- the process that forks -----------------------------------------------------------------------


def serve() -> None:
    """A request a line on stdin, the child's PID on stdout; its status in the file STATUS."""
    replies = os.dup(1)
    for module in IMPORTS:
        importlib.import_module(module)
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    assert threads == 1, f"{threads} threads run: a fork would hold one of them"
    os.write(replies, b"0\n")
    children: dict[int, str] = {}
    try:
        while True:
            while children:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
                if not pid:
                    break
                stopped = os.WIFSTOPPED(status)
                answer = "stopped" if stopped else os.waitstatus_to_exitcode(status)
                _write_whole(children[pid] if stopped else children.pop(pid), str(answer))
            if select.select([0], [], [], 0.003)[0]:
                line = _read_line()
                if not line:
                    return
                request = json.loads(line)
                pid = os.fork()
                if not pid:
                    os.close(replies)
                    # as in a terminal; what a shell starts behind itself ignores it
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    _child(request)
                children[pid] = request["status"]
                os.write(replies, f"{pid}\n".encode())
    finally:
        for pid in children:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _write_whole(path: str, text: str) -> None:
    with open(f"{path}.tmp", "w") as file:
        file.write(text)
    os.replace(f"{path}.tmp", path)


def _child(request: dict[str, Any]) -> None:
    """Runs the command line as a process of its own would, and ends; never returns."""
    code = 1
    try:
        os.setsid()
        for fd, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (2, request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ):
            os.dup2(os.open(path, flags, 0o644), fd)
        os.chdir(request["cwd"])
        os.environ.update(request["env"])
        sys.argv = ["segtrain", *request["argv"]]
        aims = [Aim(**aim) for aim in request["aims"]]
        watch = Watch(request["cwd"], request["trace"], aims)
        watch.install()
        if limit := request["file_size"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        from segtrain.cli.app import app

        try:
            watch.run(START, lambda: None)
            app(prog_name="segtrain")
            code = 0
        except SystemExit as error:
            code = error.code or 0
        watch.run(END, lambda: None)
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


# --- the end that asks ----------------------------------------------------------------------------


@dataclass
class Event:
    """What a child did, and for how long it had run by then."""

    name: str
    seconds: float


@dataclass
class Child:
    """A run of the command line, of which one can wait for the end, or a stop."""

    pid: int
    home: Path  # where its stdout, stderr, status and trace are
    zygote: Zygote
    code: int | None = field(default=None)

    def _status(self, timeout: float) -> str:
        end, status = time.monotonic() + timeout, self.home / "status"
        while not status.exists():
            if time.monotonic() > end or self.zygote.process.poll() is not None:
                self.send(signal.SIGKILL, group=True)
                raise TimeoutError(f"no end within {timeout} s; {self.phase()}\n{self.stderr}")
            time.sleep(0.003)
        text = status.read_text()
        status.unlink()
        return text

    def wait(self, timeout: float = 60) -> int:
        """The exit code; -N where signal N ended it."""
        if self.code is None:
            self.code = int(self._status(timeout))
        return self.code

    def wait_stopped(self, timeout: float = 60) -> None:
        """Until it has stopped itself, as an Aim with SIGSTOP asks."""
        status = self._status(timeout)
        assert status == "stopped", (status, self.stderr)

    def send(self, signum: int, group: bool = False) -> None:
        """To it, or to it and its loader workers; to nobody where it has ended."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signum)

    @property
    def stdout(self) -> str:
        return (self.home / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.home / "stderr").read_text(errors="replace")

    @property
    def error(self) -> str:
        """The one line that a failed command prints; asserts that it is one, without traceback."""
        assert "Traceback" not in self.stdout + self.stderr, self.stderr
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, (self.stdout, self.stderr)
        return lines[0]

    def count(self, event: str) -> int:
        return sum(e.name == event for e in self.events())

    def events(self) -> list[Event]:
        """What it entered, in order."""
        told = [line.split(" ", 2) for line in (self.home / "trace").read_text().splitlines()]
        start = float(told[0][0]) if told else 0
        return [Event(name, float(at) - start) for at, mark, name in told if mark == ">"]

    def phase(self) -> str:
        """What it was doing when it was last heard of."""
        path = self.home / "trace"
        lines = path.read_text().splitlines() if path.exists() else []
        told = [line.split(" ", 2) for line in lines]
        if not told:
            return "before the command line"
        inner: list[str] = []
        for _, mark, name in told:
            if mark == ">":
                inner.append(name)
            else:
                inner.remove(name)  # TensorBoard's thread ends out of turn
        return inner[-1] if inner else f"after {told[-1][2]}"

    def workers(self) -> list[int]:
        """PIDs of its children."""
        return [pid for pid, (parent, _) in processes().items() if parent == self.pid]

    def left(self) -> list[int]:
        """PIDs of what lives of its group, itself and its workers."""
        return [pid for pid, (_, group) in processes().items() if group == self.pid]


def processes() -> dict[int, tuple[int, int]]:
    """PID: its parent and its group, of all that live; by Linux's /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
            if state not in "ZX":
                found[int(path.parent.name)] = int(parent), int(group)
    return found


class Zygote:
    """The process that forks; one for each process of the tests."""

    def __init__(self, home: Path):
        self.home, self.count = home, 0
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.log = open(home / "zygote.log", "w")
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            start_new_session=True,  # the terminal's Ctrl-C is not for it
        )
        self._pid()

    def _pid(self) -> int:
        line = self.process.stdout.readline()
        assert line, (self.home / "zygote.log").read_text()
        return int(line)

    def start(
        self,
        *argv: object,
        cwd: Path,
        aims: list[Aim] = [],
        env: dict[str, str] = {},
        file_size: int = 0,
    ) -> Child:
        """Runs `segtrain ARGV` in the folder cwd; no file may have more bytes than file_size."""
        self.count += 1
        home = self.home / f"{self.count:04d}"
        home.mkdir()
        request = {
            "argv": [str(arg) for arg in argv],
            "cwd": str(cwd),
            "env": env,
            "aims": [vars(aim) for aim in aims],
            "file_size": file_size,
        } | {name: str(home / name) for name in ("stdout", "stderr", "status", "trace")}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        return Child(self._pid(), home, self)

    def run(self, *argv: object, **how: Any) -> Child:
        """The same, to its end."""
        child = self.start(*argv, **how)
        child.wait()
        return child

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)
        self.log.close()


if __name__ == "__main__":
    serve()
    os._exit(0)  # Python's own end takes seconds with all that is imported
