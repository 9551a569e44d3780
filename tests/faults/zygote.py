"""Fork real processes of segtrain, without the imports, and break something in them on purpose.

Purpose. A test of a fault (a kill, a signal, a full disk) needs a process of its own that
may die. To start Python and import torch and segtrain takes 5 s; a fork of a process that has
done so takes milliseconds. Hence the *zygote*, a fork server: a process that imports everything
once, never runs anything itself, and forks a child for each run that a test asks for.

How it works, step by step:

1. `Zygote(home)`, in the test process, starts this file as a script. The script imports `IMPORTS`,
   checks that it has one thread (a fork copies no others), and waits on its stdin.
2. `Zygote.start("fit", ..., cwd=folder)` writes one request, a line of JSON, to that stdin, and
   reads the PID of the new child from the script's stdout. It returns a `Child`.
3. The child opens a session of its own, so that it can be signalled as a group, sends its output
   to files, moves to `cwd`, runs `code` if the request has some, and installs an `EventTracer`.
   Then it runs the command line in the same way as `segtrain ARGV`.
4. The tracer wraps `FUNCTIONS` and all calls that write a file below `cwd` (`WRITES`). Each call
   is an *event* with a name: "forward", "validate", "write config.yaml", "replace
   last.state.pt". The child appends a line to its *trace* when an event begins ("> forward") and
   when it ends ("< forward"). The trace is a file, so it outlives a kill.
5. If an event matches an *aim* of the request, the tracer carries it out: it sends the
   process a signal, or lets the write fail. An `Aim` names the event, which occurrence of it (the
   n-th), and the moment: BEFORE it, AFTER it, or HALF way through the bytes of a write.
6. The zygote waits for its children and writes how each ended to its *status* file: the exit code,
   or "stopped". `Child.wait` and `Child.wait_stopped` poll for that file.

Several ranks. Rank 0 of `fit --devices N` starts the others by subprocess.Popen. With `devices=N`
the child forks N - 1 spare processes before the command line begins, and a Popen of segtrain then
turns one of them into the rank: a child of rank 0, as in any run, but without the imports. Only
rank 0 has a tracer and aims.

How to test a new fault:

    def test_a_kill_before_the_second_validation(zygote, straight, tmp_path):
        aim = Aim("validate", 2, signal=signal.SIGKILL)
        child = straight.fit(zygote, tmp_path, aims=[aim])  # runs.py: the run of these tests
        assert child.wait() == -signal.SIGKILL
        straight.finish(zygote, tmp_path)  # it resumes, and equals the run without a fault

`child.events()` lists what a run did; take the name of the event from there. A function that is
no event yet becomes one by a row of `FUNCTIONS`. To act from outside at a known moment, aim SIGSTOP
at it, `wait_stopped()`, act (fill the disk, kill a worker), and `send(signal.SIGCONT)`. To break
something else, pass Python as `code`; it can replace a function of segtrain, or end the process.

By hand, to see the events of a run:

    python tests/faults/zygote.py fit --data SET --workers 0
"""

from __future__ import annotations

import atexit
import builtins
import gc
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
import tempfile
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
    ("segtrain.training.module.TrainingModule", "forward", "forward"),
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
    """The event at which a child breaks, and how: a signal to itself, or a write that fails."""

    event: str  # "*" is anything that is written
    nth: int = 1
    when: str = BEFORE  # or AFTER; HALF of a write's bytes are written first
    signal: int = 0
    errno: int = 0  # the error of a write that fails
    lasting: bool = True  # all later writes fail, too


class EventTracer:
    """Trace the events of this process, not of its children, and act at the aims."""

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

    def write_line(self, line: str) -> None:
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
        """Call act() as the event; a write has a path, and `half` writes half of it."""
        self.write_line(f"> {event}")
        try:
            return self._aimed(event, act, half, path)
        finally:
            self.write_line(f"< {event}")

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
        def traced(*args: Any, **kwargs: Any) -> Any:
            return self.run(event, lambda: plain(*args, **kwargs))

        setattr(owner, name, traced)

    def _wrap_path_call(self, name: str) -> None:
        plain = getattr(os, name)

        def traced(first: Any, *rest: Any, **kwargs: Any) -> Any:
            path = first if name == "mkdir" else rest[0]
            if not self.below(path):
                return plain(first, *rest, **kwargs)
            event = f"{name} {kind(path)}"
            return self.run(event, lambda: plain(first, *rest, **kwargs), path=path)

        setattr(os, name, traced)

    def _opener(self, plain: Callable) -> Callable:
        tracer = self

        class File(io.FileIO):
            def write(self, content: Any) -> int:
                act = super().write
                half = memoryview(content).cast("B")[: len(content) // 2]
                return tracer.run(
                    f"write {kind(self.name)}", lambda: act(content), lambda: act(half), self.name
                )

        def traced(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Callable | None = None,
        ) -> Any:
            if opener or not set(mode) & set("wax+") or not tracer.below(file):
                return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw_mode = mode.replace("b", "").replace("t", "")
            event = f"open {kind(file)}"
            raw = tracer.run(event, lambda: File(os.fsdecode(file), raw_mode), path=file)
            if buffering == 0:
                return raw
            buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

        return traced


def kind(path: object) -> str:
    """Return the name of a written file without the parts that differ from run to run."""
    name = re.sub(r"^\.tmp-(\d+-)?", "", os.path.basename(os.fsdecode(path)))
    name = re.sub(r"(events\.out).*", r"\1", name.replace(f"-{os.getpid()}", ""))
    return re.sub(r"[0-9a-f]{16,}|(?<=step-)\d+", "#", name)


def _find(dotted: str) -> Any:
    """A module, or a class in one, by its dotted name."""
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return getattr(importlib.import_module(module), name)


# --- the process that forks -----------------------------------------------------------------------


def serve() -> None:
    """Fork a child for each line of stdin, and answer with its PID, until stdin ends."""
    replies = os.dup(1)
    for module in IMPORTS:
        importlib.import_module(module)
    _prepare("")
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
                if "prepare" in request:
                    _prepare(request["prepare"])
                    os.write(replies, b"0\n")
                    continue
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


def _prepare(code: str) -> None:
    """Run Python, and see to it that this process can be forked."""
    exec(code, {})
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    assert threads == 1, f"{threads} threads run: a fork would hold one of them"
    gc.freeze()  # no child needs to visit what is there


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
    """Run the command line as a process of its own would, and end; never return."""
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
        tracer = None
        try:
            exec(request["code"], {})
            if not Rank.fork(request["devices"] - 1):
                aims = [Aim(**aim) for aim in request["aims"]]
                tracer = EventTracer(request["cwd"], request["trace"], aims)
                tracer.install()
                tracer.run(START, lambda: None)
            if limit := request["file_size"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            from segtrain.cli.app import app

            app(prog_name="segtrain")
            code = 0
        except SystemExit as error:
            code = error.code or 0
        if tracer:
            tracer.run(END, lambda: None)
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


class Rank(subprocess.Popen):
    """`python -m segtrain ARGV`, as a spare process that was forked before: see _execute_child."""

    spares: list[tuple[int, int]] = []  # PID, and the pipe that it reads its orders from

    @classmethod
    def fork(cls, count: int) -> bool:
        """Fork spares, and have subprocess use them; True in a spare, once it has its orders."""
        for _ in range(count):
            orders, pipe = os.pipe()
            pid = os.fork()
            if pid:
                os.close(orders)
                cls.spares.append((pid, pipe))
                continue
            for other in (pipe, *(pipe for _, pipe in cls.spares)):
                os.close(other)
            with open(orders) as file:
                text = file.read()
            if not text:  # rank 0 ended before it started this one
                os._exit(0)
            argv, environment = json.loads(text)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = ["segtrain", *argv]
            return True
        subprocess.Popen = cls
        return False

    def _execute_child(self, args: list[str], *rest: Any) -> None:
        """Give a spare its orders, where subprocess would fork and run a program."""
        if not self.spares or args[1:3] != ["-m", "segtrain"]:
            return super()._execute_child(args, *rest)
        self.pid, pipe = self.spares.pop(0)
        self._child_created = True
        environment = rest[5]
        with open(pipe, "w") as file:
            json.dump((args[3:], dict(environment)), file)


# --- the end of the tests -------------------------------------------------------------------------


@dataclass
class Event:
    """An event of a child, and how long it had run by then."""

    name: str
    seconds: float


@dataclass
class Child:
    """A run of the command line in a process that the zygote has forked."""

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
        """Return the exit code; -N where signal N ended it."""
        if self.code is None:
            self.code = int(self._status(timeout))
        return self.code

    def wait_stopped(self, timeout: float = 60) -> None:
        """Wait until it has stopped itself, as an Aim with SIGSTOP asks."""
        status = self._status(timeout)
        assert status == "stopped", (status, self.stderr)

    def send(self, signum: int, group: bool = False) -> None:
        """Signal it, or its group: it, its loader workers and its ranks. It may have ended."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signum)

    def wait_for_output(self, text: str, timeout: float = 60) -> None:
        """Wait until it has printed the text."""
        end = time.monotonic() + timeout
        while text not in self.stdout:
            if time.monotonic() > end or (self.home / "status").exists():
                self.send(signal.SIGKILL, group=True)
                raise TimeoutError(f"never printed {text!r}; {self.phase()}\n{self.stderr}")
            time.sleep(0.003)

    @property
    def stdout(self) -> str:
        return self._read("stdout")

    @property
    def stderr(self) -> str:
        return self._read("stderr")

    def _read(self, name: str) -> str:
        path = self.home / name
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def error(self) -> str:
        """The one line that a failed command prints; assert that there is one."""
        assert len(self.errors) == 1, (self.stdout, self.stderr)
        return self.errors[0]

    @property
    def errors(self) -> list[str]:
        """Its error lines; assert that it has printed no traceback."""
        assert "Traceback" not in self.stdout + self.stderr, self.stderr
        return [line for line in self.stderr.splitlines() if line.startswith("error: ")]

    def count(self, event: str) -> int:
        return sum(e.name == event for e in self.events())

    def events(self) -> list[Event]:
        """Its events, in the order in which they began."""
        lines = [line.split(" ", 2) for line in (self.home / "trace").read_text().splitlines()]
        start = float(lines[0][0]) if lines else 0
        return [Event(name, float(at) - start) for at, mark, name in lines if mark == ">"]

    def phase(self) -> str:
        """Return what it was doing at the end of its trace."""
        path = self.home / "trace"
        text = path.read_text() if path.exists() else ""
        lines = [line.split(" ", 2) for line in text.splitlines()]
        if not lines:
            return "before the command line"
        inner: list[str] = []
        for _, mark, name in lines:
            if mark == ">":
                inner.append(name)
            else:
                inner.remove(name)  # TensorBoard's thread ends out of turn
        return inner[-1] if inner else f"after {lines[-1][2]}"

    def workers(self) -> list[int]:
        """PIDs of its children: loader workers, or the ranks that it started."""
        found = [pid for pid, (parent, _) in processes().items() if parent == self.pid]
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in found}
        return [pid for pid in found if b"resource_tracker" not in commands[pid]]  # of spawned ones

    def left(self) -> list[int]:
        """PIDs of the live processes of its group."""
        return [pid for pid, (_, group) in processes().items() if group == self.pid]


def processes() -> dict[int, tuple[int, int]]:
    """Return parent and group by PID of all live processes, from Linux's /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
            if state not in "ZX":
                found[int(path.parent.name)] = int(parent), int(group)
    return found


class Zygote:
    """The fork server for a test; each process of the tests has one."""

    def __init__(self, home: Path):
        self.home, self.count = home, 0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
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

    def prepare(self, code: str) -> None:
        """Run Python in the process that forks: what it keeps, later children have."""
        self.process.stdin.write(json.dumps({"prepare": code}).encode() + b"\n")
        self.process.stdin.flush()
        self._pid()

    def start(
        self,
        *argv: object,
        cwd: Path,
        aims: list[Aim] = [],
        env: dict[str, str] = {},
        file_size: int = 0,
        devices: int = 1,
        code: str = "",
    ) -> Child:
        """Run `segtrain ARGV` in the folder cwd, in a child.

        No file may have more bytes than `file_size`, if that is given. `devices` is how many ranks
        the run has on this host. `code` is Python that each of them runs first.
        """
        self.count += 1
        home = self.home / f"{self.count:04d}"
        home.mkdir()
        request = {
            "argv": [str(arg) for arg in argv],
            "cwd": str(cwd),
            "env": env,
            "aims": [vars(aim) for aim in aims],
            "file_size": file_size,
            "devices": devices,
            "code": code,
        } | {name: str(home / name) for name in ("stdout", "stderr", "status", "trace")}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        return Child(self._pid(), home, self)

    def run(self, *argv: object, **how: Any) -> Child:
        """Start it, and wait for its end."""
        child = self.start(*argv, **how)
        child.wait()
        return child

    def close(self) -> None:
        self.process.communicate(timeout=10)
        self.log.close()


def show(argv: list[str]) -> None:
    """Run the command line as a child, and print what it did and how it ended."""
    with tempfile.TemporaryDirectory() as home:
        zygote = Zygote(Path(home))
        child = zygote.run(*argv, cwd=Path.cwd())
        for event in child.events():
            print(f"{event.seconds:8.3f} s  {event.name}")
        print(f"{child.stdout}{child.stderr}exit code {child.code}")
        zygote.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        show(sys.argv[1:])
    else:
        serve()
    os._exit(0)  # Python's own end takes seconds with all that is imported
