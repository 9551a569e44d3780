"""segtrain export, from outside: files as other programs read them, and as segtrain does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from conftest import ANY_NETWORK, QUICK, run_cli, write_pairs
from PIL import Image

import segtrain
from segtrain.errors import SegtrainError
from segtrain.export import hub, onnx_graph, proof
from segtrain.export.formats import load_pt2
from segtrain.models import exported as exported_files
from segtrain.models.runtimes import load_exported

SIZES = ((33, 47), (5, 7), (64, 96))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, converted_once: None) -> Path:
    """Return a run with all formats of its network in export/."""
    home = tmp_path_factory.mktemp("export")
    write_pairs(home / "set")
    done = run_cli("fit", "--data", home / "set", "--out", home, "--name", "run", *QUICK)
    assert done.code == 0, done.stderr
    for format in ("onnx", "openvino", "pt2", "hf"):
        more = ["--outputs", "ids,confidence,probs,logits"] if format == "onnx" else []
        done = run_cli("export", home / "run", "--format", format, *more)
        assert done.code == 0, done.stderr
        assert "proof on 1 images of val" in done.stdout
        assert done.stderr == ""
    return home / "run"


def photo(size: tuple[int, int], count: int = 2) -> np.ndarray:
    """Noise (count,3,height,width) of uint8."""
    return np.random.default_rng(size).integers(0, 256, (count, 3, *size), dtype=np.uint8)


def logits_of(run: Path, images: np.ndarray) -> np.ndarray:
    model, _ = segtrain.load(run / "checkpoints/best.safetensors")
    with torch.inference_mode():
        return model(torch.from_numpy(images)).numpy()


def load_written(run: Path, path: Path):
    """Return the network of a file as its proof runs it."""
    if path.suffix == ".pt2":
        return load_pt2(path, segtrain.load(run / "checkpoints/best.safetensors")[0], half=False)
    return load_exported(path)[0]


@pytest.mark.parametrize("size", SIZES)
def test_onnx_has_everything_inside(run: Path, size: tuple[int, int]):
    """Read by onnxruntime alone: bytes of any size in; ids, confidence, shares and logits out."""
    session = onnxruntime.InferenceSession(run / "export/run.onnx")
    images = photo(size)
    ids, confidence, shares, logits = session.run(None, {"images": images})
    own = logits_of(run, images)
    np.testing.assert_allclose(logits, own, atol=1e-4 * np.abs(own).max())
    assert ids.dtype == np.uint8 and np.array_equal(ids, logits.argmax(1))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(shares, odds / odds.sum(1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(confidence, shares.max(1), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_openvino_gives_the_same_classes(run: Path, size: tuple[int, int]):
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    network = core.compile_model(run / "export/run.xml", "CPU", settings)
    images = photo(size)
    (ids,) = network(images).values()
    own = np.sort(logits_of(run, images), axis=1)
    close = own[:, -1] - own[:, -2] < 1e-3 * np.abs(own).max()
    assert ids.dtype == np.uint8
    assert (close | (ids == logits_of(run, images).argmax(1))).all()


def test_torch_export_takes_padded_images(run: Path):
    network = torch.export.load(run / "export/run.pt2").module()
    _, meta = segtrain.load(run / "checkpoints/best.safetensors")
    images = photo((64, 96))
    mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (meta.mean, meta.std))
    found = network(torch.from_numpy((images - mean) / std).float())
    np.testing.assert_allclose(found.detach().numpy(), logits_of(run, images), atol=1e-5)


@pytest.mark.parametrize("size", [*SIZES, (1, 1)])
@pytest.mark.parametrize("suffix", ["onnx", "xml", "pt2"])
def test_segtrain_reads_its_files_at_every_size(run: Path, suffix: str, size: tuple[int, int]):
    network = load_written(run, run / f"export/run.{suffix}")
    images = photo(size)
    own = logits_of(run, images)
    with torch.inference_mode():
        found = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, own, atol=1e-4 * np.abs(own).max())


@pytest.mark.parametrize(
    "format, arch, options",
    [
        ("onnx", "pspnet", "psp_out_channels: 16"),  # averages cells by the image's size
        ("pt2", "unet", "decoder_channels: [8, 8, 8, 8, 8]"),  # one pixel is left of a step
    ],
)
def test_other_architectures_take_every_size(cli, run: Path, format: str, arch: str, options: str):
    network = ["--arch", arch, "--encoder", "tu-test_byobnet", "--name", "r"]
    network += [*ANY_NETWORK, "--set", f"model.options={{{options}}}"]
    fitted = cli("fit", "--data", run.parent / "set", *network)
    assert fitted.code == 0, fitted.stderr
    done = cli("export", "r", "--format", format, "--out", f"a.{format}")
    assert done.code == 0, done.stderr
    exported = load_written(Path("runs/r"), Path(f"a.{format}"))
    for size in SIZES:
        images = photo(size)
        own = logits_of(Path("runs/r"), images)
        with torch.inference_mode():
            found = exported(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(found, own, atol=1e-4 * np.abs(own).max())


def test_plain_smp_and_albumentations_read_the_folder(run: Path, tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    script = f"""
import sys, numpy as np, albumentations as A, segmentation_models_pytorch as smp
network = smp.from_pretrained({str(run / "export/run-hf")!r}).eval()
prepare = A.Compose.from_pretrained({str(run / "export/run-hf")!r})
image = np.load({str(tmp_path / "image.npy")!r})
logits = network(prepare(image=image)["image"][None])[..., :33, :47]
np.save({str(tmp_path / "logits.npy")!r}, logits.detach().numpy())
assert "segtrain" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error:Argument", "-c", script], check=True)
    own = logits_of(run, image.transpose(2, 0, 1)[None])
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), own, atol=1e-5)
    card = (run / "export/run-hf/README.md").read_text()
    assert "license:" in card and "smp.from_pretrained" in card and "mIoU" in card


def test_the_file_says_what_it_is(run: Path):
    texts = {p.key: p.value for p in onnx.load(run / "export/run.onnx").metadata_props}
    meta, card = json.loads(texts["segtrain"]), json.loads(texts["segtrain_export"])
    assert meta["classes"] == ["0", "1", "2"] and len(meta["palette"]) == 3
    assert meta["config"]["data"]["lb_ignore"] == 255
    assert card["precision"] == "32" and card["proof"]["images"] == 1
    assert card["proof"]["miou"] == pytest.approx(card["proof"]["exported_miou"], abs=1e-4)
    assert card["versions"]["onnxruntime"] == onnxruntime.__version__


@pytest.mark.parametrize("name", ["run.onnx", "run.xml", "run-hf"])
def test_eval_and_predict_take_what_export_wrote(cli, run: Path, name: str):
    network = run / "export" / name
    image = run.parent / "set/images/000.png"
    for checkpoint, out in ((run, "own"), (network, "exported")):
        precision = ["--set", "eval.tta=[hflip,0.5]"]
        answer = cli("predict", image, "--checkpoint", checkpoint, "--out", out, *precision)
        assert answer.code == 0, answer.stderr
    own, found = (np.array(Image.open(f"{out}/000_mask.png")) for out in ("own", "exported"))
    assert (own == found).mean() > 0.999
    answer = cli("eval", network, "--json")
    scores = json.loads(answer.stdout)
    assert answer.code == 0
    own_scores = json.loads(cli("eval", run, "--json").stdout)
    assert scores["miou"] == pytest.approx(own_scores["miou"], abs=1e-3)
    assert list((run / "export").rglob("report.html"))
    if name != "run-hf":
        answer = cli("compare", run, network)
        assert answer.code == 0, answer.stderr
        assert name in answer.stdout


def test_compare_asks_for_scores_of_the_file_as_it_is(cli, run: Path):
    shutil.copytree(run, "run")
    path = Path("run/export/run.onnx")
    shutil.rmtree(path.parent / "eval", ignore_errors=True)
    answer = cli("compare", "run", path)
    assert answer.code == 2 and f"segtrain eval {path}" in answer.error


def test_fine_tuning_starts_from_the_folder(cli, run: Path):
    weights = ["--weights", run / "export/run-hf"]
    answer = cli("fit", "--data", run.parent / "set", *QUICK, *weights)
    assert answer.code == 0 and "head included" in answer.stdout


@pytest.mark.parametrize("on_noise", [True, False])
def test_a_wrong_graph_is_no_file(cli, run: Path, monkeypatch, on_noise: bool):
    """One sign in the normalisation, found on noise, and on the images where noise is left out."""
    wrong = onnx_graph.BEFORE.replace("Sub(pixels, mean)", "Add(pixels, mean)")
    monkeypatch.setattr(onnx_graph, "BEFORE", wrong)
    if not on_noise:
        monkeypatch.setattr("segtrain.commands.export.compare_sizes", lambda *_: None)
    answer = cli("export", run, "--out", "new/a.onnx")
    assert answer.code == 1 and "isn't the trained one" in answer.error
    assert not list(Path("new").glob("*.onnx"))


@pytest.mark.parametrize("precision", ["16", "int8"])
def test_other_precisions_cost_no_more_than_allowed(cli, run: Path, precision: str, monkeypatch):
    options = ["export", run, "--precision", precision, "--out", "new/a.onnx"]
    with monkeypatch.context() as patched:
        patched.setattr(proof.Proof, "drop", 0.01)
        answer = cli(*options)
    assert answer.code == 1 and "mIoU" in answer.error and not Path("new/a.onnx").exists()
    answer = cli(*options, "--max-drop", "1")
    assert answer.code == 0, answer.stderr
    texts = {p.key: p.value for p in onnx.load("new/a.onnx").metadata_props}
    assert json.loads(texts["segtrain_export"])["precision"] == precision
    kinds = {tensor.data_type for tensor in onnx.load("new/a.onnx").graph.initializer}
    wanted = {"16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}[precision]
    assert wanted in kinds
    session = onnxruntime.InferenceSession("new/a.onnx")
    assert session.run(None, {"images": photo((33, 47))})[0].shape == (2, 33, 47)


def test_torch_export_has_half_precision(cli, run: Path):
    answer = cli("export", run, "--format", "pt2", "--precision", "16", "--out", "a.pt2")
    assert answer.code == 0, answer.stderr
    network = torch.export.load("a.pt2").module()
    assert network(torch.zeros(1, 3, 64, 64).half()).dtype == torch.float16


@pytest.mark.parametrize(
    "options, words",
    [
        (["--format", "onx"], ["onx", "onnx"]),
        (["--precision", "fp16"], ["fp16", "16"]),
        (["--outputs", "ids,shares"], ["shares", "probs"]),
        (["--proof", "some"], ["some", "all"]),
        (["--proof", "none", "--precision", "int8"], ["int8", "mIoU"]),
        (["--format", "pt2", "--precision", "int8"], ["pt2", "int8"]),
        (["--input", "float"], ["float32"]),
        (["--push", "me/it"], ["--format hf"]),
        (["--push", "it", "--format", "hf"], ["OWNER/NAME"]),
        (["--format", "hf", "--precision", "16"], ["hf", "32"]),
        (["--format", "hf", "--outputs", "probs"], ["--outputs", "hf"]),
        (["--format", "pt2", "--input", "float32"], ["--input", "pt2"]),
        (["--max-drop", "nan"], ["nan", "0..1"]),
        (["--max-drop", "-0.1"], ["0..1"]),
        (["--set", "train.epochs=3"], ["train.epochs"]),
        (["hf://nobody"], ["hf://OWNER/NAME"]),
    ],
)
def test_wrong_options_are_refused(cli, run: Path, options: list[str], words: list[str]):
    target = [] if options[0].startswith("hf:") else [run]
    answer = cli("export", *target, *options)
    assert answer.code == 2 and all(word in answer.error for word in words)


def test_a_hub_that_cant_be_reached_is_named(cli, run: Path):
    answer = cli("predict", run.parent / "set/images/000.png", "--checkpoint", "hf://a/b")
    assert answer.code == 1 and "hf://a/b" in answer.error
    answer = cli("export", run, "--format", "hf", "--out", "folder", "--push", "a/b")
    assert answer.code == 1 and "a/b" in answer.error and Path("folder/config.json").is_file()


def test_the_hub_gives_and_takes_folders(cli, run: Path, monkeypatch):
    asked, sent = [], {}

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert not any(pattern.endswith((".py", ".pkl")) for pattern in allow_patterns)
        return str(run / "export/run-hf")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, name, exist_ok: None)
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "upload_folder",
        lambda self, repo_id, folder_path, allow_patterns: (
            sent.update({repo_id: sorted(allow_patterns)}) or "https://hub"
        ),
    )
    answer = cli("predict", run.parent / "set/images/000.png", "--checkpoint", "hf://a/b@v1")
    assert answer.code == 0, answer.stderr
    fit = ["fit", "--data", run.parent / "set", *QUICK, "--weights", "hf://a/b", "--dry-run"]
    assert cli(*fit).code == 0
    assert segtrain.load("hf://a/b")[1].classes == ["0", "1", "2"]
    assert asked == [("a/b", "v1"), ("a/b", None), ("a/b", None)]
    answer = cli("export", run, "--format", "hf", "--out", "folder", "--push", "a/c")
    assert answer.code == 0 and "https://hub" in answer.stdout
    # and nothing else that lies in the folder, such as pictures of an evaluation
    assert sent == {"a/c": sorted(path.name for path in Path("folder").iterdir())}


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_a_missing_package_is_named(cli, run: Path, monkeypatch, package: str):
    def load(name: str):
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return __import__(name)

    monkeypatch.setattr(exported_files, "import_module", load)
    answer = cli("export", run, "--format", "openvino", "--out", "a.xml")
    assert answer.code == 2 and package in answer.error and "segtrain-cli[export]" in answer.error


def test_files_of_others_are_refused(cli, run: Path):
    proto = onnx.load(run / "export/run.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, "foreign.onnx")
    Path("text.onnx").write_text("no network")
    for name in ("foreign.onnx", "text.onnx"):
        answer = cli("eval", name)
        assert answer.code == 1 and name in answer.error
    Path("x.png").touch()
    for device in ("cuda", "mps"):
        answer = cli(
            "predict", "x.png", "--checkpoint", run / "export/run.onnx", "--device", device
        )
        assert answer.code == 2 and f"--device {device}" in answer.error


def test_without_proof_the_card_says_so(cli, run: Path, monkeypatch):
    shutil.copytree(run, "alone")
    # its data are gone
    monkeypatch.setattr("segtrain.commands.requests.refuse_missing_data", pytest.fail)
    answer = cli("export", "alone", "--proof", "none", "--input", "float32", "--out", "a.onnx")
    assert answer.code == 0, answer.stderr
    texts = {p.key: p.value for p in onnx.load("a.onnx").metadata_props}
    assert json.loads(texts["segtrain_export"])["proof"] == "none"
    session = onnxruntime.InferenceSession("a.onnx")
    images = photo((33, 47)).astype(np.float32)
    (ids,) = session.run(None, {"images": images})
    assert (ids == logits_of(run, images).argmax(1)).mean() > 0.999


@pytest.mark.parametrize(
    "key, value", [("classes", 5), ("_model_class", "FPN"), ("decoder_channels", [8, 8, 8])]
)
def test_a_folder_that_lies_about_its_network_is_refused(cli, run: Path, key: str, value):
    shutil.copytree(run / "export/run-hf", "folder")
    config = json.loads(Path("folder/config.json").read_text())
    Path("folder/config.json").write_text(json.dumps(config | {key: value}))
    answer = cli("eval", "folder")
    assert answer.code == 1 and f"{key} is {value!r}" in answer.error


def test_weights_of_another_export_are_refused(cli, run: Path):
    for suffix in (".xml", ".bin"):
        shutil.copy(run / f"export/run{suffix}", f"a{suffix}")
    with open("a.bin", "r+b") as file:
        file.write(b"other")
    answer = cli("eval", "a.xml")
    assert answer.code == 1 and "a.bin" in answer.error


def test_files_of_torch_export_are_not_read(cli, run: Path):
    """Reading one runs what it holds: pickles, and expressions of sizes."""
    path = run / "export/run.pt2"
    image = run.parent / "set/images/000.png"
    for command in (
        ["eval", path],
        ["predict", image, "--checkpoint", path],
        ["compare", path, run],
    ):
        answer = cli(*command)
        assert answer.code == 2 and "runs code" in answer.error, command
    answer = cli("fit", "--data", run.parent / "set", *QUICK, "--weights", path)
    assert answer.code == 2 and "exported" in answer.error
    with pytest.raises(SegtrainError, match="exported already"):
        segtrain.load(run / "export/run.onnx")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"segtrain_export": "null"}, "damaged"),
        ({"segtrain_export": "{}"}, "damaged"),
        ({"classes": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]]}, "gives 3 classes"),
    ],
)
def test_metadata_that_lie_are_refused(cli, run: Path, change: dict, words: str):
    network = onnx.load(run / "export/run.onnx")
    texts = {entry.key: entry.value for entry in network.metadata_props}
    meta = json.loads(texts["segtrain"]) | {
        k: v for k, v in change.items() if k in ("classes", "palette")
    }
    card = change.get("segtrain_export", texts["segtrain_export"])
    del network.metadata_props[:]
    onnx.helper.set_model_props(network, {"segtrain": json.dumps(meta), "segtrain_export": card})
    onnx.save(network, "lies.onnx")
    answer = cli("predict", run.parent / "set/images/000.png", "--checkpoint", "lies.onnx")
    assert answer.code == 1 and words in answer.error


@pytest.mark.parametrize("name", ["ids", "confidence", "probs"])
def test_wrong_outputs_are_no_file(cli, run: Path, monkeypatch, name: str):
    """Those that the file itself gives, not the logits that are read for the proof."""
    kind, nodes = onnx_graph.OUTPUTS[name]
    wrong = nodes.replace("ArgMax<", "ArgMin<").replace("Softmax<axis=1>", "Softmax<axis=2>")
    assert wrong != nodes
    monkeypatch.setitem(onnx_graph.OUTPUTS, name, (kind, wrong))
    answer = cli("export", run, "--outputs", name, "--out", "a.onnx")
    assert answer.code == 1 and name in answer.error and not Path("a.onnx").exists()


def test_files_of_the_user_stay(cli, run: Path):
    """Beside the output: a log, weights of another network, hidden files, an edited card."""
    for name in ("a.onnx.log", "a.bin", ".tmp-notes", ".tmp-1-notes"):
        Path(name).write_text("mine")
    killed = Path(".tmp-9999999-a.onnx")  # what an export that was killed leaves
    killed.write_text("half")
    assert cli("export", run, "--proof", "none", "--out", "a.onnx").code == 0
    assert not killed.exists()
    answer = cli("export", run, "--proof", "none", "--format", "openvino", "--out", "a.xml")
    assert answer.code == 2 and "a.bin" in answer.error
    for _ in range(2):
        answer = cli("export", run, "--proof", "none", "--format", "hf", "--out", "folder")
        assert answer.code == 0 and "kept" not in answer.stdout
    card = Path("folder/README.md")
    card.write_text(card.read_text().replace("license: other", "license: mit"))
    answer = cli("export", run, "--proof", "none", "--format", "hf", "--out", "folder")
    assert answer.code == 0 and "kept folder/README.md" in answer.stdout
    assert "license: mit" in card.read_text()
    for name in ("a.onnx.log", "a.bin", ".tmp-notes", ".tmp-1-notes"):
        assert Path(name).read_text() == "mine"


def test_names_of_classes_are_text_in_the_card():
    assert hub.escape_markdown("a|b\n<i>`_") == r"a\|b\\x0a\<i\>\`\_"


def test_places_of_another_kind_are_refused(cli, run: Path):
    Path("file").write_text("")
    Path("folder.onnx").mkdir()
    for options, word in (
        (["--out", "a.xml"], "a.onnx"),
        (["--out", "folder.onnx"], "folder.onnx"),
        (["--format", "hf", "--out", "file"], "folder"),
    ):
        answer = cli("export", run, "--proof", "1", *options)
        assert answer.code == 2 and word in answer.error
    answer = cli("export", run / "export/run.onnx")
    assert answer.code == 2 and "checkpoint" in answer.error


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_place_is_named(cli, run: Path):
    Path("closed").mkdir(mode=0o500)
    answer = cli("export", run, "--out", "closed/a.onnx")
    assert answer.code == 1 and "closed" in answer.error


def test_a_tolerance_is_one_of_logits_and_of_ties():
    own = torch.tensor([10.0, 9.995, -3]).view(1, 3, 1, 1)
    tie = torch.tensor([9.995, 10.0, -3]).view(1, 3, 1, 1)
    far = torch.tensor([9.0, 10.0, -3]).view(1, 3, 1, 1)
    difference = proof.LogitDifference()
    difference.add(own, tie)
    difference.refuse("a tie")
    difference.add(own, far)
    with pytest.raises(SegtrainError, match="isn't the trained one"):
        difference.refuse("another network")
    with pytest.raises(SegtrainError, match="NaN"):
        difference.add(own, own / 0 * 0)
