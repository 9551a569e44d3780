"""Checkpoints cut short, with flipped bytes, or made to do harm: refused, never obeyed.

A flip in the tensors of last.state.pt is seen by its checksums; a .safetensors has none.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUICK, Answer, run_cli

from faults.runs import STATE, Straight
from segtrain.errors import SegtrainError
from segtrain.models.checkpoint import load_model, load_state

LENGTHS = 100
FLIPS = 60
FILES = {"last.safetensors": load_model, STATE: load_state}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_shorter_length_is_refused(name: str, straight: Straight, tmp_path: Path):
    content = (straight.run / "checkpoints" / name).read_bytes()
    rng, path = random.Random(0), tmp_path / name
    lengths = [0, 1, 8, len(content) - 1] + [rng.randrange(len(content)) for _ in range(LENGTHS)]
    for length in lengths:
        path.write_bytes(content[:length])
        with pytest.raises(SegtrainError, match=name):
            FILES[name](path)
    path.write_bytes(content)
    FILES[name](path)


def record(content: bytes, name: str) -> tuple[int, int]:
    """Return the start and end of the bytes of a record in a zip archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith(name))
    name_and_extra = struct.unpack("<2H", content[info.header_offset + 26 :][:4])
    start = info.header_offset + 30 + sum(name_and_extra)
    return start, start + info.file_size


def header(name: str, content: bytes) -> tuple[int, int]:
    """Return the start and end of safetensors' header, or of the state's pickle."""
    if name == STATE:
        return record(content, "data.pkl")
    return 0, 8 + struct.unpack("<Q", content[:8])[0]


def test_a_flipped_byte_of_a_tensor_to_resume_from_is_refused(straight: Straight, tmp_path: Path):
    content = (straight.run / "checkpoints" / STATE).read_bytes()
    rng, path = random.Random(0), tmp_path / STATE
    for _ in range(FLIPS // 4):
        start, end = record(content, f"data/{rng.randrange(20)}")
        flipped = bytearray(content)
        flipped[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(SegtrainError, match=STATE):
            load_state(path)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_of_the_header_is_refused_or_harmless(
    name: str, straight: Straight, tmp_path: Path
):
    """A letter of a class's name may change, which nothing can detect."""
    content = (straight.run / "checkpoints" / name).read_bytes()
    rng, path, refused = random.Random(0), tmp_path / name, 0
    start, end = header(name, content)
    for _ in range(FLIPS):
        flipped = bytearray(content)
        place, bit = rng.randrange(start, end), rng.randrange(8)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            FILES[name](path)
        except SegtrainError as error:
            assert name in str(error)
            refused += 1
        except Exception as error:
            pytest.fail(f"bit {bit} of byte {place}: {error!r}")
    assert refused > FLIPS / 4


class Payload:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


HOSTILE: dict[str, Callable[[Payload], bytes]] = {
    "torch": torch_file,
    "torch-nested": lambda payload: torch_file({"model": {}, "epoch": payload}),
    "pickle": pickle.dumps,
    "pickle-0": lambda payload: pickle.dumps(payload, 0),
}


def test_the_payload_works(tmp_path: Path):
    pickle.loads(HOSTILE["pickle"](Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", HOSTILE)
def test_a_hostile_state_is_refused_unread(
    form: str, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(straight.run, run)
    (run / "checkpoints" / STATE).write_bytes(HOSTILE[form](Payload(tmp_path / "ran")))
    monkeypatch.chdir(tmp_path)
    answer: Answer = run_cli("fit", "--resume", "tiny")
    assert answer.code == 1 and STATE in answer.error
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", HOSTILE)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_hostile_weights_are_refused_unread(
    name: str, form: str, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / name).write_bytes(HOSTILE[form](Payload(tmp_path / "ran")))
    monkeypatch.chdir(tmp_path)
    answer: Answer = run_cli("fit", "--data", straight.data, *QUICK, "--weights", name)
    assert answer.code == 1 and name in answer.error
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_a_hostile_checkpoint_is_refused_unread(
    command: str, straight: Straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "best.safetensors"
    path.write_bytes(HOSTILE["torch"](Payload(tmp_path / "ran")))
    monkeypatch.chdir(tmp_path)
    argv = [path] if command == "eval" else ["--checkpoint", path, straight.data / "val" / "images"]
    answer: Answer = run_cli(command, *argv)
    assert answer.code == 1 and path.name in answer.error
    assert not (tmp_path / "ran").exists()


def test_a_header_that_promises_too_much_is_refused_at_once(tmp_path: Path):
    """No memory is reserved for 100 MB of JSON or a tensor of petabytes."""
    path = tmp_path / "best.safetensors"
    tensor = {"a": {"dtype": "F32", "shape": [2**50], "data_offsets": [0, 2**52]}}
    for text, size in ((json.dumps(tensor), None), ("{}", 2**62)):
        path.write_bytes(struct.pack("<Q", size or len(text)) + text.encode() + bytes(64))
        with pytest.raises(SegtrainError, match=path.name):
            load_model(path)
