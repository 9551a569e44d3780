"""Random command lines, YAML files, checkpoints and states: one line and an exit code, whatever.

Each case is a function of its number. Few run in the suite; by hand, as many as one likes, from
any number on:

    SEGTRAIN_FUZZ_CASES=2000 SEGTRAIN_FUZZ_FIRST=0 pytest -s -n 2 tests/test_fuzz.py

A failure prints its number and what was run. Those of one kind of error come to one failure.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY, Answer, run_cli, write_pairs

from segtrain.config.schema import list_keys

CASES = int(os.environ.get("SEGTRAIN_FUZZ_CASES", 0))
FIRST = int(os.environ.get("SEGTRAIN_FUZZ_FIRST", 0))
SECONDS, BYTES = 60, 2 * 10**9  # a case may take
VERBS = ("fit", "eval", "predict", "check", "compare", "sweep", "losses")
OUTCOMES: Counter = Counter()

# values that people and programs write by mistake, and some that fit
VALUES = (
    "", " ", "0", "1", "-1", "2", "3.5", "1e-3", "1e400", "nan", "inf", "-inf", "0x10", "1_000",
    "9" * 30, "9" * 5000, "null", "~", "true", "yes", "[]", "{}", "[1, 2]", "[0, 255]", "{a: 1}",
    "{0: 1, 1: ignore}", "[[0, 0, 0], [9, 9, 9], [1, 2, 3]]", "[a, b]", "[a, b, c]", "[a, a]",
    "32", "64x64", "1x1", "0x0", "100000x100000", "32x", "*", "?", "-", "--", "-h", "=",
    "a=b", "set", "images", "./set/", "run", "run/checkpoints/best.safetensors", "data.yaml",
    "nosuch", "../nosuch", "/dev/null", "/dev/full", ".", "x" * 300, "é", "日本語", "🙂",
    "\u202eabc", "a\nb", "a\tb", "\x1b[31m", "\udcff", "ß", "İ", "ohem", "OHEM", "ce+dice",
    "ohem(focal)",
    "0.5*ce", "ohem(", "ghm(bins=-1)", "topk(k=2)", "unet", "U-Net", "DeepLabV3+", "resnet18",
    "tu-resnet18", "none", "auto", "demo", "val", "train", "cpu", "cuda", "hflip", "[hflip, 0.75]",
    "[1000.0]", "10min", "5h", "!!python/object:os.system {}", "&a [*a]", "<<", "'", '"', "%s",
    "{0}",
)  # fmt: skip
OPTIONS = (
    "--data", "--loss", "--thresh", "--lb-ignore", "--n-min-factor", "--epochs", "--batch-size",
    "--lr", "--crop", "--device", "--devices", "--nodes", "--precision", "--workers", "--seed",
    "--out", "--name", "--resume", "--arch", "--encoder", "--weights", "--config", "--split",
    "--predictions", "--checkpoint", "--runs", "--legend", "--json", "--seeds",
    "--dry-run", "--help", "--version", "--write-config", "--full", "--nosuch", "-x", "--set",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """A folder with a data set, a run and a config, in which the cases run."""
    home = tmp_path_factory.mktemp("fuzz")
    write_pairs(home / "set")
    shutil.copytree(trained, home / "run")
    (home / "data.yaml").write_text("data: {path: set}\nmodel: {weights: none}\n")
    return home


class TookTooLong(BaseException):
    """No Exception, so that nothing takes it for an error of a library."""


@contextmanager
def limits() -> Iterator[None]:
    """Raise where the block takes too long, or too much memory."""

    def stop(*_: object) -> None:
        raise TookTooLong

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < BYTES


def judge(answer: Answer, codes: tuple[int, ...] = (0, 1, 2)) -> None:
    """Fail unless the command ended well, or with one line that names no fault of segtrain's."""
    assert answer.code in codes
    assert "Traceback" not in answer.stdout + answer.stderr
    if answer.code:
        lines = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
        usage = "Usage: " in answer.stdout  # no verb: the help page, with 2
        assert len(lines) == 1 or usage
        assert "internal error" not in answer.stderr
        controls = ("Cc", "Cs", "Zl", "Zp")
        assert not [c for line in lines for c in line if unicodedata.category(c) in controls]


def run_cases(
    kind: str, few: int, home: Path, make: Callable[[random.Random, Path], list[str]]
) -> None:
    """Run cases of a kind in `home`; report every kind of failure once."""
    share = {"checkpoints": 0.25}.get(kind, 1)
    numbers = range(FIRST, FIRST + (int(CASES * share) or few))
    failures: dict[str, str] = {}
    for number in numbers:
        folder = home / f"case{number}"
        folder.mkdir(exist_ok=True)
        arguments, answer = [], None
        began = time.monotonic()
        try:
            arguments = make(random.Random(f"{kind} {number}"), folder)
            with limits():
                answer = run_cli(*arguments)
            OUTCOMES[kind, answer.code] += 1
            judge(answer)
        except (Exception, TookTooLong) as error:
            last = answer.stderr.strip().splitlines()[-1:] if answer else []
            text = f"{type(error).__name__}: {str(error)[:300]}\n  {last}"
            key = f"{type(error).__name__} {(last or [''])[0][:60]}"
            failures.setdefault(
                key, f"{kind} {number}, {time.monotonic() - began:.1f} s: {arguments}\n  {text}"
            )
            OUTCOMES[kind, "failed"] += 1
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if CASES:
        print(f"\n{kind}: { {k[1]: v for k, v in OUTCOMES.items() if k[0] == kind} }")
    assert not failures, "\n".join(failures.values())


# ---- command lines


def good_line(verb: str, folder: Path) -> list[str]:
    """A command that works, and ends at once."""
    lines = {
        "fit": ["--data", "set", *TINY, "--weights", "none", "--epochs", "1", "--crop", "32x32"],
        "eval": ["run", "--data", "set", "--workers", "0", "--device", "cpu"],
        "predict": ["set/images/000.png", "--checkpoint", "run", "--out", str(folder / "out")],
        "check": ["set"],
        "compare": ["run", "run", "--out", str(folder / "out")],
        "sweep": ["--loss", "ce,ohem", "--data", "set", "--out", str(folder / "out"), "--dry-run"],
        "losses": [],
    }
    return [verb, *lines[verb]]


def make_line(rng: random.Random, folder: Path) -> list[str]:
    """A good line with one to three changes. Nothing trains: fit and sweep get --dry-run."""
    verb = rng.choice(VERBS)
    line = good_line(verb, folder)
    keys = list_keys()
    for _ in range(rng.randint(1, 3)):
        where = rng.randint(1, max(1, len(line)))
        match rng.randrange(8) if line else 1:
            case 0:
                line[where:where] = ["--set", f"{rng.choice(keys)}={rng.choice(VALUES)}"]
            case 1:
                line[where:where] = [rng.choice(OPTIONS), rng.choice(VALUES)]
            case 2:
                line[where:where] = [rng.choice(OPTIONS)]
            case 3:
                line[where:where] = [rng.choice(VALUES)]
            case 4:
                del line[min(where, len(line) - 1)]
            case 5:
                line[min(where, len(line) - 1)] = rng.choice(VALUES)
            case 6:
                line += line[rng.randrange(len(line)) :]
            case 7:
                rest = line[1:]
                rng.shuffle(rest)
                line[1:] = rest
    if line and line[0] in ("fit", "sweep") or not line or line[0] not in VERBS:
        line.append("--dry-run")
    return line


def test_command_lines(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(home)
    run_cases("lines", 25, home, make_line)


# ---- YAML

GOOD_YAML = """\
data:
  path: set
  classes: [a, b, c]
  label_map: {7: 1, 8: ignore}
  splits:
    train: {images: images, masks: masks}
augment: {crop: 32x32, scale: [0.5, 2.0], transforms: [HorizontalFlip, RandomGamma: {p: 0.3}]}
model:
  arch: unet
  weights: none
  options: {encoder_depth: 3, decoder_channels: [8, 8, 4]}
  encoder: tu-test_byobnet
loss: {expression: ohem + 0.5*dice, thresh: 0.7}
optim: {name: sgd, lr: 1e-3, schedule: cosine}
train: {epochs: 2, batch_size: 2, device: cpu, checkpoint_every: 10min}
eval: {tta: [hflip, 0.75], window: 64x64}
"""


def change_text(rng: random.Random, text: str) -> str:
    """Text with a line or some characters changed."""
    lines = text.splitlines()
    where = rng.randrange(len(lines))
    match rng.randrange(7):
        case 0:
            lines.insert(where, rng.choice(lines))
        case 1:
            lines[where] = "  " * rng.randint(0, 3) + lines[where].lstrip()
        case 2:
            lines[where] = lines[where].partition(":")[0] + ": " + rng.choice(VALUES)
        case 3:
            depth = rng.choice((3, 100, 20000))
            lines[where] = lines[where].partition(":")[0] + ": " + rng.choice("[{") * depth
        case 4:
            del lines[where]
        case 5:
            line = lines[where]
            at = rng.randrange(len(line) + 1)
            odd = rng.choice(VALUES + (":", "#", "&x ", "*x", "\x00", "\ufeff", "- ", "? "))
            lines[where] = line[:at] + odd + line[at + rng.randint(0, 3) :]
        case 6:
            section, _, key = rng.choice(list_keys()).partition(".")
            lines.append(f"{section}: {{{key}: {rng.choice(VALUES)}}}")
    return "\n".join(lines)


def make_yaml(rng: random.Random, folder: Path) -> list[str]:
    text = GOOD_YAML
    for _ in range(rng.randint(1, 3)):
        text = change_text(rng, text or "x")
    content = text.encode("utf-8", "surrogateescape")
    if rng.random() < 0.1:
        content = text.encode(rng.choice(("utf-16", "latin-1", "utf-8-sig")), "replace")
    if rng.random() < 0.1:
        content = bytes(rng.choices(range(256), k=rng.randrange(200)))
    file = folder / "config.yaml"
    file.write_bytes(content)
    return rng.choice(
        (
            ["fit", "--config", str(file), "--dry-run"],
            ["check", "--config", str(file)],
            ["eval", "--predictions", "set/masks", "--config", str(file)],
            ["sweep", "--config", str(file), "--dry-run", "--out", str(folder / "sweep")],
        )
    )


def test_yaml_files(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(home)
    run_cases("yaml", 25, home, make_yaml)


# ---- checkpoints and states


def change_value(rng: random.Random, value: Any) -> Any:
    """A copy of plain data or tensors in which something is another value, or missing."""
    odd = (None, -1, 0, 10**12, float("nan"), float("inf"), "", "x" * 1000, [], {}, [1], {"a": 1},
           True, "\x1b[1m", torch.zeros(3), torch.full((2, 2), float("nan")))  # fmt: skip
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        match rng.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice(("x", "", 7, None))] = changed.pop(key)
            case _:
                changed[key] = change_value(rng, value[key])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        changed = list(value)
        at = rng.randrange(len(changed))
        changed[at] = change_value(rng, changed[at])
        return changed[: rng.randint(0, len(changed))] if rng.random() < 0.2 else changed
    if isinstance(value, torch.Tensor) and rng.random() < 0.7:
        with_nan = value.float() * float("nan")
        kinds = (with_nan, value.double(), value.flatten()[:-1], value[None], value.to(torch.uint8))
        return rng.choice(kinds)
    return rng.choice(odd)


def damage_checkpoint(rng: random.Random, file: Path) -> None:
    """Change metadata, header, tensors or bytes of a .safetensors file."""
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    match rng.randrange(4):
        case 0:  # segtrain's own metadata
            meta = change_value(rng, json.loads(header["__metadata__"]["segtrain"]))
            header["__metadata__"]["segtrain"] = json.dumps(meta, default=str)
        case 1:  # safetensors' header
            header = change_value(rng, header)
        case 2:
            at = rng.randrange(len(content))
            noise = bytes(rng.choices(range(256), k=rng.randint(1, 9)))
            file.write_bytes(content[:at] + noise + content[at + len(noise) :])
            return
        case 3:
            file.write_bytes(content[: rng.randrange(len(content))])
            return
    text = json.dumps(header, default=str).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def damage_state(rng: random.Random, file: Path) -> None:
    """Change the state's values, or its bytes."""
    content = file.read_bytes()
    if rng.random() < 0.7:
        state = torch.load(io.BytesIO(content), weights_only=True)
        for _ in range(rng.randint(1, 2)):
            state = change_value(rng, copy.copy(state))
        torch.save(state, file)
    else:
        at = rng.randrange(len(content))
        file.write_bytes(content[:at] + b"\xff" * rng.randint(0, 9) + content[at + 5 :])


def make_damaged(rng: random.Random, folder: Path) -> list[str]:
    run = folder / "run"
    shutil.copytree("run", run, symlinks=True)
    config = run / "config.yaml"
    fields = yaml.safe_load(config.read_text())
    fields["data"]["path"] = str(Path("set").resolve())
    config.write_text(yaml.safe_dump(fields))
    best, last = run / "checkpoints/best.safetensors", run / "checkpoints/last.safetensors"
    state = run / "checkpoints/last.state.pt"
    match rng.randrange(5):
        case 0:
            damage_checkpoint(rng, best)
            return ["eval", str(run), "--data", "set", "--workers", "0", "--device", "cpu"]
        case 1:
            damage_checkpoint(rng, best)
            out = str(folder / "out")
            return ["predict", "set/images/000.png", "--checkpoint", str(best), "--out", out]
        case 2:
            damage_checkpoint(rng, last)
            tiny = ["fit", "--data", "set", *TINY, "--crop", "32x32", "--dry-run"]
            return [*tiny, "--weights", str(last)]
        case _:
            damage_state(rng, state)
            return ["fit", "--resume", str(run), "--epochs", "2"]


def test_damaged_checkpoints(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(home)
    run_cases("checkpoints", 12, home, make_damaged)
