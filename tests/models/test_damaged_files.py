"""Damaged and foreign files of any sort: one line that names the file, never another exception."""

from __future__ import annotations

import json
import math
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
from safetensors import safe_open
from safetensors.torch import load_file, save

from segtrain.config import ModelConfig
from segtrain.errors import SegtrainError
from segtrain.models.checkpoint import is_checkpoint, load_model, load_state, parse_meta, read_meta
from segtrain.models.pretrained import load_file_weights
from segtrain.models.segmentation import build_model

CONFIG = ModelConfig(
    encoder="tu-test_byobnet", options={"encoder_depth": 3, "decoder_channels": [8, 8, 4]}
)
MODEL = build_model(CONFIG, 3)


def load_into_model(path: Path) -> None:
    load_file_weights(MODEL, CONFIG, path)


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


JUNK = [None, -1, 0, 10**9, 10**20, 0.5, math.nan, math.inf, "", "x", [], [[]], {}, {"x": 1}, True]
JUNK += [["x"] * 3, [10**9] * 3, [-1.0] * 3, "\x1b[31m", [[0, 0, 256]] * 3, [[0, 0, 0]] * 4]


def list_keys(value: object, place: tuple = ()) -> list[tuple]:
    if not isinstance(value, dict):
        return []
    return [p for k, v in value.items() for p in [(*place, k), *list_keys(v, (*place, k))]]


@pytest.fixture(scope="module")
def fields(trained: Path) -> dict:
    with safe_open(trained / "checkpoints/best.safetensors", "pt") as file:
        return json.loads(file.metadata()["segtrain"])


@settings(FUZZ, max_examples=20)
@given(data=st.data())
def test_metadata_damaged_anywhere(data: st.DataObject, fields: dict, trained: Path, tmp_path):
    damaged = json.loads(json.dumps(fields))
    near = [p for p in list_keys(fields) if p[0] != "config" or p[1:2] in (("model",), ("data",))]
    place = data.draw(st.sampled_from(near))
    part = damaged
    for key in place[:-1]:
        part = part[key]
    if data.draw(st.booleans()) and data.draw(st.booleans()):
        del part[place[-1]]
    else:
        part[place[-1]] = data.draw(st.sampled_from(JUNK))
    path = tmp_path / "bad.safetensors"
    try:
        parse_meta(path, json.dumps(damaged))
        weights = load_file(trained / "checkpoints/best.safetensors")
        path.write_bytes(save(weights, {"segtrain": json.dumps(damaged)}))
        load_model(path)
    except SegtrainError as error:
        assert "bad.safetensors" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "key, value",
    [
        ("palette", [[0, 0, 0]] * 4), ("palette", [[0, 0, 256]] * 3), ("palette", [[0, 0, -1]] * 3),
        ("mean", [math.nan] * 3), ("mean", [0.0] * 2), ("std", [0.0] * 3), ("std", [math.inf] * 3),
        ("std", [-1.0] * 3), ("classes", ["0", "1", ""]), ("classes", ["0", "1", "1"]),
        ("classes", ["a", "b"]), ("classes", ["0"]), ("epoch", -1), ("step", -1),
        ("miou", 1.5), ("miou", math.nan), ("classes", [str(i) for i in range(200_000)]),
    ],
)  # fmt: skip
def test_metadata_out_of_range(key: str, value: object, fields: dict, tmp_path: Path):
    with pytest.raises(SegtrainError, match=key) as raised:
        parse_meta(tmp_path / "bad.safetensors", json.dumps(fields | {key: value}))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"in_channels": 10**9}, {"in_channels": 4},
        {"options": {"encoder_depth": 3, "decoder_channels": [10**9] * 3}},
        {"options": {"encoder_depth": 3, "decoder_channels": [8, 8, 5]}},
        {"options": {"encoder_depth": 10**9}}, {"arch": "fpn", "options": {}},
    ],
)  # fmt: skip
def test_a_network_of_other_sizes_takes_no_memory(
    change: dict, fields: dict, trained: Path, tmp_path: Path, monkeypatch
):
    """It is refused by the shapes of the file's tensors, before the network is built."""
    monkeypatch.setattr(torch.nn.Conv2d, "reset_parameters", refuse_memory)
    fields = json.loads(json.dumps(fields))
    fields["config"]["model"] |= change
    if change.get("in_channels") == 4:
        fields |= {"mean": [0.0] * 4, "std": [1.0] * 4}
    path = tmp_path / "bad.safetensors"
    weights = load_file(trained / "checkpoints/best.safetensors")
    path.write_bytes(save(weights, {"segtrain": json.dumps(fields)}))
    with pytest.raises(SegtrainError, match="bad.safetensors: .*(in_channels|fit its config)"):
        load_model(path)


def refuse_memory(conv: torch.nn.Conv2d) -> None:
    assert conv.weight.is_meta


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn, torch.complex64])
def test_weights_of_a_type_that_no_network_has_are_refused(trained: Path, tmp_path: Path, kind):
    source = trained / "checkpoints/best.safetensors"
    weights = {name: tensor.to(kind) for name, tensor in load_file(source).items()}
    with safe_open(source, "pt") as file:
        (tmp_path / "odd.safetensors").write_bytes(save(weights, file.metadata()))
    with pytest.raises(SegtrainError, match=f"is of type {kind}"):
        load_model(tmp_path / "odd.safetensors")
