"""Requests to the commands: options resolved, and refused as far as neither torch nor data decides.

Importing torch takes seconds, and reading data minutes; a typo should cost neither.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segtrain.config import Config, DataConfig
from segtrain.config.addresses import is_remote
from segtrain.config.loading import (
    adopt_older_defaults,
    adopt_older_names,
    list_given,
    load_config,
    make_config,
)
from segtrain.config.sources import read_sources
from segtrain.console import write, write_notes
from segtrain.data.demo import SETTINGS
from segtrain.data.layouts.folders import refuse_missing_folder
from segtrain.data.layouts.locate import is_demo
from segtrain.distributed.processes import is_restart_of, may_be_rank_zero
from segtrain.errors import UsageError, did_you_mean
from segtrain.evaluation.data_section import reset_files
from segtrain.files.places import resolve_path
from segtrain.losses.spec import LossSpec, parse_loss
from segtrain.models.checkpoint import Meta, read_meta
from segtrain.models.exported import OUTPUTS, is_exported, read_exported, refuse_pt2
from segtrain.models.hub import ADDRESS, PREFIX, fetch_hub
from segtrain.models.names import check_names, refuse_missing_weights, take_names
from segtrain.runs.folder import (
    CONFIG,
    ENVIRONMENT,
    find_checkpoint,
    find_resumed_run,
    read_latest,
    refuse_name,
)
from segtrain.runs.trackers import refuse_missing_tracker


@dataclass(frozen=True)
class FitOptions:
    """Options of fit's command line."""

    file: Path | None  # --config
    sets: list[str]  # --set
    flags: dict[str, Any]  # options of config fields by dotted key; None: not given
    out: Path
    name: str | None = None
    resume: str | None = None


@dataclass(frozen=True)
class FitRequest:
    """A training to start, or to resume."""

    options: FitOptions
    config: Config
    loss: LossSpec
    old_run: Path | None  # the run to resume


@dataclass(frozen=True)
class NetworkRequest:
    """A trained network to use, with the command's changes to its config."""

    checkpoint: Path
    meta: Meta
    config: Config
    own: Config  # as it is without the command's changes
    other_data: DataConfig  # the data section for files that are not the training's


@dataclass(frozen=True)
class ExportOptions:
    """Options of export's command line."""

    format: str  # onnx, openvino, pt2 or hf
    out: Path | None
    precision: str = "32"  # or 16, int8
    outputs: tuple[str, ...] = ("ids",)
    pixel: str = "uint8"  # type of the input, or float32
    proof: int | None = None  # images to prove it on; None: all of the split
    max_drop: float = 0.005  # of the mIoU, that 16 and int8 may cost
    push: str | None = None  # OWNER/NAME on the hub


NETWORK_ALONE = {"pt2": ("32", "16"), "hf": ("32",)}  # formats, and the precisions they have


@dataclass(frozen=True)
class MasksRequest:
    """Masks of another tool to score."""

    folder: Path
    config: Config


def request_fit(options: FitOptions) -> FitRequest:
    """Resolve the options of a training. Raise UsageError."""
    earlier = options.out / options.name if options.name else read_latest(options.out)
    if not options.resume and is_restart_of(earlier / ENVIRONMENT):
        options = replace(options, resume=str(earlier.resolve()), name=None)
    if options.resume and options.name:
        raise UsageError("--name is for a new run, --resume continues one; leave one out")
    if options.resume == "":  # as of a shell's variable that isn't set
        raise UsageError("--resume: expected a run, got an empty text")
    old_run = find_resumed_run(options.resume, options.out) if options.resume else None
    base, notes = adopt_older_defaults(load_config(old_run / CONFIG)) if old_run else (None, [])
    write_notes(notes)
    check_sources(options)
    config = load_config(options.file, options.sets, options.flags, base)
    demo_settings = not old_run and takes_demo_settings(config)
    if demo_settings:
        config = load_config(options.file, options.sets, options.flags | SETTINGS)
    if not old_run:
        config, notes = adopt_older_names(config)
        write_notes(notes)
    config, notes = take_names(config)
    write_notes(notes, stderr=True)
    if (weights := fetch_hub(config.model.weights)) != config.model.weights:
        model = config.model.model_copy(update={"weights": weights})
        config = config.model_copy(update={"model": model})
    loss = check_training(config).with_defaults(read_loss(base) if base else None)
    if demo_settings and may_be_rank_zero():
        fields = ", ".join(f"{key} {value}" for key, value in SETTINGS.items())
        write(f"demo: its own settings: {fields}; giving any of these fields turns all off")
    if options.name and may_be_rank_zero():
        refuse_name(options.out, options.name)
    return FitRequest(options, config, loss, old_run)


def takes_demo_settings(config: Config) -> bool:
    """Return whether a new training takes the demo's settings: on the demo, if it gives none."""
    return is_demo(config.data) and not list_given(config) & SETTINGS.keys()


def check_sources(options: FitOptions) -> None:
    """Raise UsageError for a wrong name or loss in the file or a --set, also where overridden."""
    for source in read_sources(options.file, options.sets, {}):
        for key in {*source.list_fields()} & {"model.arch", "model.encoder", "loss.expression"}:
            section, name = key.split(".")
            alone = make_config({section: {name: source.values[section][name]}})
            model = take_names(alone)[0].model
            try:
                check_names(model.arch, model.encoder)
                parse_loss(alone.loss.expression, alone.loss.thresh, alone.loss.n_min_factor)
            except UsageError as error:
                raise UsageError(f"{source.name}: {error}") from error


def check_training(config: Config) -> LossSpec:
    """Return the loss of a training. Raise UsageError for wrong names and missing files."""
    check_names(config.model.arch, config.model.encoder)
    loss = read_loss(config)
    if may_be_rank_zero():  # other hosts may not see them
        refuse_missing_weights(config.model.weights)
        refuse_missing_data(config.data.path)
        refuse_missing_tracker(config.train.track)
    return loss


def read_loss(config: Config) -> LossSpec:
    """Parse the loss of a config.

    Raise UsageError for a wrong expression, and for one that several devices can't compute.
    """
    devices = config.train.devices * config.train.nodes
    loss = parse_loss(config.loss.expression, config.loss.thresh, config.loss.n_min_factor)
    if config.data.classes:
        loss.check_classes(len(config.data.classes))
    if loss.one_device and devices > 1 and config.loss.sync:
        raise UsageError(f"loss: {loss.one_device}: one device computes it, not {devices}")
    return loss


def refuse_missing_data(path: str | None) -> None:
    """Raise UsageError where data.path names nothing here; an address is asked when it is read."""
    if path is not None and is_remote(path):
        return
    root = resolve_path("demo" if path is None else path)
    if path not in (None, "demo") and not root.is_file():  # a list, or a COCO JSON
        refuse_missing_folder(root)


def find_network(target: str | None, runs: Path) -> Path:
    """Return the file of a command's network: a run's, a checkpoint, or one of the hub.

    Raise UsageError where there is none.
    """
    path = find_checkpoint(target and fetch_hub(target), runs)
    refuse_pt2(path)
    return path


def request_score(checkpoint: Path, sets: list[str], flags: dict[str, Any]) -> NetworkRequest:
    """Resolve the options of an evaluation, as `request_network` does, and refuse missing data."""
    request = request_network(checkpoint, sets, flags)
    refuse_missing_data(request.config.data.path)
    return request


def request_network(checkpoint: Path, sets: list[str], flags: dict[str, Any]) -> NetworkRequest:
    """Read a network's metadata and change its config by sets and flags. Raise SegtrainError.

    One in an exported file computes in its own precision, on the CPU.
    """
    fixed: dict[str, Any] = {}
    if is_exported(checkpoint):
        if (device := flags.get("train.device")) in ("cuda", "mps"):
            raise UsageError(
                f"--device {device}: {checkpoint} is computed on the CPU; leave it out"
            )
        meta, _ = read_exported(checkpoint)
        fixed = {"train.device": "cpu", "train.precision": "32"}
    else:
        meta = read_meta(checkpoint)
    config, own = meta.config_here(sets, flags | fixed), meta.config_here([], fixed)
    if is_exported(checkpoint) and meta.tuning and not config.predict.tuned:
        raise UsageError(
            f"predict.tuned: {checkpoint} was exported with its tuning; export its run again with "
            "--set predict.tuned=false"
        )
    return NetworkRequest(checkpoint, meta, config, own, reset_files(meta, sets, flags))


def parse_export(options: ExportOptions, outputs: str, proof: str) -> ExportOptions:
    """Return export's options with the outputs and the number of images as the user wrote them.

    Raise UsageError for what can't be.
    """
    allowed = {
        "format": ("onnx", "openvino", "pt2", "hf"),
        "precision": ("32", "16", "int8"),
        "pixel": ("uint8", "float32"),
    }
    for name, choices in allowed.items():
        given = getattr(options, name)
        if given not in choices:
            option = "input" if name == "pixel" else name
            hint = did_you_mean(given, choices)
            raise UsageError(f"--{option} {given}: it can be {', '.join(choices)}{hint}")
    if options.push and options.format != "hf":
        raise UsageError(f"--push {options.push}: the hub takes a folder; add --format hf")
    if options.push and not ADDRESS.fullmatch(PREFIX + options.push):
        raise UsageError(f"--push {options.push}: expected OWNER/NAME")
    if not 0 <= options.max_drop <= 1:  # nan is neither
        raise UsageError(f"--max-drop {options.max_drop}: it can be 0..1, of the mIoU")
    names = tuple(dict.fromkeys(name.strip() for name in outputs.split(",")))
    for name in names:
        if name not in OUTPUTS:
            hint = did_you_mean(name, OUTPUTS)
            raise UsageError(f"--outputs {outputs}: {name!r} is none of {', '.join(OUTPUTS)}{hint}")
    if options.format in NETWORK_ALONE:
        precisions = NETWORK_ALONE[options.format]
        if options.precision not in precisions:
            raise UsageError(
                f"--precision {options.precision}: --format {options.format} has "
                f"{' and '.join(precisions)}, onnx and openvino have all"
            )
        if names != ("ids",) or options.pixel != "uint8":
            option = "--input" if names == ("ids",) else "--outputs"
            raise UsageError(
                f"{option}: --format {options.format} is the network alone, from normalised "
                "images to logits; onnx and openvino have a choice"
            )
        names, options = ("logits",), replace(options, pixel="float32")
    count = {"all": None, "none": 0}.get(proof, proof)
    if isinstance(count, str):
        if not count.isascii() or not count.isdigit() or not int(count):
            raise UsageError(f"--proof {proof}: it can be all, none or a number of images")
        count = int(count)
    if count == 0 and options.precision != "32":
        raise UsageError(
            f"--proof none: --precision {options.precision} is only written with the mIoU that it "
            "costs; leave --proof out"
        )
    return replace(options, outputs=names, proof=count)


def request_masks(
    folder: Path, file: Path | None, sets: list[str], flags: dict[str, Any], as_json: bool
) -> MasksRequest:
    """Resolve the config of the data set that masks are scored on. Raise UsageError."""
    config, notes = adopt_older_names(load_config(file, sets, flags))
    write_notes(notes, stderr=as_json)
    if not folder.is_dir():
        raise UsageError(f"--predictions {folder}: no such folder")
    refuse_missing_data(config.data.path)
    return MasksRequest(folder, config)
