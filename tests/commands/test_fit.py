"""segtrain fit, from outside."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ANY_NETWORK, QUICK, RESNET18, run_cli, scene, write_pairs
from PIL import Image
from running import Running
from same_run import assert_same_run, rows_of, weights_of

from segtrain.data.loading.dataset import read_batches
from segtrain.losses.kernels.paths import PATHS_TAKEN
from segtrain.runs.folder import lock_run

CONFIGS = Path(__file__).parents[2] / "configs"
SEEDED_LOSS = 1.1540


def test_a_run_leaves_all_its_files(trained: Path):
    files = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    events = {file for file in files if file.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert files - events == {
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "checkpoints/best.safetensors",
        "checkpoints/last.safetensors",
        "checkpoints/last.state.pt",
    }
    assert (trained.parent / "latest").resolve() == trained.resolve()
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["device"] == "cpu" and environment["packages"]["torch"]
    assert len(rows_of(trained)) == 1


def test_two_seeded_steps_keep_their_loss(cli, pairs: Path):
    # a refactoring must not change this number
    assert cli("fit", "--data", pairs, *RESNET18, "--name", "r").code == 0
    assert float(rows_of(Path("runs/r"))[0]["train_loss"]) == pytest.approx(SEEDED_LOSS, rel=1e-3)


def test_fit_learns_and_eval_and_predict_use_it(cli, tmp_path: Path):
    """The main use: three commands, from files to correct masks."""
    write_pairs(tmp_path / "set", 10)
    options = ["--epochs", "2", "--set", "train.steps_per_epoch=40", "--lr", "0.01"]
    fitted = cli("fit", "--data", "set", *QUICK, *options, "--set", "augment.scale=[1, 1]")
    assert fitted.code == 0, fitted.stderr
    lines = [line for line in fitted.stdout.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert cli("eval").code == 0
    scores = json.loads(Path("runs/latest/eval/val/metrics.json").read_text())
    assert scores["miou"] > 0.9 and scores["images"] == 2
    image, mask = scene(99)
    Image.fromarray(image).save("new.png")
    assert cli("predict", "new.png").code == 0
    assert (np.asarray(Image.open("predictions/new_mask.png")) == mask).mean() > 0.9


def test_the_runs_config_repeats_it_exactly(cli, trained: Path):
    again = cli("fit", "--config", trained / "config.yaml", "--name", "again")
    assert again.code == 0, again.stderr
    assert_same_run(trained, Path("runs/again"))


def test_workers_change_nothing(cli, trained: Path):
    config = trained / "config.yaml"
    assert cli("fit", "--config", config, "--workers", "2", "--name", "two").code == 0
    assert_same_run(trained, Path("runs/two"))


def test_more_workers_than_cores_are_the_users_choice(cli, pairs: Path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    fitted = cli("fit", "--data", pairs, *QUICK, "--workers", "3", "--epochs", "1")
    assert fitted.code == 0 and "DataLoader" not in fitted.stderr


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_spawned_workers_change_nothing(cli, trained: Path, cache: str):
    """As on macOS and Windows, where no process is forked."""
    options = ["--workers", 1, "--set", f"data.cache={cache}", "--name", cache]
    command = "-m", "segtrain", "fit", "--config", trained / "config.yaml", *options
    with Running(Path.cwd(), *command, SEGTRAIN_START_METHOD="spawn") as run:
        assert run.wait() == 0, run.err.read_text()
    assert_same_run(trained, Path("runs", cache))


@pytest.mark.parametrize("options", [[], ["--set", "train.max_time=1h"]], ids=["plain", "timed"])
def test_batches_are_read_on_across_epochs(cli, pairs: Path, monkeypatch, options):
    """One pass of the loader: at the end of an epoch its workers have the next batches ready."""
    opened = []

    def read(loader):
        opened.append((loader.batch_sampler.start, loader.batch_sampler.stop))
        return read_batches(loader)

    monkeypatch.setattr("segtrain.training.loop.read_batches", read)
    steps = ["--epochs", "3", "--set", "train.steps_per_epoch=2"]
    assert cli("fit", "--data", pairs, *QUICK, *steps, *options).code == 0
    assert opened == [(0, 6)]


# every part of the state: moving counts, average, sgd's momentum, records of the observed steps
EVERY_STATE = (
    "--loss ghm+0.5*dice --epochs 2 --set train.steps_per_epoch=5 --set train.ema=0.9"
    " --set train.log_every=2 --set optim.name=sgd --set data.val_fraction=0.4"
).split()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 x 5 steps that nothing stopped; its data is ../../set."""
    home = tmp_path_factory.mktemp("straight")
    write_pairs(home / "set", 8)
    command = ["fit", "--data", home / "set", "--out", home / "runs", "--name", "straight"]
    done = run_cli(*command, *QUICK, *EVERY_STATE)
    assert done.code == 0, done.stderr
    return home / "runs/straight"


def signal_in(monkeypatch: pytest.MonkeyPatch, function: str, call: int, signum: int) -> None:
    """Send this process a signal in the n-th call of a function of the training loop."""
    from segtrain.training import loop

    plain, calls = getattr(loop, function), iter(range(1, 1000))

    def signalling(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), signum)
        return plain(*args, **kwargs)

    monkeypatch.setattr(loop, function, signalling)


@pytest.mark.parametrize(
    "function, call, signum, step",
    [
        ("train_step", 1, signal.SIGTERM, 1),
        ("train_step", 5, signal.SIGUSR1, 5),  # the last of an epoch: validation follows
        ("validate", 1, signal.SIGINT, 5),
        ("train_step", 8, signal.SIGINT, 8),
        ("save_checkpoint", 1, signal.SIGTERM, 6),  # of the first epoch: one more step is taken
    ],
)
def test_a_signal_ends_the_step_and_resuming_equals_the_straight_run(
    cli, straight: Path, monkeypatch, function: str, call: int, signum: int, step: int
):
    data = straight.parents[1] / "set"
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with monkeypatch.context() as patch:
        signal_in(patch, function, call, signum)
        stopped = cli("fit", "--data", data, *QUICK, *EVERY_STATE, "--name", "a run")
    assert stopped.code == 128 + signum
    after = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert before == after
    assert f"stopped and saved after step {step}; " in stopped.stderr
    assert stopped.stderr.strip().endswith("continue with: segtrain fit --resume 'runs/a run'")
    resumed = cli("fit", "--resume", "runs/a run")
    assert resumed.code == 0, resumed.stderr
    assert f"resumed after step {step} of 10\n" in resumed.stdout
    assert_same_run(straight, Path("runs/a run"))
    starts = json.loads(Path("runs/a run/environment.json").read_text())
    assert len(starts["resumed"]) == 1 and starts["resumed"][0]["packages"] == starts["packages"]


def test_a_time_between_checkpoints_is_checked_where_the_loss_is_read(
    cli, straight: Path, monkeypatch
):
    from segtrain.training import loop

    steps, plain = [], loop.save_checkpoint

    def save_checkpoint(session, *args):
        steps.append(session.training.state.step)
        plain(session, *args)

    monkeypatch.setattr(loop, "save_checkpoint", save_checkpoint)
    data, every = straight.parents[1] / "set", "train.checkpoint_every"
    assert cli("fit", "--data", data, *QUICK, *EVERY_STATE, "--set", f"{every}=0.001s").code == 0
    assert steps == [2, 4, 5, 5, 6, 8, 10, 10]  # log_every is 2; an epoch's end is saved scored
    steps.clear()
    options = ["--set", f"{every}=3", "--name", "n"]
    assert cli("fit", "--data", data, *QUICK, *EVERY_STATE, *options).code == 0
    assert steps == [3, 5, 6, 9, 10]
    assert_same_run(straight, Path("runs/n"))


def test_resume_explains_an_allowed_change_and_refuses_others(cli, straight: Path):
    copy = shutil.copytree(straight, Path("runs/r"))
    refused = cli("fit", "--resume", copy, "--loss", "ce", "--seed", "3", "--epochs", "3")
    assert refused.code == 2
    assert "loss.expression was ghm + 0.5*dice(classes='present'), now ce" in refused.error
    assert "train.seed was 0, now 3" in refused.error and "epochs" not in refused.error
    resumed = cli("fit", "--resume", copy, "--epochs", "3", "--lr", "0.0005")
    assert resumed.code == 0, resumed.stderr
    for change in ("train.epochs was 2, now 3", "optim.lr was 0.001, now 0.0005"):
        assert f"{change}: the learning rate follows" in resumed.stdout
    rows = rows_of(copy)
    assert rows[:2] == rows_of(straight) and len(rows) == 3
    assert 0 < float(rows[2]["lr"]) < 0.0005
    # a smaller number of epochs than are done changes nothing
    finished = cli("fit", "--resume", copy)
    assert finished.code == 0 and rows_of(copy) == rows


def test_a_data_set_that_has_changed_is_refused(cli, straight: Path, tmp_path: Path):
    copy = shutil.copytree(straight, Path("runs/r"))
    elsewhere = shutil.copytree(straight.parents[1] / "set", tmp_path / "moved")
    options = ["--resume", copy, "--epochs", "3", "--data", elsewhere]
    write_pairs(elsewhere, 1, first=8)
    refused = cli("fit", *options)
    assert refused.code == 2
    assert "its data set has changed: train was 5 images (" in refused.error
    assert_same_run(straight, copy)
    for folder in ("images", "masks"):
        (elsewhere / folder / "008.png").unlink()
    resumed = cli("fit", *options)
    assert resumed.code == 0, resumed.stderr
    assert "moved: it must hold the same images" in resumed.stdout


def test_a_dry_run_of_a_resume_refuses_what_the_run_would(cli, straight: Path):
    copy = shutil.copytree(straight, Path("runs/r"))
    refused = cli("fit", "--resume", copy, "--dry-run", "--loss", "ce")
    assert refused.code == 2 and "0.5*dice(classes='present'), now ce" in refused.error
    allowed = cli("fit", "--resume", copy, "--dry-run", "--epochs", "4")
    assert allowed.code == 0 and "train.epochs was 2, now 4: the learning rate" in allowed.stdout
    named = cli("fit", "--resume", copy, "--name", "other")
    assert named.code == 2 and "--name is for a new run" in named.error
    assert_same_run(straight, copy)


def test_a_damaged_last_checkpoint_is_replaced_not_kept(cli, straight: Path):
    """The state is intact, and holds the weights."""
    copy = shutil.copytree(straight, Path("runs/r"))
    last = copy / "checkpoints/last.safetensors"
    last.write_bytes(last.read_bytes()[:500])
    options = ["--epochs", "3", "--set", "train.keep=1"]
    resumed = cli("fit", "--resume", copy, *options)
    assert resumed.code == 0, resumed.stderr
    assert not list(copy.glob("checkpoints/step-*"))


def test_a_run_is_trained_by_one_process_at_a_time(cli, straight: Path):
    copy = shutil.copytree(straight, Path("runs/r"))
    with lock_run(copy):
        refused = cli("fit", "--resume", copy)
    assert refused.code == 2
    assert refused.error == "error: runs/r: another process is training it"
    assert cli("fit", "--resume", copy).code == 0


@pytest.mark.parametrize("how", [[], ["r"], ["runs/r"], ["runs/latest"], ["latest"]])
def test_a_run_is_resumed_by_any_name(cli, straight: Path, how: list[str]):
    copy = shutil.copytree(straight, Path("runs/r"))
    Path("runs/latest").symlink_to("r")
    finished = cli("fit", "--resume", *how)
    assert finished.code == 0, finished.stderr
    assert "resumed after step 10 of 10: the run is finished" in finished.stdout
    assert_same_run(straight, copy)
    assert Path("runs/latest").resolve() == copy.resolve()


def test_without_links_latest_is_a_file(cli, pairs: Path, monkeypatch):
    """As on Windows, on USB sticks and in mounted cloud drives."""

    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    for name in ("old", "new"):
        assert cli("fit", "--data", pairs, *QUICK, "--name", name).code == 0
    latest = Path("runs/latest")
    assert latest.is_file() and latest.read_text() == "new"
    for named in ([], ["latest"], ["runs/latest"]):
        scored = cli("eval", *named)
        assert scored.code == 0 and "runs/new" in scored.stdout, scored.stderr
        assert "finished" in cli("fit", "--resume", *named).stdout
    assert cli("predict", pairs / "images/000.png").code == 0
    shutil.rmtree("runs/new")
    lost = cli("eval")
    assert lost.code == 2 and "latest" in lost.error and "old" in lost.error


DAMAGED = [b"", b"old/../..", b"..", b"latest", b"\xff\xfe", b"a\0b", b"old\nnew", b"x" * 5000]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_file_latest_that_names_no_run(cli, trained: Path, content: bytes):
    shutil.copytree(trained, "runs/old")
    latest = Path("runs/latest")
    latest.write_bytes(content)
    for command in (["eval"], ["eval", "latest"], ["fit", "--resume", "latest"]):
        refused = cli(*command)
        assert refused.code == 2
        assert refused.error == "error: runs/latest points to no run; name one of old"
    assert cli("eval", latest).error.startswith("error: ")
    again = cli("fit", "--config", trained / "config.yaml", "--name", "new", "--dry-run")
    assert again.code == 0, again.stderr
    latest.write_bytes(b"old\r\n")  # as an editor of Windows saves it
    assert cli("fit", "--resume", "latest", "--dry-run").code == 0


def test_a_run_without_a_checkpoint_starts_again(cli, straight: Path):
    copy = shutil.copytree(straight, Path("runs/r"))
    for file in (copy / "checkpoints").iterdir():
        file.unlink()
    left = [copy / ".tmp-9999999-metrics.csv", copy / "checkpoints/.tmp-9999999-last.state.pt"]
    for file in left:  # of a process that was killed
        file.write_bytes(b"half")
    assert cli("fit", "--resume", "r").code == 0
    assert_same_run(straight, copy)
    assert not any(file.exists() for file in left)


def test_the_average_is_what_is_saved(straight: Path):
    saved = torch.load(straight / "checkpoints/last.state.pt", weights_only=True)
    last = {k.removeprefix("last "): v for k, v in weights_of(straight).items() if "last " in k}
    assert all(np.array_equal(last[name], value) for name, value in saved["average"].items())
    head = "network.segmentation_head.0.weight"
    assert not np.array_equal(last[head], saved["model"][head])


def test_gradient_accumulation(cli, pairs: Path):
    parts = ["--set", "train.accumulate=2", "--batch-size", "4"]
    fitted = cli("fit", "--data", pairs, *QUICK, *parts, "--loss", "ce+ohem", "--name", "r")
    assert fitted.code == 0, fitted.stderr
    assert "into 2 micro-batches: ohem uses the pixels of one micro-batch" in fitted.stdout
    assert "batches of 4 in 2 micro-batches: 1 epochs of 2 steps" in fitted.stdout
    assert rows_of(Path("runs/r"))[0]["step"] == "2"
    for options, part in (
        ("--batch-size 3", "by 2 micro-batches (train.accumulate); the next that can is 4"),
        (
            "--batch-size 5 --devices 2",
            "by 2 devices x 2 micro-batches (train.accumulate); the next that can is 8",
        ),
        ("--arch deeplabv3plus --batch-size 2", "use --batch-size 4 or more, or model.freeze_bn"),
    ):
        refused = cli("fit", "--data", pairs, *ANY_NETWORK, *parts, *options.split())
        assert refused.code == 2 and part in refused.error


def test_frozen_weights_stay(cli, pairs: Path):
    frozen = "--set optim.encoder_lr=0 --set model.freeze_bn=true --set optim.schedule=constant"
    runs = []
    for loss in ("ce", "dice"):
        options = [*frozen.split(), "--loss", loss, "--batch-size", "1", "--name", loss]
        fitted = cli("fit", "--data", pairs, *QUICK, *options)
        assert fitted.code == 0, fitted.stderr
        assert "the encoder keeps its random weights" in fitted.stdout
        runs.append(weights_of(Path(f"runs/{loss}")))
    one, other = runs
    same = {name for name in one if np.array_equal(one[name], other[name])}
    assert {name for name in one if ".encoder." in name} <= same
    assert {name for name in one if ".running_" in name} <= same
    decoder = [name for name in one if ".decoder." in name and one[name].ndim == 4]
    assert decoder and not same & set(decoder)


def test_an_unreadable_state_changes_nothing(cli, straight: Path):
    copy = shutil.copytree(straight, Path("runs/r"))
    state = copy / "checkpoints/last.state.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    failed = cli("fit", "--resume", copy, "--epochs", "3")
    assert failed.code == 1 and "last.state.pt" in failed.error
    assert_same_run(straight, copy)
    assert (copy / "config.yaml").read_bytes() == (straight / "config.yaml").read_bytes()


def test_a_run_whose_last_validation_was_interrupted_is_not_finished(cli, straight: Path):
    """Its steps are done, but not its last epoch."""
    copy = shutil.copytree(straight, Path("runs/r"))
    file = copy / "checkpoints/last.state.pt"
    state = torch.load(file, weights_only=True)
    epochs = len(state["state"]["rows"])
    state["state"]["rows"].pop()
    state["state"]["seconds"] = dict.fromkeys(("data", "forward", "backward", "other"), 1.0)
    torch.save(state, file)
    resumed = cli("fit", "--resume", copy)
    assert resumed.code == 0, resumed.stderr
    assert "resumed after step" in resumed.stdout and "finished" not in resumed.stdout
    assert len(rows_of(copy)) == epochs


@pytest.mark.parametrize(
    "part, damage",
    [(part, "missing") for part in ("data", "model", "optimizer", "state", "loss", "observed")]
    + [(part, "foreign") for part in ("data", "model", "optimizer", "state", "observed")],
)
def test_a_state_without_a_part_is_one_line(cli, straight: Path, part: str, damage: str):
    """A readable file, but not the state of this run."""
    copy = shutil.copytree(straight, Path("runs/r"))
    file = copy / "checkpoints/last.state.pt"
    state = torch.load(file, weights_only=True)
    state.pop(part) if damage == "missing" else state.update({part: {"x": 1}})
    torch.save(state, file)
    failed = cli("fit", "--resume", copy, "--epochs", "3")
    assert failed.code in (1, 2) and "internal error" not in failed.error
    foreign_data = (part, damage) == ("data", "foreign")
    assert ("data set has changed" if foreign_data else "last.state.pt") in failed.error
    assert (copy / "metrics.csv").read_bytes() == (straight / "metrics.csv").read_bytes()


def test_the_data_is_reported_before_a_plan_is_refused(cli, pairs: Path):
    """Its facts explain the refusal."""
    failed = cli("fit", "--data", pairs, *QUICK, "--batch-size", "900")
    assert failed.code == 2 and "train.batch_size: 900" in failed.error
    assert all(word in failed.stdout for word in ("data:", "pairs:", "training pixels:"))
    assert not Path("runs").exists()


def test_a_run_in_a_folder_whose_name_is_no_text(cli, pairs: Path):
    out = os.fsdecode(b"o\xff")
    fitted = cli("fit", "--data", pairs, *QUICK, "--out", out, "--name", "r")
    assert fitted.code == 0, fitted.stderr
    assert "note: no TensorBoard events" in fitted.stdout and "o\\xff/r" in fitted.stdout
    assert rows_of(Path(out, "r"))


def test_the_history_has_each_term_of_the_loss(cli, pairs: Path):
    loss = "ohem(thresh=0.6)+0.5*dice+2*ghm(bins=4)+ohem(thresh=0.01)"
    fitted = cli("fit", "--data", pairs, *QUICK, "--loss", loss, "--name", "terms")
    assert fitted.code == 0, fitted.stderr
    (row,) = rows_of(Path("runs/terms"))
    columns = {k.removeprefix("loss/"): v for k, v in row.items() if k.startswith("loss/")}
    terms = ["ohem", "dice", "ghm", "ohem2"]
    per_class = ["kept/0", "kept/1", "kept/2"]
    mined = ["value", "share", "kept", "threshold", *per_class]
    expected = [f"ohem/{name}" for name in mined] + ["dice/value", "dice/share"]
    expected += [f"ghm/{name}" for name in ("value", "share", *(f"bin/{b}" for b in range(4)))]
    assert list(columns) == expected + [f"ohem2/{name}" for name in mined]
    number = {key: float(value) for key, value in columns.items() if value}
    assert sum(number[f"{term}/share"] for term in terms) == pytest.approx(1)
    assert number["ohem/threshold"] == pytest.approx(0.6) and number["ohem/kept"] > 0.5
    # few are as hard as 0.01: the floor rules, one in 16 is kept, the threshold is that pixel's
    assert number["ohem2/threshold"] > 0.01
    assert number["ohem2/kept"] == pytest.approx(1 / 16, abs=1e-3)
    assert sum(number[f"ghm/bin/{b}"] for b in range(4)) == pytest.approx(2 * 32 * 32, rel=0.2)


@pytest.mark.parametrize("name", ["median-frequency", "inverse-sqrt"])
def test_class_weights_come_from_the_training_masks(cli, tmp_path: Path, name: str):
    write_pairs(tmp_path / "set", 4, "images/train", "masks/train")
    write_pairs(tmp_path / "set", 2, "images/val", "masks/val", first=4)
    fitted = cli("fit", "--data", "set", *QUICK, "--loss", f"ce(weight={name})")
    assert fitted.code == 0, fitted.stderr
    run = Path("runs/latest").resolve()
    assert name in run.name
    expression = yaml.safe_load((run / "config.yaml").read_text())["loss"]["expression"]
    weights = [float(number) for number in re.findall(r"[\d.]+", expression)]
    masks = [np.array(Image.open(path)) for path in Path("set/masks/train").iterdir()]
    counts = np.array([np.bincount(mask.ravel(), minlength=3) for mask in masks])
    if name == "inverse-sqrt":
        raw = 1 / np.sqrt(counts.sum(0))
        expected = raw / raw.mean()
    else:
        sizes = counts.sum(1, keepdims=True)
        frequency = counts.sum(0) / ((counts > 0) * sizes).sum(0)
        expected = np.median(frequency) / frequency
    assert weights == pytest.approx(expected, rel=1e-3)
    assert cli("eval").code == 0


@pytest.mark.parametrize(
    "loss, words",
    [
        ("ce(weight=[1, 2])", "has 2 numbers for 3 classes"),
        ("focal(alpha=0.25)", "such as alpha=[0.75, 0.25, 0.25], or write 0.25*focal"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_list_of_another_length_leaves_no_run(cli, pairs: Path, loss, words, dry):
    refused = cli("fit", "--data", pairs, *QUICK, "--loss", loss, *dry)
    assert refused.code == 2
    assert words in refused.error
    assert not Path("runs").exists()


def test_lovasz_over_the_batch_refuses_several_devices(cli, pairs: Path):
    loss = ["--loss", "ohem+lovasz(per_image=False)", "--devices", "2"]
    refused = cli("fit", "--data", pairs, *QUICK, *loss)
    assert refused.code == 2
    assert "per_image=False" in refused.error and "not 2" in refused.error
    assert not Path("runs").exists()


def test_deeplab_fuses_the_upsampling_into_its_loss(cli, pairs: Path):
    PATHS_TAKEN.clear()
    options = [*ANY_NETWORK, "--arch", "deeplabv3plus", "--loss", "ohem+0.5*dice"]
    fitted = cli("fit", "--data", pairs, *options)
    assert fitted.code == 0, fitted.stderr
    path = "tiles path (logits are on the CPU), 4x upsampling of logits fused"
    assert f"loss: {path}\n" in fitted.stdout
    assert json.loads(Path("runs/latest/environment.json").read_text())["loss_path"] == path
    # two steps; validation reads its logits at full resolution, and no loss
    assert dict(PATHS_TAKEN) == {("tiles", 4): 2}


def test_epochs_without_validation_have_empty_scores(cli, pairs: Path):
    every = ["--set", "eval.every=2"]
    assert cli("fit", "--data", pairs, *QUICK, "--epochs", "3", *every, "--name", "r").code == 0
    validated = [row["val_miou"] != "" for row in rows_of(Path("runs/r"))]
    assert validated == [False, True, True]


def test_a_dropped_short_batch_is_noted_once(cli, pairs: Path):
    # six pairs, one held out: five images in batches of two
    fitted = cli("fit", "--data", pairs, *QUICK, "--epochs", "2")
    assert len(re.findall("leaves out 1,", fitted.stdout)) == 1


BREAKING = "--lr 1e30 --set optim.clip_norm=0 --set optim.warmup=0 --set train.steps_per_epoch=9"


def test_bad_steps_are_skipped_and_too_many_end_the_run(cli, pairs: Path):
    options = [*BREAKING.split(), "--set", "train.max_bad_steps=3", "--name", "r"]
    failed = cli("fit", "--data", pairs, *QUICK, *options)
    assert failed.code == 1
    assert "3 steps in a row" in failed.error and "--lr" in failed.error
    assert "the network's output" in failed.error  # the weights are finite, and far too large
    with open("runs/r/bad_steps.csv") as file:
        bad = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in bad]
    assert steps == list(range(steps[0], steps[0] + 3)) and steps[0] > 1
    for row in bad:
        assert f"step {row['step']}: skipped" in failed.stdout
        assert row["files"] in failed.stdout.replace(", ", " ")
    batch = torch.load("runs/r/bad_batch.pt", weights_only=True)
    assert batch["step"] == steps[-1] and " ".join(batch["files"]) == bad[-1]["files"]
    assert batch["images"].shape == (2, 3, 32, 32) and batch["images"].dtype == torch.uint8
    assert len({name for name in batch["files"] if (pairs / "images" / name).is_file()}) == 2


def test_a_run_of_bad_steps_alone_does_not_end_as_if_it_had_trained(cli, pairs: Path):
    huge = ["--loss", "999999999*poly(epsilon=1e30)"]
    failed = cli("fit", "--data", pairs, *QUICK, *huge, "--name", "r")
    assert failed.code == 1 and "steps had a loss or gradient that is not finite" in failed.error
    assert "best" not in failed.stdout.splitlines()[-1]
    again = cli("fit", "--resume", "runs/r")
    assert again.code == 1


def test_images_too_large_to_score_get_their_own_advice(cli, straight: Path, monkeypatch):
    def predict(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr("segtrain.evaluation.prediction.predict_bands", predict)
    for size, advice in ((1, "for smaller windows set eval.max"), (4, "set eval.batch_size=1")):
        copy = shutil.copytree(straight, Path(f"runs/{size}"))
        failed = cli("eval", copy, "--set", f"eval.batch_size={size}", "--workers", "0")
        assert failed.code == 1
        pixels = f"{min(size, 3)} x 48x40 pixels"
        assert f"out of memory: {pixels}" in failed.error and advice in failed.error


def test_out_of_memory_comes_with_advice(cli, pairs: Path, monkeypatch):
    def step(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr("segtrain.training.loop.train_step", step)
    failed = cli("fit", "--data", pairs, *QUICK, "--crop", "64x96", "--name", "r")
    assert failed.code == 1
    for part in (
        "a batch of 2 crops of 64x96 is too much", "--batch-size 1", "train.accumulate=2",
        "--crop 32x32", "--precision bf16", "fit --resume runs/r",
    ):  # fmt: skip
        assert part in failed.error


@pytest.mark.parametrize("layout, name", [(True, "/data"), (False, "no data set in data/")])
def test_without_data_it_names_the_data_set_in_use(cli, tmp_path: Path, layout: bool, name: str):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/README.md").write_text("no data set")
    if layout:
        write_pairs(tmp_path / "data")
    answer = cli("fit", "--dry-run", *QUICK)
    assert answer.code == 0, answer.stderr
    assert name in answer.stdout.splitlines()[0]
    assert ("embedded demo" in answer.stdout) != layout


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_train(cli, tmp_path: Path, config: Path):
    data = yaml.safe_load(config.read_text())["data"]
    source = data["path"] if "path" in data else write_toy(tmp_path / "toy", data)
    done = cli(
        *("fit", "--config", config, "--data", source, "--weights", "none", "--crop", "32x32"),
        *("--epochs", 1, "--workers", 0, "--set", "train.steps_per_epoch=2", "--name", "r"),
    )
    assert done.code == 0, done.stderr
    assert len(rows_of(Path("runs/r"))) == 1


def write_toy(root: Path, data: dict) -> Path:
    """Write random pairs into the folders that a config names, of its classes and mapped values."""
    values = [*range(len(data["classes"])), *data["label_map"]]
    rng = np.random.default_rng(0)
    for folders in data["splits"].values():
        for index in range(6):
            arrays = {
                "images": rng.integers(0, 256, (40, 48, 3)),
                "masks": rng.choice(values, (40, 48)),
            }
            for kind, array in arrays.items():
                file = root / folders[kind] / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(file)
    return root


def test_groups_by_their_older_name(cli, pairs: Path):
    """A new run takes eval.group_by for data.group_by; an earlier run keeps its hold-out."""
    flags = ["--data", pairs, *QUICK]
    pattern = "^00([0-2])?"  # images 0, 1 and 2 by themselves, all others together
    new = cli("fit", *flags, "--dry-run", "--set", f"eval.group_by='{pattern}'")
    assert new.code == 0 and "older name of data.group_by" in new.stdout
    assert yaml.safe_load(new.stdout[new.stdout.index("data:\n") :])["data"]["group_by"] == pattern
    contradiction = ["--set", "data.group_by='^.'", "--set", f"eval.group_by='{pattern}'"]
    refused = cli("fit", *flags, "--dry-run", *contradiction)
    assert refused.code == 2 and "leave out eval.group_by" in refused.error
    assert cli("check", pairs, *contradiction).code == 2

    assert cli("fit", *flags, "--name", "old").code == 0
    config = yaml.safe_load(Path("runs/old/config.yaml").read_text())
    del config["data"]["group_by"]
    config["eval"]["group_by"] = pattern
    Path("runs/old/config.yaml").write_text(yaml.safe_dump(config))
    resumed = cli("fit", "--resume", "runs/old", "--epochs", "2")
    assert resumed.code == 0, resumed.error
    for name in ("data.group_by", "eval.group_by"):  # the images held out are the run's own
        scored = cli("eval", "runs/old", "--set", f"{name}='^.'", "--json")
        assert scored.code == 0 and json.loads(scored.stdout)["images"] == 1
