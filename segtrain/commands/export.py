"""segtrain export: a trained network in a file for other programs, proven to be equal."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from segtrain.commands.requests import ExportOptions, NetworkRequest
from segtrain.console import progress, quiet, write, write_notes
from segtrain.data.loading.dataset import Pairs
from segtrain.errors import SegtrainError, UsageError, first_line, translate_errors
from segtrain.evaluation.score_record import read_record
from segtrain.evaluation.scored_data import open_scored_data
from segtrain.evaluation.scored_runs import SCORES
from segtrain.export.formats import (
    Network,
    Write,
    load_pt2,
    write_onnx,
    write_openvino,
    write_pt2,
)
from segtrain.export.graph import OPSET, has_one_size
from segtrain.export.hub import HUB_FILES, MODEL_CARD, is_edited, load_hub, write_hub
from segtrain.export.proof import Proof, ProofImages, check_outputs, compare_sizes, prove
from segtrain.files.whole import remove_leftovers, save_text, whole_file, whole_folder
from segtrain.models.checkpoint import KEY, Meta, format_meta, load_model
from segtrain.models.exported import CARD, SUFFIXES, hash_content, is_exported, load_package
from segtrain.models.hub import push_hub
from segtrain.models.inference import choose_window
from segtrain.models.runtimes import load_exported, run_outputs
from segtrain.models.segmentation import SegmentationModel
from segtrain.models.weights import hash_weights
from segtrain.runs.folder import find_run_of, refuse_read_only

ONNX = ("onnx", "onnxscript", "onnxruntime")
NEEDED = {"onnx": ONNX, "openvino": (*ONNX, "openvino"), "pt2": (), "hf": ("timm",)}  # packages
LOG = "Output of the libraries that segtrain export calls"  # a log's first line
CALIBRATION = 16  # training images by which int8's ranges are measured


@dataclass(frozen=True)
class Export:
    """A network to export, and how."""

    request: NetworkRequest
    options: ExportOptions
    model: SegmentationModel
    meta: Meta

    def run(self) -> Path:
        """Write the file, or folder, once it is proven; return its path. Raise SegtrainError."""
        path, images = self.choose_path(), self.find_proof_images()
        refuse_read_only(path.parent)
        with self.open(path) as temporary:
            (save,) = progress(self.convert(path.with_name(f"{path.name}.log")), "exporting", 1)
            save(temporary, self.describe())
            with translate_errors(self.explain):
                proof = self.prove(temporary, images)
            save(temporary, self.describe(proof, temporary))
        write(str(proof) if proof else "not compared with the network in torch on images")
        whole = {"hf": path.glob("*"), "openvino": (path, path.with_suffix(".bin"))}
        size = sum(file.stat().st_size for file in whole.get(self.options.format, (path,)))
        if self.meta.tuning:
            place = "metadata, not the network" if self.options.format in ("pt2", "hf") else "graph"
            write(f"tuning, in the {place}: {self.meta.tuning.describe()}")
        write(f"wrote {path} ({size / 1e6:.1f} MB)")
        if self.options.push:
            write(f"pushed to {push_hub(path, self.options.push, HUB_FILES)}")
        return path

    @contextmanager
    def open(self, path: Path) -> Iterator[Path]:
        """Yield a temporary path whose content appears at `path` once the block has ended."""
        if self.options.format == "hf":
            edited = is_edited(path / MODEL_CARD)
            with whole_folder(path, HUB_FILES - {MODEL_CARD} if edited else HUB_FILES) as temporary:
                yield temporary
                if edited:
                    (temporary / MODEL_CARD).unlink()
            if edited:
                write(f"kept {path / MODEL_CARD}, which was edited")
            return
        remove_leftovers(path.parent)
        with ExitStack() as files:
            temporary = files.enter_context(whole_file(path))
            if self.options.format == "openvino":
                files.enter_context(whole_file(path.with_suffix(".bin")))
            yield temporary

    def choose_path(self) -> Path:
        """Return --out, or RUN/export/NAME.FORMAT. Raise UsageError where it can't be that."""
        suffix, out = SUFFIXES.get(self.options.format, ""), self.options.out
        if out:
            if suffix and (out.suffix != suffix or out.is_dir()):
                form = f"a file of --format {self.options.format}, {out.stem}{suffix}"
                raise UsageError(f"--out {out}: name {form}")
            weights = out.with_suffix(".bin")
            if suffix == ".xml" and weights.exists() and not out.exists():
                raise UsageError(f"--out {out}: {weights} is another's; take another name")
            if not suffix and out.exists() and not out.is_dir():
                raise UsageError(f"--out {out}: it is a file; --format hf is a folder")
            return out
        run = find_run_of(self.request.checkpoint)
        precision = self.options.precision
        name = run.resolve().name + ("" if precision == "32" else f"-{precision}")
        return run / "export" / f"{name}{suffix or '-hf'}"

    def find_proof_images(self) -> ProofImages | None:
        """Return the images of val that the file is proven on, evenly spread; None without."""
        wanted = self.options.proof
        if wanted == 0:
            return None
        pairs = self.open_pairs("val")
        count = min(wanted or len(pairs), len(pairs))
        indices = [i * len(pairs) // count for i in range(count)]
        return ProofImages(pairs, indices, "val", self.meta.classes, self.request.config.eval)

    def open_pairs(self, split: str) -> Pairs:
        """Return the pairs of a split, as `segtrain eval` reads them."""
        request = self.request
        data = open_scored_data(self.meta, request.config.data, request.other_data, split)
        write_notes(data.notes)
        return Pairs.of(data, split)

    def convert(self, log: Path) -> Iterator[Write]:
        """Yield what writes the network in the format; libraries print to the log."""
        with log_libraries(log), translate_errors(self.explain):
            write = self._convert()
        yield write

    def explain(self, error: BaseException) -> str:
        """Say why the network can't be exported: what lies at the root of a library's error."""
        while error.__cause__:
            error = error.__cause__
        config = self.meta.config.model
        return f"{config.arch} on {config.encoder} can't be exported: {first_line(error)}"

    def _convert(self) -> Write:
        options, half = self.options, self.options.precision == "16"
        if options.format == "pt2":
            return write_pt2(self.model, half)
        if options.format == "hf":
            return write_hub(self.model, self.meta, self.read_scores())
        from segtrain.export.onnx_graph import build_graph, convert_network

        network = convert_network(self.model, half)
        if options.precision == "int8":
            from segtrain.export.quantise import quantise

            with TemporaryDirectory() as folder:
                network = quantise(network, self.calibrate(), Path(folder))
        classes = len(self.meta.classes)
        graph = build_graph(network, self.model, classes, options.outputs, options.pixel)
        return {"onnx": write_onnx, "openvino": write_openvino}[options.format](graph)

    def read_scores(self) -> dict[str, Any] | None:
        """Return the run's own scores on val; None where it has none of these weights."""
        file = find_run_of(self.request.checkpoint) / "eval/val" / SCORES
        with suppress(OSError, ValueError):
            scores: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            record = read_record(scores)
            if record and record.weights == hash_weights(self.model.state_dict()):
                return scores
        return None

    def calibrate(self) -> Iterator[Tensor]:
        """Yield training images as the network sees them, evenly spread over the split."""
        pairs, model = self.open_pairs("train"), self.model
        for index in range(0, len(pairs), max(1, len(pairs) // CALIBRATION))[:CALIBRATION]:
            image, _ = pairs.read(index)
            height, width, _ = image.shape
            height, width = choose_window(height, width, self.request.config.eval)
            pixels = torch.from_numpy(image[:height, :width].copy()).permute(2, 0, 1).unsqueeze(0)
            yield model.pad((pixels.float() - model.mean) / model.std)

    def prove(self, path: Path, images: ProofImages | None) -> Proof | None:
        """Compare the file with the network in torch. Raise SegtrainError where it differs."""
        exact = self.options.precision == "32"
        exported = self.load(path)
        compare_sizes(self.model, exported, exact)
        if is_exported(path):
            check_outputs(self.model, exported, partial(run_outputs, path), self.options.pixel)
        if images is None:
            return None
        proof = prove(self.model, exported, images, exact)
        if not exact and proof.drop > self.options.max_drop:
            raise SegtrainError(
                f"--precision {self.options.precision} costs {proof.drop:.4f} mIoU, more than "
                f"--max-drop {self.options.max_drop}; no file is written: {proof}"
            )
        return proof

    def load(self, path: Path) -> Network:
        """Return the network of the file that was just written."""
        if self.options.format == "hf":
            return load_hub(path, self.model)
        if self.options.format == "pt2":
            return load_pt2(path, self.model, self.options.precision == "16")
        exported, _ = load_exported(path)
        return exported

    def describe(self, proof: Proof | None = None, path: Path | None = None) -> dict[str, str]:
        """Return the file's metadata: the checkpoint's, and those of the export as JSON.

        path: the file itself, once it is written, whose weights may lie in another one.
        """
        options = self.options
        packages = ("torch", *NEEDED[options.format])
        card: dict[str, Any] = {
            "format": options.format,
            "precision": options.precision,
            "opset": OPSET if options.format in ("onnx", "openvino") else None,
            "input": options.pixel,
            "outputs": list(options.outputs),
            "padding": list(self.model.padding),
            "one_size": has_one_size(self.model),
            "weights": hash_weights(self.model.state_dict()),
            "versions": {name: version(name) for name in packages},
            "proof": asdict(proof) if proof else "none",
        }
        if path and options.format == "openvino":
            card["bin"] = hash_content(path.with_suffix(".bin"))
        return {KEY: format_meta(self.meta), CARD: json.dumps(card)}


@contextmanager
def log_libraries(path: Path) -> Iterator[None]:
    """Keep what libraries print, warn of and log out of the terminal: in a file, if it is new."""
    log = io.StringIO()
    try:
        with quiet("torch"), quiet("onnxscript"), redirect_stdout(log), redirect_stderr(log):
            yield
    finally:
        known = path.exists() and not path.read_text("utf-8", "replace").startswith(LOG)
        if log.getvalue() and not known:
            save_text(path, f"{LOG}\n{log.getvalue()}")


def export(request: NetworkRequest, options: ExportOptions) -> Path:
    """Write a trained network to a file, proven to be equal; return its path."""
    for name in NEEDED[options.format]:
        load_package(name)
    if is_exported(request.checkpoint):
        raise UsageError(f"{request.checkpoint}: exported already; name its run or checkpoint")
    model, meta = load_model(request.checkpoint, tuned=request.config.predict.tuned)
    return Export(request, options, model, meta).run()
