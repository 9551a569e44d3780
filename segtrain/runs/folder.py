"""Folder of a run: the files in it, creation, lock and lookup."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from segtrain.config import Config
from segtrain.config.loading import save_config
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.files.locks import lock_path
from segtrain.files.whole import save_text

CONFIG = Path("config.yaml")
ENVIRONMENT = Path("environment.json")
HISTORY = Path("metrics.csv")
BEST = Path("checkpoints/best.safetensors")
LAST = Path("checkpoints/last.safetensors")
STATE = Path("checkpoints/last.state.pt")
BAD_STEPS = Path("bad_steps.csv")
BAD_BATCH = Path("bad_batch.pt")
HUB_WEIGHTS = Path("model.safetensors")  # in a folder as the Hugging Face Hub has them
TRACKED = Path("tracked_run.json")
LATEST = "latest"  # beside the runs: a link to the newest


def default_name(arch: str, loss: str) -> str:
    """Return date, time, architecture and loss as a folder name."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{arch}-{safe_name(loss)}"[:100]


def find_free_name(out: Path, name: str) -> str:
    """Return the name, or the first of NAME-2, NAME-3, ... that OUT lacks."""
    names = (name, *(f"{name}-{number}" for number in range(2, 100)))
    return next((free for free in names if not os.path.lexists(out / free)), name)


def safe_name(loss: str) -> str:
    """Return a loss expression as part of a file name."""
    return "".join(c if c.isalnum() or c in "+.-" else "_" for c in loss.replace(" ", ""))


def is_plain(name: str) -> bool:
    """Return whether a text is the plain name of a folder, and not the one of the latest run."""
    return Path(name).name == name and name not in ("", ".", "..", LATEST)


def refuse_name(out: Path, name: str) -> None:
    """Raise UsageError where OUT/NAME exists or can't be a run's folder; nothing is written."""
    if not is_plain(name):
        raise UsageError(f"--name {name}: expected a plain folder name other than {LATEST}")
    run = out / name
    for path in (run, temporary_run(run)):  # the latter has the longer name
        try:
            os.lstat(path)
        except FileNotFoundError:
            continue
        except OSError as error:  # a name that is too long, or a file in place of a folder
            advice = "take another --out or --name"
            raise UsageError(f"cannot make {run}: {error.strerror}; {advice}") from error
        if path == run:
            raise UsageError(f"--name: {run} exists; take another name, or --resume {name}")
    refuse_read_only(out)


def temporary_run(run: Path) -> Path:
    """Return the folder that becomes the run's once its config is in it."""
    return run.with_name(f".tmp-{os.getpid()}-{run.name}")


def refuse_read_only(folder: Path) -> None:
    """Raise SegtrainError where nothing can be written in a folder, or it can't be made."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        reason = os.strerror(errno.EROFS if _is_read_only(existing) else errno.EACCES)
        raise SegtrainError(f"cannot write in {existing}: {reason}; take another --out")


def _is_read_only(folder: Path) -> bool:
    if sys.platform == "win32":  # all that Python knows is whether a file may be written
        return False
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def create_run(run: Path, config: Config) -> Path:
    """Create a run's folder with its config, both or neither. Raise UsageError where it exists."""
    refuse_name(run.parent, run.name)
    temporary = temporary_run(run)
    try:
        temporary.mkdir(parents=True)
        save_config(config, temporary / CONFIG)
        os.rename(temporary, run)
    except OSError as error:
        raise SegtrainError(f"cannot make {run}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return run


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Lock the run's folder for training. Raise UsageError where another process has done so.

    The lock ends with the process, however that ends. File systems without locks are tolerated.
    """
    with lock_path(run) as locked:
        if locked is False:
            raise UsageError(f"{run}: another process is training it")
        yield


def point_latest(run: Path) -> None:
    """Make OUT/latest a link to the run, or a file with its name where there are no links."""
    link = run.parent / LATEST
    temporary = run.parent / f".{LATEST}-{os.getpid()}"
    try:  # replaced at once: a link is never missing while a run starts
        temporary.symlink_to(run.name)
        os.replace(temporary, link)
    except OSError:
        temporary.unlink(missing_ok=True)
        with suppress(SegtrainError):  # say the disk is full
            save_text(link, run.name)


def read_latest(out: Path) -> Path:
    """Return the run that a file OUT/latest names, else that path, which may be a link."""
    link = out / LATEST
    with suppress(OSError, UnicodeError):  # no file, or another program's
        name = link.read_text(encoding="utf-8").strip()
        if is_plain(name) and name.isprintable():
            return out / name
    return link


def find_latest_run(out: Path) -> Path:
    """Return the run that OUT/latest points to. Raise UsageError where there is none."""
    if not os.path.isdir(run := read_latest(out)):  # False as well for a name that is too long
        runs = [file.parent.name for file in sorted(out.glob(f"*/{CONFIG}"))]
        if runs:
            raise UsageError(f"{out / LATEST} points to no run; name one of {shorten(runs, 8)}")
        raise UsageError(
            f"no run in {out}; train one with 'segtrain fit', or name a run or checkpoint"
        )
    return run.resolve()


def find_run(target: str, out: Path) -> Path:
    """Return the folder or file of a run's name or a path.

    A plain name is a run in `out` where there is one, whatever the current folder holds.
    """
    plain = not {os.sep, os.altsep} & {*target} and target not in ("", os.curdir, os.pardir)
    if target == LATEST:
        return find_latest_run(out)
    if plain and os.path.isdir(out / target):
        return out / target
    path = Path(target)
    return read_latest(path.parent) if path.name == LATEST else path


def find_checkpoint(target: str | None, out: Path) -> Path:
    """Return a command's checkpoint: a file, a run's or hub folder's, or the latest run's best.

    A run is given by its folder, or by its name in `out`. Raise UsageError for anything else.
    """
    run = find_latest_run(out) if target is None else find_run(target, out)
    if os.path.isdir(run):
        if not (run / BEST).is_file() and (run / HUB_WEIGHTS).is_file():
            return run / HUB_WEIGHTS
        if not (run / BEST).is_file():
            raise UsageError(f"{run}: no {BEST} in it; name a run that has completed an epoch")
        return run / BEST
    if not os.path.exists(run):  # False as well for a path that the system refuses
        raise UsageError(f"{run}: no such run or checkpoint, here or in {out}")
    return run


def find_resumed_run(name: str, out: Path) -> Path:
    """Return the folder of a run to resume: a name in `out`, `latest`, or a path."""
    if name == LATEST:
        return find_latest_run(out)
    run = find_run(name, out)
    if not os.path.isfile(run / CONFIG):
        raise UsageError(f"--resume {name}: no such run, neither a name in {out} nor a path")
    return run.resolve() if run.is_symlink() else run  # OUT/latest will point at it


def find_run_of(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint's run; for one outside a run, the folder that it is in."""
    in_run = checkpoint.parent.name == BEST.parent.name
    return checkpoint.parent.parent if in_run else checkpoint.parent
