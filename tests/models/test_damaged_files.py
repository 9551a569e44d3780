"""Damaged and foreign files of any sort: one line that names the file, never another exception."""

from __future__ import annotations

import json
import os
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from segtrain.config import ModelConfig
from segtrain.errors import SegtrainError
from segtrain.models.checkpoint import is_checkpoint, load_model, load_state, parse_meta, read_meta
from segtrain.models.pretrained import load_file_weights
from segtrain.models.segmentation import build_model

MODEL = build_model(
    ModelConfig(
        encoder="tu-test_byobnet", options={"encoder_depth": 3, "decoder_channels": [8, 8, 4]}
    ),
    3,
)


def load_into_model(path: Path) -> None:
    load_file_weights(MODEL, path)


READERS: dict[str, Callable[[Path], object]] = {
    "best.safetensors": load_model,
    "meta.safetensors": read_meta,
    "last.state.pt": load_state,
    "encoder.pth": load_into_model,
    "encoder.safetensors": load_into_model,
}


def torch_file(content: object) -> bytes:
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zip_file(method: int) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("archive/data.pkl", b"x" * 300)
    return buffer.getvalue()


def intact(name: str, trained: Path) -> bytes:
    """A file of the kind that is then damaged."""
    if name == "last.state.pt":
        return torch_file({"a": torch.arange(30.0), "b": [1, 2.5, None]})
    if name == "encoder.pth":
        return torch_file(MODEL.network.encoder.state_dict())
    if name == "encoder.safetensors":
        return save(MODEL.network.encoder.state_dict())
    return (trained / "checkpoints/best.safetensors").read_bytes()


def assert_refused_or_read(name: str, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            READERS[name](path)
    except SegtrainError as error:
        assert name in str(error) and "\n" not in str(error)
    if name.startswith("encoder"):
        is_checkpoint(path)


FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("name", READERS)
@FUZZ
@given(content=st.binary(max_size=200), start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02"]))
def test_random_bytes(name: str, content: bytes, start: bytes, tmp_path: Path):
    (tmp_path / name).write_bytes(start + content)
    with pytest.raises(SegtrainError, match=name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", READERS)
@FUZZ
@given(data=st.data())
def test_cuts_and_overwritten_bytes(name: str, data: st.DataObject, trained: Path, tmp_path: Path):
    content = bytearray(intact(name, trained))
    # the first bytes are lengths and headers, the last ones a zip file's directory
    near = st.integers(0, min(2000, len(content) - 1))
    place = data.draw(near | near.map(lambda back: len(content) - 1 - back))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        junk = data.draw(st.binary(min_size=1, max_size=8))
        content[place : place + len(junk)] = junk
    (tmp_path / name).write_bytes(content)
    assert_refused_or_read(name, tmp_path / name)


FOREIGN = {
    "empty": b"",
    "text": b"not a checkpoint\n",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "zip": zip_file(zipfile.ZIP_STORED),
    "bzip2": zip_file(zipfile.ZIP_BZIP2),
    "pickle": pickle.dumps({"a": 1}),
    "list": torch_file([1, 2]),
    "tensor": torch_file(torch.zeros(3)),
    "numbered": torch_file({1: torch.zeros(3)}),
    "sparse": torch_file({name: w.to_sparse() if w.ndim else w
                          for name, w in MODEL.network.encoder.state_dict().items()}),
    "safetensors": save({"x": torch.zeros(1)}),
    "metadata": save({"x": torch.zeros(1)}, {"segtrain": "[" * 100_000}),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", FOREIGN)
def test_files_of_other_kinds(name: str, kind: str, tmp_path: Path):
    (tmp_path / name).write_bytes(FOREIGN[kind])
    if name == "last.state.pt" and kind == "numbered":
        return  # a dict: it is the command's to find that nothing it needs is in it
    if name == "encoder.pth" and kind == "sparse":
        return assert_refused_or_read(name, tmp_path / name)
    with pytest.raises(SegtrainError, match=name):
        READERS[name](tmp_path / name)


WRONG = {
    "config": [5, None, [], {"train": {"magic": 1}}],
    "classes": [5, None, "ab", [1, 2]],
    "palette": [5, None, [1], [[1, 2]], [["a", 0, 0]], []],
    "mean": ["x", None, [None]],
    "epoch": ["x", None, 1.5],
    "miou": ["x", [0.5]],
    "other": [1],
}


@pytest.mark.parametrize("key, value", [(key, v) for key, vs in WRONG.items() for v in vs])
def test_metadata_of_wrong_types(key: str, value: object, trained: Path, tmp_path: Path):
    meta = read_meta(trained / "checkpoints/best.safetensors")
    fields = {"config": meta.config.model_dump(mode="json"), "classes": meta.classes,
              "palette": meta.palette, "mean": meta.mean, "std": meta.std, "epoch": 1,
              "miou": None}  # fmt: skip
    assert parse_meta(tmp_path / "good", json.dumps(fields)).classes == meta.classes
    with pytest.raises(SegtrainError, match="bad.safetensors: .*") as raised:
        parse_meta(tmp_path / "bad.safetensors", json.dumps(fields | {key: value}))
    assert key in str(raised.value) or key == "config"
    assert "\n" not in str(raised.value)


class RunsCode:
    """An object whose file would run a command as it is read."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        file.add(__file__)


# what the line names as the reason
REFUSED = {
    "module": (lambda path: torch.save(torch.nn.Linear(1, 1), path), "Linear"),
    "code": (lambda path: torch.save({"a": RunsCode()}, path), "system"),
    "code pickled": (lambda path: path.write_bytes(pickle.dumps(RunsCode(), 2)), "system"),
    "page": (lambda path: path.write_text("<!DOCTYPE html>"), "operand"),
    "tar": (write_tar, "tar"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_nobody_is_advised_to_run_a_files_code(cli, kind: str, pairs: Path, tmp_path: Path):
    write, reason = REFUSED[kind]
    write(tmp_path / "w.pt")
    error = cli("fit", "--data", pairs, *QUICK, "--weights", "w.pt").error
    assert "w.pt: not a checkpoint" in error and reason in error and len(error) < 400
    assert not re.search("weights_only|safe_globals|trust", error)
    assert not (tmp_path / "ran").exists()
