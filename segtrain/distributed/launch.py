"""The ranks of a run: started, watched, named when one dies, never left behind."""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from segtrain.config import TrainConfig
from segtrain.config.types import seconds
from segtrain.distributed.processes import GATHERING, PARENT, stat_of
from segtrain.errors import SegtrainError, Stopped, first_line

POLL = 0.5  # seconds between two looks at the other processes
GRACE = 20  # seconds for the main thread to end by itself once a process is lost
HUSH = 2  # seconds that another rank waits before it speaks: rank 0 may say the same
PLACE = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
# gloo raises bare RuntimeErrors, one of them without its name; NCCL and the store, DistError
NO_ANSWER = re.compile(r"timed out|timeout", re.I)
GONE = re.compile(r"connection (closed|reset) by peer|broken pipe", re.I)
CLOSED = "Application timeout caused pair closure"  # a second collective after one that timed out


@contextmanager
def started(fabric: Fabric, train: TrainConfig, config: Path | None) -> Iterator[RankMonitor]:
    """The block runs once every rank of the run is there, and ends in each when one is lost.

    On one host rank 0 starts the others, with the run's config file; torchrun and SLURM start
    theirs. Raises SegtrainError that names the rank that died or froze, as far as this one knows.
    At the end none of those that rank 0 started is left.
    """
    rank_monitor = RankMonitor(fabric, train, config)
    rank, before = fabric.global_rank, {key: os.environ.get(key) for key in PLACE}
    try:
        rank_monitor.start()
        if restarts() and fabric.world_size > 1:
            gather_again(fabric)
        fabric.launch()
        if fabric.world_size > 1:
            # rank 0 had a data set to read; from here on all are quick to answer
            limit = seconds(train.timeout)
            set_timeout(limit + 2 * GRACE if fabric.device.type == "cuda" else limit)
        yield rank_monitor
    except Stopped as stop:
        if rank:  # all stop at the same step; rank 0 says it, before a launcher ends all
            time.sleep(HUSH)
            sys.exit(stop.exit_code)
        raise
    except SegtrainError:
        if rank:
            time.sleep(HUSH)
        if fabric.world_size > 1:
            bound_the_exit()
        raise
    except RuntimeError as error:
        if not lost_touch(error):
            raise
        bound_the_exit()
        raise SegtrainError(rank_monitor.explain(error)) from error
    else:
        rank_monitor.wait()
    finally:
        rank_monitor.end()
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})


class RankMonitor:
    """One rank's eye on the others: rank 0's on those that it started, and theirs on it."""

    def __init__(self, fabric: Fabric, train: TrainConfig, config: Path | None):
        self.fabric, self.timeout, self.config = fabric, train.timeout, config
        self.children: list[subprocess.Popen] = []
        self.lost = ""  # who, and how
        self.over = threading.Event()

    def start(self) -> None:
        """Starts the other ranks of a single host where nobody else did, and the watch."""
        world = self.fabric.world_size
        if world == 1:
            return
        ddp = self.fabric.strategy
        assert isinstance(ddp, DDPStrategy) and ddp.cluster_environment is not None
        if ddp.cluster_environment.creates_processes_externally:
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # as torchrun would have set them: Fabric sees processes that it need not start
        os.environ.update(zip(PLACE, ("127.0.0.1", str(port), "0", "0", str(world)), strict=True))
        command = [sys.executable, "-m", "segtrain", "fit", "--config", str(self.config)]
        for rank in range(1, world):
            place = {"LOCAL_RANK": str(rank), PARENT: str(os.getpid())}
            self.children.append(
                subprocess.Popen(command, env=os.environ | place, stdin=subprocess.DEVNULL)
            )
        threading.Thread(target=self._look, daemon=True, name="ranks").start()

    def check(self) -> None:
        """Raises SegtrainError once a process is lost; asks nobody, so call it often."""
        if self.lost:
            raise SegtrainError(self.advise(self.lost))

    def explain(self, error: RuntimeError) -> str:
        """What was behind a collective that failed."""
        end = time.monotonic() + 5  # a process that closed its connection is about to end
        while not (said := self.lost or self.ended() or self.frozen()):
            if not self.children or time.monotonic() > end:
                break
            time.sleep(POLL / 5)
        if self.fabric.global_rank:  # rank 0 may know more, and ends those that it started
            time.sleep(GRACE if PARENT in os.environ and not said else HUSH)
        return self.advise(said or self.frozen("D") or self._from(error))

    def _from(self, error: RuntimeError) -> str:
        if not dist.is_initialized():
            return f"the processes did not come together: {first_line(error)}"
        if NO_ANSWER.search(str(error)):
            return f"another process did not answer within {self.timeout} (train.timeout)"
        if address := re.search(r"\[([\d.]+|[\da-f:]+)\]:\d+", str(error)):
            return f"another process, on {address[1]}, ended; its own output says why"
        return f"the processes lost touch: {first_line(error)}"

    def advise(self, said: str) -> str:
        run = f" {shlex.quote(str(self.config.parent))}" if self.config else ""
        return f"{said}; the last checkpoint is intact; go on with: segtrain fit --resume{run}"

    def ended(self, stops: bool = True) -> str:
        """Which child ended badly, and how; '' for none. `stops`: on a signal's wish, too."""
        for rank, child in enumerate(self.children, 1):
            code = child.poll()
            if code and (stops or code < 128):
                return f"{self._name(rank, child.pid)} {how(code)}"
        return ""

    def frozen(self, states: str = "Tt") -> str:
        """Which other rank of this host the system has in one of these states; '' for none."""
        others = {rank: child.pid for rank, child in enumerate(self.children, 1)}
        if PARENT in os.environ and self.fabric.global_rank:  # rank 0's may be a sweep
            others[0] = int(os.environ[PARENT])
        for rank, pid in others.items():
            if (stat_of(pid) or " ")[0] in states:
                why = "waits for a disk or a device" if states == "D" else "is stopped"
                who = f"{self._name(rank, pid)} {why} (state {states[0]})"
                return f"{who} and did not answer within {self.timeout} (train.timeout)"
        return ""

    def _name(self, rank: int, pid: int) -> str:
        return f"process {rank} of {self.fabric.world_size} (PID {pid})"

    def _look(self) -> None:
        """Runs beside the main thread, which may hang in a collective that never ends."""
        frozen = lost = 0.0  # since when
        while not self.over.wait(POLL):
            now, running = time.monotonic(), dist.is_initialized()
            stopped = self.frozen()
            frozen = (frozen or now) if stopped else 0.0
            if frozen and now - frozen > seconds(self.timeout) + POLL and running:
                self.lost = self.lost or stopped
            # once it runs, all stop together, and rank 0 may be the last
            self.lost = self.lost or self.ended(stops=not running)
            lost = lost or (now if self.lost else 0.0)
            # while ranks gather there is nothing to save, and no way to wake the main thread
            if lost and now - lost > (GRACE if running else POLL):
                os.write(2, f"error: {self.advise(self.lost)}\n".encode())
                self.end()
                os._exit(1)

    def wait(self) -> None:
        """After the last collective: the others have little left to do."""
        end = time.monotonic() + GRACE
        for child in self.children:
            try:
                child.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass  # ended by force, then: the run is complete
        if dist.is_initialized():
            dist.destroy_process_group()

    def end(self) -> None:
        """No child outlives this; they note SIGTERM as a wish to stop together, hence SIGKILL."""
        self.over.set()
        for child in self.children:
            child.kill()
            child.wait()


def how(code: int) -> str:
    """How a process ended that had an exit code other than 0, as subprocess gives it."""
    if code < 0:
        memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return f"was killed ({_signal(-code)}{memory})"
    if code > 128:
        return f"was stopped ({_signal(code - 128)})"
    return f"ended with exit code {code}: its error stands above"


def _signal(number: int) -> str:
    known = {sign.value: sign.name for sign in signal.Signals}
    return known.get(number, f"signal {number}")


def lost_touch(error: RuntimeError) -> bool:
    """Whether this is how torch says that another process is gone or doesn't answer."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return CLOSED in text or "gloo" in text and bool(GONE.search(text) or NO_ANSWER.search(text))


def bound_the_exit() -> None:
    """Ends Python within GRACE: as it ends, backends close their connections, to the dead too."""
    nowhere = open(os.devnull, "w")
    atexit.register(faulthandler.dump_traceback_later, GRACE, exit=True, file=nowhere)


def set_timeout(limit: float) -> None:
    """How many seconds a collective may last from now on."""
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(timedelta(seconds=limit))
    else:  # torch before it had a public name
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=limit))


def restarts() -> int:
    """How often torchrun has started the ranks again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def gather_again(fabric: Fabric) -> None:
    """Joins the ranks, as Fabric does unless they are joined.

    torchrun's store still has the dead ranks' addresses, which whoever comes first would take.
    """
    limit = timedelta(seconds=GATHERING)
    store, rank, world = next(dist.rendezvous("env://", timeout=limit))
    dist.init_process_group(
        "nccl" if fabric.device.type == "cuda" else "gloo",
        store=dist.PrefixStore(f"restart{restarts()}", store),
        rank=rank,
        world_size=world,
        timeout=limit,
    )


def launcher() -> str:
    """Which process started this one: its PID, and its start in ticks since the system's."""
    return " ".join([str(os.getppid()), *stat_of(os.getppid())[19:20]])


def restarted(file: Path) -> bool:
    """Whether torchrun started this rank again after it had made the run of that environment.json.

    So a run is gone on with only where it is one of this job's.
    """
    if not restarts() or not file.is_file():
        return False
    starts = json.loads(file.read_text(encoding="utf-8"))
    return (starts.get("resumed") or [starts])[-1]["launcher"] == launcher()
