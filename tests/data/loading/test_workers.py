"""Loader processes that die or get signals: one error within seconds, and never a hang."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import crops
import pytest
from conftest import QUICK, write_pairs
from running import ENVIRONMENT, Running, alive, children, wait_for

from segtrain.data.images import ImageReader
from segtrain.data.loading.dataset import Pairs, read_batches, train_loader
from segtrain.data.loading.sampling import Draw
from segtrain.data.loading.workers import CONTEXT, FORKS
from segtrain.data.masks import MaskReader
from segtrain.data.sample import Sample

# a loader of six pairs, over and over; argv: folder, workers, then any of pinned, train
LOADER = f"""
import sys
sys.path.append({str(Path(crops.__file__).parent)!r})
from itertools import cycle, islice
from pathlib import Path
import crops
from segtrain.data.loading.dataset import Pairs, read_batches, make_image_loader, train_loader
from segtrain.data.sample import Sample
from segtrain.data.images import ImageReader
from segtrain.data.masks import MaskReader
from segtrain.data.loading.sampling import Draw
from segtrain.errors import SegtrainError

folder, workers, *how = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
samples = [Sample(i, folder / "masks" / i.name) for i in sorted((folder / "images").iterdir())]
augmentation = crops.unchanged if "train" in how else None
pairs = Pairs(samples * 100, ImageReader(), MaskReader(3), augmentation)
if augmentation:
    draws = [[Draw(0, 2 * step), Draw(0, 2 * step + 1)] for step in range(300)]
    loader = train_loader(pairs, draws, workers, "pinned" in how)
else:
    loader = make_image_loader(pairs, range(len(pairs)), workers, "pinned" in how)
"""
LOOP = (
    LOADER
    + """
try:
    while True:
        for seen, batch in enumerate(read_batches(loader)):
            if seen == 20:
                print("going", flush=True)
except SegtrainError as error:
    print(f"error: {error}", flush=True)
    sys.exit(1)
"""
)


def test_a_wrong_start_method_is_a_line(pairs: Path, tmp_path: Path):
    command = "-m", "segtrain", "fit", "--data", pairs, *QUICK, "--name", "r"
    with Running(tmp_path, *command, SEGTRAIN_START_METHOD="forkserver") as run:
        assert run.wait() == 2
    line = "error: SEGTRAIN_START_METHOD=forkserver: expected fork or spawn"
    assert run.errors == [line] and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGBUS])
@pytest.mark.parametrize("how", [(), ("train", "pinned")], ids=["evaluation", "training"])
def test_a_killed_worker_ends_the_run_in_one_sentence(pairs: Path, tmp_path: Path, sent, how):
    with Running(tmp_path, "-c", LOOP, pairs, 2, *how) as run:
        wait_for(lambda: run.has_printed("going"))
        workers = wait_for(lambda: children(run.process.pid))
        os.kill(workers[0], sent)
        assert run.wait() == 1
        (error,) = re.findall("^error: .*", run.out.read_text(), re.MULTILINE)
        if sent == signal.SIGBUS:
            assert "killed (SIGBUS)" in error and "/dev/shm" in error and "--shm-size" in error
        else:
            assert f"killed ({sent.name})" in error and "memory ran out" in error
        for way_out in ("--workers (now 2; 0 ", "--batch-size", "--crop"):
            assert way_out in error
        assert "Traceback" not in run.err.read_text()
        wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def test_all_workers_killed_between_two_passes(pairs: Path, tmp_path: Path):
    """The death of workers between batches has no effect until the next batch."""
    pause = "while seen and Path('pause').exists(): time.sleep(0.05)"
    script = LOOP.replace("try:\n", "import time\nseen = 0\ntry:\n", 1).replace(
        "    while True:\n",
        f"    while True:\n        print('pass', flush=True)\n        {pause}\n",
    )
    (tmp_path / "pause").touch()
    with Running(tmp_path, "-c", script, pairs, 2, "train") as run:
        wait_for(lambda: run.out.read_text().count("pass") == 2)
        for worker in children(run.process.pid):
            os.kill(worker, signal.SIGKILL)
        time.sleep(1)
        assert run.process.poll() is None
        (tmp_path / "pause").unlink()
        assert run.wait() == 1
        assert "error: a loader worker was killed (SIGKILL)" in run.out.read_text()


TO_A_RUN = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1
AT_BIRTH: list[Callable] = []  # what a forked process does before anything else
os.register_at_fork(after_in_child=lambda: [act() for act in AT_BIRTH])


@pytest.mark.parametrize("sent", TO_A_RUN)
def test_workers_ignore_signals_to_the_run(pairs: Path, sent: signal.Signals):
    """Whoever else sends them, and whenever; the handlers of the run never run in a worker."""
    image = pairs / "images/000.png"
    found = Pairs(
        [Sample(image, pairs / "masks/000.png")] * 80, ImageReader(), MaskReader(3),
        crops.unchanged,
    )  # fmt: skip
    loader = train_loader(found, [[Draw(0, index)] for index in range(80)], 2)
    others = multiprocessing.active_children()
    read, write = os.pipe()
    os.set_blocking(read, False)
    handler = signal.signal(sent, lambda *_: os.write(write, b"handled"))
    try:
        AT_BIRTH.append(lambda: os.kill(os.getpid(), sent))
        batches = read_batches(loader)
        seen = next(batches).indices
        AT_BIRTH.clear()
        workers = [each for each in multiprocessing.active_children() if each not in others]
        pids = " ".join(str(worker.pid) for worker in workers)
        for _ in range(5):
            subprocess.run(["sh", "-c", f"kill -{sent.name[3:]} {pids}"], check=True)
            seen += next(batches).indices
        seen += [index for batch in batches for index in batch.indices]
        assert seen == list(range(80))
        assert len(workers) == 2 and all(worker.is_alive() for worker in workers)
        with pytest.raises(BlockingIOError):
            os.read(read, 1)
    finally:
        AT_BIRTH.clear()
        signal.signal(sent, handler)
        os.close(read)
        os.close(write)


def test_a_stuck_worker_is_ended_by_its_parent(tmp_path: Path):
    """SIGTERM, as torch sends it, ends a worker whose interpreter can't run a Python handler."""
    begun = tmp_path / "begun"
    worker = CONTEXT.Process(target=crops.hold_the_interpreter, args=(str(begun),), daemon=True)
    worker.start()
    wait_for(begun.exists)
    worker.terminate()
    worker.join(5)
    assert not worker.is_alive()


# stops where a signal asks for it, some batches later; the worker with draw 54 is stuck for ever
RUN = (
    LOADER
    + """
import signal, time
from itertools import count
stop, left = [], 10
for number in signal.SIGTERM, signal.SIGINT, signal.SIGUSR1:
    signal.signal(number, lambda number, frame: stop.append(number))
if "stuck" in how:
    pairs.augmentation = crops.stuck
for epoch in count():
    for seen, batch in enumerate(read_batches(loader)):
        if seen == 25:
            print("going", flush=True)
        while seen == 25 and "stuck" in how and not stop:
            time.sleep(0.01)
        left -= len(stop) > 0
        if not left or stop and "stuck" in how:
            break
    if stop:
        break
print("saved", flush=True)
sys.exit(128 + stop[0])
"""
)


@pytest.mark.parametrize("how", [(), ("stuck",)], ids=["busy", "stuck"])
def test_a_stop_in_the_middle_of_an_epoch(pairs: Path, tmp_path: Path, how):
    """A signal to all processes, as SLURM sends it: the run goes on to its end."""
    with Running(tmp_path, "-c", RUN, pairs, 2, "train", *how) as run:
        wait_for(lambda: run.has_printed("going"))
        if "stuck" in how:
            wait_for((tmp_path / "stuck").exists)
        workers = children(run.process.pid)
        os.killpg(run.process.pid, signal.SIGTERM)
        wait_for(lambda: run.has_printed("saved"))
        assert len(workers) == 2
        wait_for(lambda: not any(alive(worker) for worker in workers), 3)  # measured: 0.1
        assert run.wait() == 128 + signal.SIGTERM  # torch takes a second or two to end, as ever
        assert run.err.read_text() == "" and set(run.out.read_text().split()) == {"going", "saved"}


def test_workers_die_with_their_parent(pairs: Path, tmp_path: Path):
    """At once, even a stuck worker."""
    with Running(tmp_path, "-c", RUN, pairs, 2, "train", "stuck") as run:
        wait_for((tmp_path / "stuck").exists)
        workers = children(run.process.pid)
        assert len(workers) == 2
        os.kill(run.process.pid, signal.SIGKILL)
        wait_for(lambda: not any(alive(worker) for worker in workers), 2)


def no_shared_memory(size: str, *command: str) -> subprocess.CompletedProcess | None:
    """Run a command where /dev/shm has that size; None where mounting is not allowed."""
    mount = f'mount -t tmpfs -o {size} tmpfs /dev/shm && exec "$@"'
    for options in (["-m"], ["-Urm"]):
        tried = subprocess.run(["unshare", *options, "sh", "-c", mount, "-", "true"], check=False)
        if tried.returncode == 0:
            return subprocess.run(
                ["unshare", *options, "sh", "-c", mount, "-", *command],
                capture_output=True, text=True, timeout=90, env=ENVIRONMENT,
            )  # fmt: skip
    return None


NO_SLOT = "import segtrain.data.loading.batch as batch\nbatch.SLOT_BYTES = 2**20\n"
ONCE = "for batch in read_batches(loader): pass\nprint('end')"


@pytest.mark.skipif(not FORKS, reason="only forked workers share other memory")
def test_batches_need_no_shared_memory(tmp_path: Path):
    folder = write_pairs(tmp_path, 6, height=480, width=400)  # a batch takes 1.5 MB
    command = sys.executable, "-c", LOADER + ONCE, str(folder), "2", "train"
    done = no_shared_memory("size=512k", *command)
    if done is None:
        pytest.skip("mounting is not allowed here")
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.parametrize("size", ["size=512k", "ro"])
def test_too_little_shared_memory_is_named(tmp_path: Path, size: str):
    """Where batches fit in no slot, or no process can start."""
    folder = write_pairs(tmp_path, 6, height=480, width=400)
    done = no_shared_memory(size, sys.executable, "-c", NO_SLOT + LOOP, str(folder), "2", "train")
    if done is None:
        pytest.skip("mounting is not allowed here")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (error,) = done.stdout.strip().splitlines()
    assert error.startswith("error: loader workers cannot start" if size == "ro" else "error: ")
    assert "shared memory (/dev/shm, " in error and "--shm-size" in error and "--workers" in error


def test_a_segtrain_error_in_a_worker_passes_unchanged(pairs: Path, tmp_path: Path):
    """Only deaths are translated: a bug keeps its traceback."""
    script = LOOP.replace("crops.unchanged", "crops.faulty")
    with Running(tmp_path, "-c", script, pairs, 2, "train") as run:
        assert run.wait(90) == 1
        assert "AttributeError" in run.err.read_text() and "nonsense" in run.err.read_text()
        assert "error:" not in run.out.read_text()


def test_fit_reports_a_killed_worker(tmp_path: Path):
    write_pairs(tmp_path / "set", 12)
    options = [
        *QUICK, "--workers", 2, "--epochs", 100_000,
        "--set", "eval.every=100000", "--set", "train.steps_per_epoch=3",
    ]  # fmt: skip
    with Running(tmp_path, "-m", "segtrain", "fit", "--data", "set", *options) as run:
        wait_for(lambda: run.has_printed("epoch 2/"), 180)
        os.kill(children(run.process.pid)[0], signal.SIGKILL)
        assert run.wait(60) == 1
        (line,) = run.err.read_text().strip().splitlines()
        assert line.startswith("error: a loader worker was killed (SIGKILL)")
        assert "--workers" in line and "Traceback" not in run.out.read_text()
