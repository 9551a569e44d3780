"""The command line: options -> Config -> one verb. Nothing here knows how to train."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from segtrain.config import Config
from segtrain.distributed.processes import end_with_launcher
from segtrain.errors import SegtrainError, Stopped
from segtrain.version import __version__

LOSSES = "ce,ohem,focal,ghm,ohem+dice"
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class OneLineErrors(TyperGroup):
    """Prints a SegtrainError or a wrong option as one line; --debug shows every traceback."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        # --debug may stand anywhere; it is the group's option, so it goes first
        try:
            return super().parse_args(ctx, sorted(args, key=lambda arg: arg != "--debug"))
        except typer.TyperException as error:
            if not args:  # the error is the help page
                typer.echo(error.format_message())
                raise typer.Exit(error.exit_code) from None
            _fail(_explained(error))
            raise typer.Exit(error.exit_code) from None

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            _fail("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except Stopped as stopped:
            if str(stopped):
                typer.echo(str(stopped), err=True)
            raise typer.Exit(stopped.exit_code) from None
        except BrokenPipeError:  # whoever read our output has had enough, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except (SegtrainError, typer.TyperException) as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            _fail(error if isinstance(error, SegtrainError) else _explained(error))
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


def _explained(error: typer.TyperException) -> str:
    """What is wrong with a command line, and what to do where typer doesn't say."""
    text, ctx = error.format_message().rstrip("."), getattr(error, "ctx", None)
    if "No such command" in text and "Did you mean" not in text:
        return f"{text}; there are {', '.join(ctx.command.list_commands(ctx))}"
    if "No such option" in text and "Possible" not in text and ctx.parent:
        return f"{text}; 'segtrain {ctx.info_name} --help' lists them"
    if "unexpected extra argument" in text:
        text += "; put quotes around what has spaces in it"
        return text + ("; name a data set with --data" if ctx.info_name == "fit" else "")
    return text


def _fail(message: object) -> None:
    typer.echo(f"error: {' '.join(str(message).split())}", err=True)


def _keep_traceback() -> str:
    with tempfile.NamedTemporaryFile(
        "w", prefix="segtrain-error-", suffix=".log", delete=False
    ) as file:
        file.write(f"segtrain {__version__}\n{' '.join(sys.argv)}\n\n")
        traceback.print_exc(file=file)
        return file.name


app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"segtrain {__version__}")
        raise typer.Exit


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks of errors")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="show the version and stop"
        ),
    ] = False,
) -> None:
    """Train, measure and use semantic segmentation on a folder of images and masks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be of the terminal's text
            stream.reconfigure(errors="backslashreplace")


def _option(text: str, default: object, *names: str, **more: Any) -> Any:
    help_text = f"{text} [default: {default}]"
    return typer.Option(*names, help=help_text, show_default=False, **more)


def _field(key: str, **more: Any) -> Any:
    """An option for a config field, with the field's own description and default."""
    section, name = key.split(".")
    field = Config.model_fields[section].annotation.model_fields[name]
    meaning, _, default = field.description.partition("; default: ")
    return _option(meaning, default or field.default, **more)


Text, Number, Whole = str | None, float | None, int | None
Out = Annotated[Path, _option("folder of all runs", "runs", "--out")]
Sets = Annotated[
    list[str],
    _option(
        "any other config field (value in YAML); again for each",
        "none",
        "--set",
        metavar="KEY.PATH=VALUE",
    ),
]
Device = Annotated[Text, _field("train.device")]
Workers = Annotated[Text, _field("data.workers")]
RunOrCheckpoint = typer.Argument(
    help="a run's folder or a checkpoint [default: the latest run's best]",
    metavar="RUN|CHECKPOINT",
    show_default=False,
)


@app.command(cls=BareResume)
def fit(
    config: Annotated[
        Path | None, _option("YAML file of config sections", "none", metavar="FILE")
    ] = None,
    data: Annotated[Text, _field("data.path", metavar="PATH|demo")] = None,
    arch: Annotated[Text, _field("model.arch")] = None,
    encoder: Annotated[Text, _field("model.encoder")] = None,
    weights: Annotated[Text, _field("model.weights", metavar="auto|imagenet|none|FILE")] = None,
    loss: Annotated[Text, _field("loss.expression")] = None,
    thresh: Annotated[Number, _field("loss.thresh")] = None,
    lb_ignore: Annotated[Whole, _field("data.lb_ignore")] = None,
    n_min_factor: Annotated[Whole, _field("loss.n_min_factor")] = None,
    epochs: Annotated[Whole, _field("train.epochs")] = None,
    batch_size: Annotated[Whole, _field("train.batch_size")] = None,
    lr: Annotated[Number, _field("optim.lr")] = None,
    crop: Annotated[Text, _field("augment.crop", metavar="HxW")] = None,
    device: Device = None,
    devices: Annotated[Whole, _field("train.devices")] = None,
    nodes: Annotated[Whole, _field("train.nodes")] = None,
    precision: Annotated[Text, _field("train.precision")] = None,
    workers: Workers = None,
    seed: Annotated[Whole, _field("train.seed")] = None,
    out: Out = Path("runs"),
    name: Annotated[
        Text,
        _option(
            "the run's folder in --out; an existing one is an error", "date, time, arch and loss"
        ),
    ] = None,
    resume: Annotated[
        Text,
        _option(
            "go on with this run from its last checkpoint; without a value, with the latest",
            "a new run",
            metavar="[RUN]",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        _option(
            "print config, images per split, parameters and steps per epoch, and stop",
            "train",
            "--dry-run",
        ),
    ] = False,
    set_: Sets = [],
) -> None:
    """Train a network on pairs of images and masks."""
    end_with_launcher()  # before the seconds that torch's import takes
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings are about itself
    flags = {
        "data.path": data,
        "data.lb_ignore": lb_ignore,
        "data.workers": workers,
        "augment.crop": crop,
        "model.arch": arch,
        "model.encoder": encoder,
        "model.weights": weights,
        "loss.expression": loss,
        "loss.thresh": thresh,
        "loss.n_min_factor": n_min_factor,
        "optim.lr": lr,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.device": device,
        "train.devices": devices,
        "train.nodes": nodes,
        "train.precision": precision,
        "train.seed": seed,
    }
    from segtrain.commands.fit import fit as run_fit

    run_fit(config, set_, flags, out, name, resume, dry_run)


@app.command("eval")
def evaluate(
    run: Annotated[Path | None, RunOrCheckpoint] = None,
    split: Annotated[str, _option("which split to score", "val")] = "val",
    data: Annotated[
        Text, _option("folder of the data set", "the one trained on", metavar="PATH|demo")
    ] = None,
    predictions: Annotated[
        Path | None,
        _option(
            "score the masks in this folder, which any tool made, in place of a run",
            "none",
            metavar="FOLDER",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        _option("YAML file of config sections, for --predictions", "none", metavar="FILE"),
    ] = None,
    device: Device = None,
    workers: Workers = None,
    out: Out = Path("runs"),
    json: Annotated[bool, _option("print metrics.json in place of tables", "no", "--json")] = False,
    set_: Sets = [],
) -> None:
    """Score a split at the images' own size, and write a report."""
    flags = {"data.path": data, "data.workers": workers, "train.device": device}
    from segtrain.commands.eval import evaluate as run_evaluate

    run_evaluate(run, out, split, set_, flags, predictions, config, json)


@app.command()
def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="images, folders and globs; demo for some of the demo's",
            metavar="PATH",
            show_default=False,
        ),
    ],
    checkpoint: Annotated[
        Path | None,
        _option("a checkpoint or a run's folder", "the latest run's best", metavar="FILE"),
    ] = None,
    out: Annotated[
        Path, _option("folder of STEM_mask.png and STEM_overlay.png", "predictions")
    ] = Path("predictions"),
    runs: Annotated[Path, _option("folder of all runs", "runs")] = Path("runs"),
    legend: Annotated[
        bool, _option("name the classes below the overlay", "no", "--legend")
    ] = False,
    device: Device = None,
    set_: Sets = [],
) -> None:
    """Predict masks and overlays of images, each at its own size."""
    from segtrain.commands.predict import predict as run_predict

    run_predict(paths, checkpoint, runs, out, legend, set_, {"train.device": device})


@app.command()
def check(
    path: Annotated[
        Text,
        typer.Argument(
            help="folder of the data set [default: data/, else the demo]",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, _option("YAML file of config sections", "none", metavar="FILE")
    ] = None,
    preview: Annotated[
        Path | None, _option("write a sheet of coloured masks over images", "none", metavar="FILE")
    ] = None,
    augment: Annotated[
        Path | None, _option("write a sheet of augmented pairs", "none", metavar="FILE")
    ] = None,
    json: Annotated[bool, _option("print JSON in place of the page", "no", "--json")] = False,
    write_config: Annotated[
        Path | None,
        _option("write a dataset YAML that works as it is", "none", metavar="FILE"),
    ] = None,
    set_: Sets = [],
) -> None:
    """Say what a data set holds, what is wrong, and what mends it."""
    from segtrain.commands.check import check as run_check

    if not run_check(path, config, set_, preview, augment, json, write_config):
        raise typer.Exit(1)


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="folders that eval has written to; the first is what the others are set against",
            metavar="RUN RUN...",
            show_default=False,
        ),
    ],
    split: Annotated[str, _option("which split's scores", "val")] = "val",
    out: Annotated[
        Path, _option("folder of comparison.html and comparison.json", "comparison")
    ] = Path("comparison"),
    json: Annotated[bool, _option("print JSON in place of the table", "no", "--json")] = False,
) -> None:
    """Tell which differences between runs are more than noise."""
    from segtrain.evaluation.comparison import compare as run_compare

    run_compare(runs, split, out, json)


@app.command()
def sweep(
    loss: Annotated[
        str, _option("losses, with commas between them", LOSSES, metavar="LOSS,LOSS...")
    ] = LOSSES,
    seeds: Annotated[int, _option("trainings of each loss, of seeds 0, 1, ...", "1", min=1)] = 1,
    config: Annotated[
        Path | None, _option("YAML file of config sections", "none", metavar="FILE")
    ] = None,
    data: Annotated[Text, _field("data.path", metavar="PATH|demo")] = None,
    device: Device = None,
    out: Annotated[Path, _option("folder of the sweep's runs and comparison", "sweep")] = Path(
        "sweep"
    ),
    dry_run: Annotated[
        bool,
        _option("print the commands that are left to run, one a line", "run them", "--dry-run"),
    ] = False,
    set_: Sets = [],
) -> None:
    """Train with several losses, all else the same, and compare them."""
    from segtrain.commands.sweep import sweep as run_sweep

    run_sweep(loss, seeds, config, set_, data, device, out, dry_run)


@app.command()
def losses(
    name: Annotated[
        Text, typer.Argument(help="one loss [default: all]", metavar="[LOSS]", show_default=False)
    ] = None,
) -> None:
    """List the losses with their formulas, or explain one."""
    from segtrain.commands.losses import show_losses

    show_losses(name)
