"""The command line: options -> Config -> one verb. Nothing here knows how to train."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperCommand, TyperGroup

import segtrain
from segtrain.config import load_config
from segtrain.errors import SegtrainError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class OneLineErrors(TyperGroup):
    """Prints a SegtrainError or a wrong option as one line; --debug shows every traceback."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        # --debug may stand anywhere; it is the group's option, so it goes first
        return super().parse_args(ctx, sorted(args, key=lambda arg: arg != "--debug"))

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            _fail("interrupted; a training goes on after its last whole epoch with 'segtrain fit --resume'")
            raise typer.Exit(INTERRUPTED) from None
        except (SegtrainError, typer.TyperException) as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            _fail(error if isinstance(error, SegtrainError) else error.format_message())
            raise typer.Exit(error.exit_code) from None
        except Exception as error:
            where = _keep_traceback()
            if ctx.params["debug"]:
                traceback.print_exc()
            _fail(f"this is a fault of segtrain's: {type(error).__name__}; please report {where}")
            raise typer.Exit(1) from None


class BareResume(TyperCommand):
    """Lets --resume stand without a value: the latest run."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        spelled = []
        for arg, following in zip(args, [*args[1:], "-"]):
            spelled.append(arg)
            if arg == "--resume" and following.startswith("-"):
                spelled.append("latest")
        return super().parse_args(ctx, spelled)


def _fail(message: object) -> None:
    typer.echo(f"error: {' '.join(str(message).split())}", err=True)


def _keep_traceback() -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="segtrain-error-", suffix=".log", delete=False
    ) as file:
        file.write(f"segtrain {segtrain.__version__}\n{' '.join(sys.argv)}\n\n")
        traceback.print_exc(file=file)
        return file.name


app = typer.Typer(cls=OneLineErrors, add_completion=False, no_args_is_help=True,
                  pretty_exceptions_enable=False, rich_markup_mode=None)  # fmt: skip


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"segtrain {segtrain.__version__}")
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True,
                                          help="Show the version and stop.")] = False,
) -> None:  # fmt: skip
    """Train, measure and use semantic segmentation on a folder of images and masks."""


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, show_default=False, **more)


Out = Annotated[Path, _option("Folder of all runs. [default: runs]", "--out")]
Sets = Annotated[list[str], _option(
    "Any other config field, as key.path=value (value in YAML); again for each. "
    "[default: none]", "--set", metavar="KEY=VALUE")]  # fmt: skip
Device = Annotated[Optional[str], _option(
    "auto, cpu or cuda. [default: auto, cuda where there is one]")]  # fmt: skip
Workers = Annotated[Optional[str], _option(
    "Loader processes for each device. [default: auto, 1 on CPU, up to 8 on a GPU]")]  # fmt: skip


@app.command(cls=BareResume)
def fit(
    config: Annotated[Optional[Path], _option(
        "YAML file of config sections. [default: none]", metavar="FILE")] = None,
    data: Annotated[Optional[str], _option(
        "Folder of the data set, or demo. [default: data/ where it holds one, else demo]",
        metavar="PATH|demo")] = None,
    arch: Annotated[Optional[str], _option(
        "Architecture of segmentation-models-pytorch. [default: unet]")] = None,
    encoder: Annotated[Optional[str], _option(
        "Its encoder; tu-NAME for timm's. [default: resnet18]")] = None,
    weights: Annotated[Optional[str], _option(
        "auto, imagenet, none or FILE (a checkpoint or an encoder's state dict). [default: auto, "
        "imagenet where it can be had within 3 seconds, else none]")] = None,
    loss: Annotated[Optional[str], _option(
        "ce, ohem, dice or a sum such as ohem+0.5*dice. [default: ohem]")] = None,
    thresh: Annotated[Optional[float], _option(
        "ohem keeps pixels whose true class has a lower probability, in (0, 1]. "
        "[default: 0.7]")] = None,
    lb_ignore: Annotated[Optional[int], _option(
        "Class id of pixels that count nowhere. [default: 255]")] = None,
    n_min_factor: Annotated[Optional[int], _option(
        "ohem keeps at least one in so many valid pixels. [default: 16]")] = None,
    epochs: Annotated[Optional[int], _option(
        "Passes over the training images. [default: 50]")] = None,
    batch_size: Annotated[Optional[int], _option(
        "Images an optimiser step, over all devices together. [default: 8]")] = None,
    lr: Annotated[Optional[float], _option(
        "Peak learning rate of AdamW. [default: 0.001]")] = None,
    crop: Annotated[Optional[str], _option(
        "Height and width in pixels of what training sees. [default: the training images' median "
        "size, at most 512, rounded up to 32]", metavar="HxW")] = None,
    device: Device = None,
    devices: Annotated[Optional[int], _option(
        "Processes on each host, one a device. [default: 1]")] = None,
    nodes: Annotated[Optional[int], _option("Hosts. [default: 1]")] = None,
    precision: Annotated[Optional[str], _option(
        "auto, 32, bf16 or fp16. [default: auto, bf16 or fp16 on a GPU, 32 on CPU]")] = None,
    workers: Workers = None,
    seed: Annotated[Optional[int], _option(
        "Of weights, order and augmentation. [default: 0]")] = None,
    out: Out = Path("runs"),
    name: Annotated[Optional[str], _option(
        "The run's folder in --out; an existing one is an error. "
        "[default: date, time, arch and loss]")] = None,
    resume: Annotated[Optional[str], _option(
        "Go on with this run after its last whole epoch; without a value, with the latest. "
        "[default: start a new run]", metavar="[RUN]")] = None,
    dry_run: Annotated[bool, _option(
        "Print the resolved config, images per split, parameters and steps per epoch, and stop. "
        "[default: train]", "--dry-run")] = False,
    set_: Sets = [],
) -> None:  # fmt: skip
    """Train a network on pairs of images and masks."""
    flags = {
        "data.path": data, "data.lb_ignore": lb_ignore, "data.workers": workers,
        "augment.crop": crop, "model.arch": arch, "model.encoder": encoder,
        "model.weights": weights, "loss.expression": loss, "loss.thresh": thresh,
        "loss.n_min_factor": n_min_factor, "optim.lr": lr, "train.epochs": epochs,
        "train.batch_size": batch_size, "train.device": device, "train.devices": devices,
        "train.nodes": nodes, "train.precision": precision, "train.seed": seed,
    }  # fmt: skip
    from segtrain.fit import fit as run_fit
    from segtrain.fit import run_to_resume

    old = run_to_resume(resume, out) if resume else None
    base = load_config(old / "config.yaml") if old else None
    run_fit(load_config(config, set_, flags, base), out, name, old, dry_run)


@app.command("eval")
def evaluate(
    run: Annotated[Optional[Path], typer.Argument(
        help="A run's folder or a checkpoint. [default: the latest run's best]",
        metavar="[RUN|CHECKPOINT]", show_default=False)] = None,
    split: Annotated[str, _option("Which split to score. [default: val]")] = "val",
    data: Annotated[Optional[str], _option(
        "Folder of the data set. [default: the one trained on]", metavar="PATH|demo")] = None,
    device: Device = None,
    workers: Workers = None,
    out: Out = Path("runs"),
    set_: Sets = [],
) -> None:  # fmt: skip
    """Score a split at the images' own size; report under the run's eval/SPLIT/."""
    flags = {"data.path": data, "data.workers": workers, "train.device": device}
    from segtrain.evaluate import evaluate as run_evaluate

    run_evaluate(run, out, split, set_, flags)


@app.command()
def predict(
    paths: Annotated[list[str], typer.Argument(
        help="Images, folders and globs; demo for some of the demo's.", metavar="PATH...",
        show_default=False)],
    checkpoint: Annotated[Optional[Path], _option(
        "A checkpoint or a run's folder. [default: the latest run's best]",
        metavar="FILE")] = None,
    out: Annotated[Path, _option(
        "Folder to write STEM_mask.png and STEM_overlay.png to. "
        "[default: predictions]")] = Path("predictions"),
    runs: Annotated[Path, _option("Folder of all runs. [default: runs]")] = Path("runs"),
    legend: Annotated[bool, _option(
        "Name the classes below the overlay. [default: no]", "--legend")] = False,
    device: Device = None,
    set_: Sets = [],
) -> None:  # fmt: skip
    """Predict masks and overlays of images, each at its own size."""
    from segtrain.predict import predict as run_predict

    run_predict(paths, checkpoint, runs, out, legend, set_, {"train.device": device})
