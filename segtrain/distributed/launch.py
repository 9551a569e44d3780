"""Ranks of a run: start them, monitor them, name one that dies, leave none behind."""

from __future__ import annotations

import atexit
import faulthandler
import os
import re
import shlex
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
from segtrain.config.types import parse_duration
from segtrain.console import write_unbuffered
from segtrain.distributed.processes import (
    GATHERING,
    PARENT,
    count_restarts,
    describe_exit,
    read_stat,
)
from segtrain.errors import SegtrainError, Stopped, first_line
from segtrain.private import set_collective_timeout

POLL_SECONDS = 0.5  # between two looks at the other processes
GRACE_SECONDS = 20  # for the main thread to end by itself once a process is lost
RANK_0_FIRST_SECONDS = 2  # before another rank reports an error: rank 0 may report the same
RANK_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
# gloo raises bare RuntimeErrors, one of them without its name; NCCL and the store, DistError
TIMED_OUT = re.compile(r"timed out|timeout", re.I)
DISCONNECTED = re.compile(r"connection (closed|reset) by peer|broken pipe", re.I)
CLOSED = "Application timeout caused pair closure"  # a second collective after one that timed out


@contextmanager
def launch_ranks(fabric: Fabric, train: TrainConfig, config: Path | None) -> Iterator[RankMonitor]:
    """Run the block in every rank once all have started; end it in each when one is lost.

    On one host rank 0 starts the others, with the run's config file; torchrun and SLURM start
    theirs. Raise SegtrainError that names the rank that died or froze, as far as this one knows.
    At the end no process that rank 0 started is left.
    """
    rank_monitor = RankMonitor(fabric, train, config)
    rank, before = fabric.global_rank, {key: os.environ.get(key) for key in RANK_VARIABLES}
    try:
        rank_monitor.start()
        if count_restarts() and fabric.world_size > 1:
            rejoin_ranks(fabric)
        fabric.launch()
        if fabric.world_size > 1:
            # the long wait was for rank 0 to read the data set; now all answer quickly
            limit = parse_duration(train.timeout)
            limit += 2 * GRACE_SECONDS if fabric.device.type == "cuda" else 0
            set_collective_timeout(timedelta(seconds=limit))
        yield rank_monitor
    except Stopped as stop:
        if rank:  # all stop at the same step; rank 0 reports it, before a launcher ends all
            time.sleep(RANK_0_FIRST_SECONDS)
            sys.exit(stop.exit_code)
        raise
    except SegtrainError:
        if rank:
            time.sleep(RANK_0_FIRST_SECONDS)
        if fabric.world_size > 1:
            limit_exit_time()
        raise
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        limit_exit_time()
        raise SegtrainError(rank_monitor.explain(error)) from error
    else:
        rank_monitor.wait()
    finally:
        rank_monitor.end()
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})


class RankMonitor:
    """Monitor of the other ranks: rank 0 monitors those that it started, and they monitor it."""

    def __init__(self, fabric: Fabric, train: TrainConfig, config: Path | None):
        self.fabric, self.timeout, self.config = fabric, train.timeout, config
        self.children: list[subprocess.Popen] = []
        self.lost = ""  # the rank that was lost, and how
        self.over = threading.Event()

    def start(self) -> None:
        """Start the other ranks of a single host, unless a launcher did, and monitor them."""
        world = self.fabric.world_size
        if world == 1:
            return
        ddp = self.fabric.strategy
        assert isinstance(ddp, DDPStrategy)  # of several processes, as make_fabric chose it
        environment = ddp.cluster_environment
        if environment is not None and environment.creates_processes_externally:
            return
        with socket.socket() as free:  # port 0: the system chooses one that is free
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # as torchrun sets them: then Fabric takes the processes as started
        values = ("127.0.0.1", str(port), "0", "0", str(world))
        os.environ.update(zip(RANK_VARIABLES, values, strict=True))
        command = [sys.executable, "-m", "segtrain", "fit", "--config", str(self.config)]
        for rank in range(1, world):
            variables = {"LOCAL_RANK": str(rank), PARENT: str(os.getpid())}
            self.children.append(
                subprocess.Popen(command, env=os.environ | variables, stdin=subprocess.DEVNULL)
            )
        threading.Thread(target=self._poll_children, daemon=True, name="ranks").start()

    def check(self) -> None:
        """Raise SegtrainError once a process is lost. It makes no system call: call it often."""
        if self.lost:
            raise SegtrainError(self._add_advice(self.lost))

    def explain(self, error: RuntimeError) -> str:
        """Return the cause of a failed collective, and advice."""
        end = time.monotonic() + 5  # a process that closed its connection is about to end
        while not (cause := self.lost or self._find_ended() or self._find_frozen()):
            if not self.children or time.monotonic() > end:
                break
            time.sleep(POLL_SECONDS / 5)
        if self.fabric.global_rank:  # rank 0 may know more, and ends those that it started
            wait_longer = PARENT in os.environ and not cause
            time.sleep(GRACE_SECONDS if wait_longer else RANK_0_FIRST_SECONDS)
        return self._add_advice(cause or self._find_frozen("D") or self._explain_by_text(error))

    def _explain_by_text(self, error: RuntimeError) -> str:
        if not dist.is_initialized():
            return f"the processes could not connect: {first_line(error)}"
        if TIMED_OUT.search(str(error)):
            return f"another process did not answer within {self.timeout} (train.timeout)"
        if address := re.search(r"\[([\d.]+|[\da-f:]+)\]:\d+", str(error)):
            return f"another process, on {address[1]}, ended; see its own output"
        return f"the connection between processes failed: {first_line(error)}"

    def _add_advice(self, cause: str) -> str:
        run = f" {shlex.quote(str(self.config.parent))}" if self.config else ""
        return f"{cause}; the last checkpoint is intact; continue with: segtrain fit --resume{run}"

    def _find_ended(self, include_stops: bool = True) -> str:
        """Return a child that failed, and how, or ''; `include_stops`: also one that a signal
        stopped in good order."""
        for rank, child in enumerate(self.children, 1):  # rank 0 is this process
            code = child.poll()
            if code and (include_stops or code < 128):
                return f"{self._name_rank(rank, child.pid)} {describe_exit(code)}"
        return ""

    def _find_frozen(self, states: str = "Tt") -> str:
        """Return another rank of this host that is in one of the system's states, or ''."""
        others = {rank: child.pid for rank, child in enumerate(self.children, 1)}
        if PARENT in os.environ and self.fabric.global_rank:  # the parent of rank 0 is a sweep
            others[0] = int(os.environ[PARENT])
        for rank, pid in others.items():
            if (read_stat(pid) or " ")[0] in states:
                why = "waits for a disk or a device" if states == "D" else "is stopped"
                who = f"{self._name_rank(rank, pid)} {why} (state {states[0]})"
                return f"{who} and did not answer within {self.timeout} (train.timeout)"
        return ""

    def _name_rank(self, rank: int, pid: int) -> str:
        return f"process {rank} of {self.fabric.world_size} (PID {pid})"

    def _poll_children(self) -> None:
        """Run in a thread: the main thread may hang in a collective that never ends."""
        frozen_since = lost_since = 0.0
        while not self.over.wait(POLL_SECONDS):
            now, running = time.monotonic(), dist.is_initialized()
            frozen = self._find_frozen()
            frozen_since = (frozen_since or now) if frozen else 0.0
            limit = parse_duration(self.timeout) + POLL_SECONDS
            if frozen_since and now - frozen_since > limit and running:
                self.lost = self.lost or frozen
            # in training all ranks stop together, and rank 0 may be the last
            self.lost = self.lost or self._find_ended(include_stops=not running)
            lost_since = lost_since or (now if self.lost else 0.0)
            # while ranks gather there is nothing to save, and no way to wake the main thread
            if lost_since and now - lost_since > (GRACE_SECONDS if running else POLL_SECONDS):
                # sys.exit would end this thread only
                write_unbuffered(f"error: {self._add_advice(self.lost)}")
                self.end()
                os._exit(1)

    def wait(self) -> None:
        """Wait for the children after the last collective: they have little left to do."""
        end = time.monotonic() + GRACE_SECONDS
        for child in self.children:
            try:
                child.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass  # end() kills it: the run is complete
        if dist.is_initialized():
            dist.destroy_process_group()

    def end(self) -> None:
        """Kill every child. They take SIGTERM as a request to stop together, hence SIGKILL."""
        self.over.set()
        for child in self.children:
            child.kill()
            child.wait()


def is_lost_peer(error: RuntimeError) -> bool:
    """Return whether torch reports by this error that another process ended or doesn't answer."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    lost = DISCONNECTED.search(text) or TIMED_OUT.search(text)
    return CLOSED in text or "gloo" in text and bool(lost)


def limit_exit_time() -> None:
    """End Python within GRACE_SECONDS of its exit, where backends may wait for a dead process."""
    nowhere = open(os.devnull, "wb")
    atexit.register(faulthandler.dump_traceback_later, GRACE_SECONDS, exit=True, file=nowhere)


def rejoin_ranks(fabric: Fabric) -> None:
    """Join the ranks after a restart by torchrun; Fabric keeps a process group that exists.

    torchrun's store still holds the addresses of the dead ranks, and the first rank to join would
    take them, hence the prefix.
    """
    limit = timedelta(seconds=GATHERING)
    store, rank, world = next(dist.rendezvous("env://", timeout=limit))
    dist.init_process_group(
        "nccl" if fabric.device.type == "cuda" else "gloo",
        store=dist.PrefixStore(f"restart{count_restarts()}", store),
        rank=rank,
        world_size=world,
        timeout=limit,
    )
