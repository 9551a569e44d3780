"""The command line itself: help, errors, precedence of values, --dry-run."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from email.message import Message
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import yaml
from conftest import Answer, run_cli

import segtrain
from segtrain.config import Config

FIT_OPTIONS = """--config --data --arch --encoder --weights --loss --thresh --lb-ignore
--n-min-factor --epochs --batch-size --lr --crop --device --devices --nodes --precision --workers
--seed --out --name --resume --dry-run --set --help""".split()
FIELDS = {
    "--arch": "model.arch", "--encoder": "model.encoder", "--weights": "model.weights",
    "--loss": "loss.expression", "--thresh": "loss.thresh", "--lb-ignore": "data.lb_ignore",
    "--n-min-factor": "loss.n_min_factor", "--epochs": "train.epochs",
    "--batch-size": "train.batch_size", "--lr": "optim.lr", "--device": "train.device",
    "--devices": "train.devices", "--nodes": "train.nodes", "--precision": "train.precision",
    "--workers": "data.workers", "--seed": "train.seed",
}  # fmt: skip


def options_of(command: str) -> dict[str, str]:
    """Return the help text of each option, in one line, as `COMMAND --help` prints it."""
    answer = run_cli(command, "--help")
    assert answer.code == 0
    listed = answer.stdout.partition("Options:\n")[2]
    parts = re.split(r"^  (?:-h, )?(--[\w-]+)", listed, flags=re.MULTILINE)
    options = zip(parts[1::2], parts[2::2], strict=True)
    return {name: " ".join(text.split()) for name, text in options}


def dry_config(answer: Answer) -> dict:
    """Return the config that --dry-run printed."""
    assert answer.code == 0, answer.stderr
    match = re.search(r"^(data:\n.*?)^train: \d+ images$", answer.stdout, re.S | re.M)
    return yaml.safe_load(match[1])


def test_fit_has_exactly_these_options():
    assert list(options_of("fit")) == FIT_OPTIONS


def test_compare_and_sweep_have_exactly_these_options():
    assert list(options_of("compare")) == "--split --out --json --help".split()
    assert list(options_of("sweep")) == (
        "--loss --seeds --config --data --device --out --dry-run --set --help".split()
    )


VERBS = [
    "fit",
    "eval",
    "predict",
    "tune",
    "export",
    "check",
    "compare",
    "sweep",
    "losses",
    "encoders",
]
# without these nothing happens, so there is no default to show
WITHOUT_DEFAULT = """--config --push --predictions --json --legend --preview --augment
--write-config --set --dry-run --resume --help""".split()


@pytest.mark.parametrize("command", VERBS)
def test_options_show_their_default_where_it_is_a_value(command: str):
    options = options_of(command)
    without = [name for name, text in options.items() if "[default: " not in text]
    assert without == [name for name in options if name in WITHOUT_DEFAULT]
    assert not re.search(r"\[default: (none|no|train|run them)\b", " ".join(options.values()))


@pytest.mark.parametrize("option", FIELDS)
def test_shown_defaults_are_the_configs(option: str):
    section, _, key = FIELDS[option].partition(".")
    shown = re.search(r"\[default: ([^],]+)", options_of("fit")[option])[1]
    assert yaml.safe_load(shown) == getattr(getattr(Config(), section), key)


def test_help_lists_the_commands():
    answer = run_cli("--help")
    assert answer.code == 0
    listed = re.findall(r"^  (\w+) ", answer.stdout.partition("Commands:\n")[2], re.M)
    assert listed == VERBS


def test_segtrain_alone_prints_the_help_page():
    answer = run_cli()
    assert answer.code == 2
    assert answer.stdout.rstrip("\n") == run_cli("--help").stdout.rstrip("\n")
    assert answer.stderr == ""


@pytest.mark.parametrize("verb", [[], ["fit"], ["eval"], ["losses"]])
def test_h_is_help(verb: list[str]):
    short, long = run_cli(*verb, "-h"), run_cli(*verb, "--help")
    assert (short.code, short.stdout) == (0, long.stdout) and "Usage: " in short.stdout


def test_the_commands_are_described_in_whole_sentences():
    listed = run_cli("--help").stdout.partition("Commands:\n")[2]
    assert listed and all(line.endswith(".") for line in listed.splitlines())
    assert "..." not in listed


def test_help_imports_nothing_heavy():
    code = """
import sys
from segtrain.cli.app import app
for args in (['--help'], ['fit', '--help'], ['compare', '--help'], ['sweep', '--help']):
    try:
        app(args, standalone_mode=False)
    except SystemExit:
        pass
heavy = {'torch', 'numpy', 'PIL', 'matplotlib'} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--lb-ignore" in done.stdout


def test_version():
    answer = run_cli("--version")
    assert (answer.code, answer.stdout) == (0, f"segtrain {segtrain.__version__}\n")


@pytest.mark.parametrize(
    "args", [["--debug", "predict", "no.png"], ["predict", "no.png", "--debug"]]
)
def test_debug_shows_the_traceback(cli, args):
    answer = cli(*args)
    assert answer.code == 2
    assert "Traceback (most recent call last)" in answer.stderr
    assert answer.stderr.splitlines()[-1].startswith("error: no.png: no such file")


def test_without_debug_an_error_is_one_line(cli):
    answer = cli("predict", "no.png")
    assert answer.code == 2
    assert answer.stderr.splitlines() == [answer.error]


@pytest.mark.parametrize(
    "urls, tracker",
    [
        ({}, "the project's issue tracker"),
        ({"Homepage": "https://a.org", "Issues": "https://a.org/issues"}, "https://a.org/issues"),
    ],
)
def test_an_internal_error_names_its_traceback_and_where_to_report_it(
    cli, tmp_path, monkeypatch, urls: dict[str, str], tracker: str
):
    def broken(*_, **__):
        raise RuntimeError("the inside of a fault")

    published = Message()
    for name, url in urls.items():
        published["Project-URL"] = f"{name}, {url}"
    monkeypatch.setattr("segtrain.cli.errors.metadata", lambda _: published)
    monkeypatch.setattr("segtrain.prediction.inputs.find_images", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = cli("predict", "a.png")
    assert answer.code == 1
    match = re.fullmatch(
        r"error: internal error \(RuntimeError\); the traceback is in (\S+); "
        rf"please report it at {re.escape(tracker)}",
        answer.error,
    )
    log = Path(match[1])
    assert log.parent == tmp_path
    text = log.read_text()
    assert "Traceback" in text and "the inside of a fault" in text and segtrain.__version__ in text


def test_a_newline_in_a_name_is_visible_in_an_error(cli, pairs: Path):
    """A space in its place would name a file that doesn't exist."""
    (pairs / "images/a\nb.png").write_bytes(b"no image")
    (pairs / "masks/a\nb.png").write_bytes(b"no image")
    failed = cli("fit", "--data", pairs)
    assert failed.code == 1 and r"a\x0ab.png" in failed.error and "\n" not in failed.error.strip()


def test_interrupt_is_one_line_and_130(cli, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("segtrain.prediction.inputs.find_images", interrupted)
    answer = cli("predict", "a.png")
    assert answer.code == 130
    assert answer.stderr.splitlines() == [answer.error]
    assert "interrupted" in answer.error


@pytest.mark.parametrize(
    "args, words",
    [
        (["fti"], ["fti", "fit"]),
        (["train"], ["train", "fit", "eval", "predict", "check", "losses"]),
        (["fit", "--epoch", "3"], ["--epoch", "--epochs"]),
        (["fit", "--epochs", "many"], ["--epochs", "integer"]),
        (["fit", "--epochs"], ["--epochs"]),
        (["fit", "my", "data"], ["my data", "--data", "quotes"]),
        (["fit", "--set", "data.label_map={255:", "1}"], ["1}", "quotes"]),
        (["check", "--data", "some"], ["--data", "'segtrain check --help'"]),
        (["--dbug", "fit"], ["--dbug", "--debug"]),
        (["eval", "--splt", "val"], ["--splt", "--split"]),
        (["predict"], ["PATH"]),
        (["compare"], ["RUN"]),
        (["sweep", "--seeds", "0"], ["--seeds"]),
        (["fit", "--set", "train.epochs"], ["train.epochs", "key.path=value"]),
    ],
    ids=" ".join,
)
def test_wrong_command_line_is_one_line(cli, args, words):
    answer = cli(*args)
    assert answer.code == 2
    assert answer.stderr.splitlines() == [answer.error]
    assert [word for word in words if word not in answer.error] == []


def test_flag_beats_set_beats_file_beats_default(cli, pairs: Path, tmp_path: Path):
    file = tmp_path / "my.yaml"
    file.write_text("train: {epochs: 3, seed: 3, log_every: 3}\noptim: {lr: 0.3}\n")
    sets = ["--set", "train.epochs=4", "--set", "train.seed=4", "--set", "loss.thresh=0.4"]
    answer = cli("fit", "--config", file, "--data", pairs, "--weights", "none", "--batch-size", "2",
                 *sets, "--epochs", "5", "--dry-run")  # fmt: skip
    config = dry_config(answer)
    got = {key: config["train"][key] for key in ("epochs", "seed", "log_every", "devices")}
    assert got == {"epochs": 5, "seed": 4, "log_every": 3, "devices": 1}
    assert (config["optim"]["lr"], config["loss"]["thresh"]) == (0.3, 0.4)


def test_dry_run_prints_and_writes_nothing(cli, pairs: Path, tmp_path: Path):
    before = sorted(tmp_path.rglob("*"))
    channels = [8, 8, 8, 8, 8]
    answer = cli("fit", "--data", pairs, "--weights", "none", "--batch-size", "2", "--device",
                 "cpu", "--set", f"model.options={{decoder_channels: {channels}}}",
                 "--dry-run")  # fmt: skip
    config = dry_config(answer)
    assert config["data"]["classes"] == ["0", "1", "2"]
    assert config["augment"]["crop"] == [64, 64]  # 48x40 rounded up to 32
    network = smp.create_model("unet", "resnet18", encoder_weights=None, classes=3,
                               decoder_channels=channels)  # fmt: skip
    parameters = sum(p.numel() for p in network.parameters())
    last = answer.stdout.splitlines()[-4:]
    assert last == ["train: 5 images", "val: 1 images", f"parameters: {parameters:,}",
                    "steps per epoch: 2"]  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before
