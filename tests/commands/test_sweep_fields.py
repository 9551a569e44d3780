"""segtrain sweep over config fields; its trainings and evaluations only write what they would."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import run_cli
from test_compare import EVERY, write_run

from segtrain.config.loading import load_config, save_config

BASE = {
    "augment": {"crop": [32, 32]},
    "model": {"weights": "none", "options": {"decoder_channels": [8, 8, 8, 8, 8]}},
    "train": {"epochs": 1, "precision": "32"},
}


def pretend(arguments: list[str]) -> tuple[int, int]:
    """Write what a fit or an eval leaves behind, and of a comparison its arguments."""
    verb, *words = arguments
    options = [*zip(words[::2], words[1::2], strict=False)]
    if verb == "compare":
        (Path(words[-1]) / "compared").write_text(json.dumps(arguments))
    elif verb == "eval":
        write_run(Path(words[0]), EVERY)
    elif words[0] != "--resume":
        given = dict(options)
        flags = {"loss.expression": given.get("--loss"), "train.seed": given["--seed"]}
        sets = [text for flag, text in options if flag == "--set"]
        config = load_config(Path(given["--config"]), sets, flags)
        run = Path(given["--out"]) / given["--name"]
        run.mkdir(parents=True)
        crop = config.augment.crop or (48, 40)  # what a training makes of the config
        augment = config.augment.model_copy(update={"crop": crop})
        save_config(config.model_copy(update={"augment": augment}), run / "config.yaml")
    return 0, 0


@pytest.fixture(autouse=True)
def started(cli, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The trainings that a sweep has started so far, by folder; c.yaml is a config of set/."""
    Path("c.yaml").write_text(yaml.safe_dump(BASE | {"data": {"path": str(pairs)}}))
    names: list[str] = []

    def run_process(arguments: list[str]) -> tuple[int, int]:
        if arguments[0] == "fit":
            names.append(Path(arguments[-1]).name)
        return pretend(arguments)

    monkeypatch.setattr("segtrain.commands.sweep.run_process", run_process)
    return names


def sweep(*words: str) -> str:
    answer = run_cli("sweep", "--config", "c.yaml", *words)
    assert answer.code == 0, answer.stderr
    return answer.stdout


def refusal(*words: str) -> str:
    answer = run_cli("sweep", "--config", "c.yaml", *words)
    assert answer.code == 2
    return answer.error


def configs() -> dict[str, dict]:
    files = Path("sweep").glob("*/config.yaml")
    return {file.parent.name: yaml.safe_load(file.read_text()) for file in files}


def test_all_combinations_of_losses_values_and_seeds_are_trained(started: list[str]):
    output = sweep("--loss", "ce,ohem(thresh=0.6)", "--set", "optim.lr=1e-3,3e-4",
                   "--set", "augment.crop=32,64x32,32x64", "--seeds", "2")  # fmt: skip
    assert len(started) == len(set(started)) == 24
    lines = [line for line in output.splitlines() if line.startswith("[")]
    assert lines[0] == "[1/24] ce, crop=32x32, lr=0.001, seed 0"
    assert lines[1] == "[2/24] ce, crop=64x32, lr=0.001, seed 0"  # the last --set changes first
    assert lines[-1] == "[24/24] ohem(thresh=0.6), crop=32x64, lr=0.0003, seed 1"
    trained = {
        (c["loss"]["expression"], c["optim"]["lr"], *c["augment"]["crop"], c["train"]["seed"])
        for c in configs().values()
    }
    assert trained == {
        (loss, lr, *crop, seed)
        for loss in ("ce", "ohem(thresh=0.6)")
        for lr in (0.001, 0.0003)
        for crop in ((32, 32), (64, 32), (32, 64))
        for seed in (0, 1)
    }
    assert "ohem_thresh_0.6_-crop=64x32-lr=0.0003-seed1" in started
    assert all(c["train"]["precision"] == "32" for c in configs().values())
    again = sweep("--loss", "ce,ohem(thresh=0.6)", "--set", "augment.crop=32x32,[64, 32],32x64",
                  "--set", "optim.lr=0.0010,0.0003", "--seeds", "2")  # fmt: skip
    assert again.count("done already, skipped") == 24 and len(started) == 24
    answer = run_cli(*json.loads(Path("sweep/compared").read_text()), "--json")
    groups = json.loads(answer.stdout)["contenders"]
    assert (len(groups), {len(group["runs"]) for group in groups}) == (12, {2})


@pytest.mark.parametrize(
    "words, losses",
    [
        (["--set", "optim.lr=1e-3,3e-4"], {"focal"}),  # the config's own
        (["--set", "optim.lr=3e-4"], {"ce", "ohem", "focal", "ghm", "ohem+dice"}),
        (["--set", "optim.lr=1e-3,3e-4", "--loss", "ce"], {"ce"}),
        (["--set", "loss.expression=ce,dice"], {"ce", "dice"}),
        (["--set", "loss.expression=ce"], {"ce"}),
        (["--set", "loss={expression: ce}", "--set", "train.epochs=1,2"], {"ce"}),
    ],
)
def test_losses_where_none_are_given(words: list[str], losses: set[str]):
    Path("c.yaml").write_text(Path("c.yaml").read_text() + "loss: {expression: focal}\n")
    sweep(*words)
    assert {config["loss"]["expression"] for config in configs().values()} == losses


def test_a_files_loss_that_is_not_trained_is_noted():
    Path("c.yaml").write_text(Path("c.yaml").read_text() + "loss: {expression: dice}\n")
    answer = run_cli("sweep", "--config", "c.yaml", "--dry-run")
    assert "note: c.yaml: its loss, dice, is not among those of --loss" in answer.stderr


@pytest.mark.parametrize(
    "words, parts",
    [
        (["--set", "optim.lr=1e-3,abc"], ["--set optim.lr=abc: expected a number"]),
        (["--set", "optim.lr=1e-3,0.001"], ["--set optim.lr=0.001 is given more than once",
                                            "as --set optim.lr=1e-3"]),
        (["--set", "train.device=cpu,auto", "--device", "cpu"], ["or another option overrides it"]),
        (["--set", "optim.lr=1e-3,1e-3"], ["--set optim.lr=1e-3 is given more than once"]),
        (["--set", "model.arch=unet,fpnn"], ["--set model.arch=fpnn", "did you mean fpn"]),
        (["--set", "model.in_channels=3,4", "--set", "model.mean=[1,2,3]"],
         ["error: --set model.in_channels=4: ", "mean has 3 values for 4 channels"]),
        (["--loss", "ce,ohm", "--set", "optim.lr=1,2"],
         ["--loss ohm --set optim.lr=1, --loss ohm --set optim.lr=2: ", "did you mean ohem"]),
        (["--loss", "ce", "--set", "loss.expression=ohem"], ["use one of them"]),
        (["--set", "train.seed=1,2"], ["--set train.seed=1", "its --seeds sets it"]),
        (["--set", "eval.tta=[],[hflip]"],
         ["the trainings would be the same", "segtrain eval RUN --set 'eval.tta=[hflip]'"]),
        (["--set", "predict.opacity=0.1,0.2"], ["segtrain predict RUN"]),
        (["--set", "augment.scale=0.5,1.0"], ["one list is augment.scale=[0.5,1.0]"]),
        (["--set", "data.path=nowhere,set"], ["--set data.path=nowhere: ", "no such folder"]),
    ],
)  # fmt: skip
def test_wrong_values_cost_no_training(started: list[str], words: list[str], parts: list[str]):
    error = refusal(*words)
    assert [part for part in parts if part not in error] == []
    assert started == [] and not Path("sweep").exists()
    assert "--loss ohm" not in error or error.count("there is no 'ohm'") == 1


def test_what_is_wrong_in_all_combinations_is_reported_once():
    error = refusal("--data", "nowhere", "--set", "optim.lr=1,2")
    assert error.count("no such folder") == 1 and "optim.lr" not in error


def test_values_that_do_not_change_the_training_alone_are_swept(started: list[str]):
    sweep("--set", "eval.every=1,2")
    assert started == ["ohem-every=1-seed0", "ohem-every=2-seed0"]


@pytest.mark.parametrize(
    "losses, field, unread",
    [("ce,ohem,focal", "loss.thresh=0.6,0.7", "loss.thresh has no effect on ce, focal: "),
     ("dice+topk,ohem(n_min_factor=4)", "loss.n_min_factor=8,16", "dice+topk, ohem(n_min_f"),
     ("ohem,dice+ohem(ce)", "loss.thresh=0.6,0.7", ""), ("ce,ohem", "loss.thresh=0.6", "")],
)  # fmt: skip
def test_losses_that_do_not_read_a_setting_are_noted(losses: str, field: str, unread: str):
    answer = run_cli("sweep", "--config", "c.yaml", "--loss", losses, "--set", field, "--dry-run")
    assert answer.code == 0 and (unread in answer.stderr if unread else "note" not in answer.stderr)


def test_values_that_may_change_what_is_scored_are_noted():
    answer = run_cli("sweep", "--config", "c.yaml", "--set", "data.split_seed=0,1", "--dry-run")
    assert "note: data.split_seed may change what is scored" in answer.stderr
    quiet = run_cli("sweep", "--config", "c.yaml", "--set", "data.sampler=uniform,rare-crop",
                    "--dry-run")  # fmt: skip
    assert "may change" not in quiet.stderr


# the same folder again


def test_a_second_sweep_extends_the_first(started: list[str]):
    sweep("--loss", "ce", "--set", "optim.lr=1e-3,3e-4")
    started.clear()
    sweep("--loss", "ce,ohem", "--set", "optim.lr=3e-4,1e-3,1e-4", "--seeds", "2")
    assert started == [
        "ce-lr=0.0001-seed0", *(f"ohem-lr={lr}-seed0" for lr in ("0.0003", "0.001", "0.0001")),
        *(f"{loss}-lr={lr}-seed1" for loss in ("ce", "ohem") for lr in ("0.0003", "0.001",
                                                                        "0.0001")),
    ]  # fmt: skip
    started.clear()
    # another field: what has the first sweeps' value of it is done
    sweep("--loss", "ce", "--set", "optim.lr=1e-3,3e-4", "--set", "train.epochs=1,2")
    assert started == ["ce-lr=0.001-epochs=2-seed0", "ce-lr=0.0003-epochs=2-seed0"]
    started.clear()
    # one value of a field that was swept
    sweep("--loss", "ce", "--set", "optim.lr=5e-5", "--seeds", "2")
    assert started == ["ce-lr=5e-05-seed0", "ce-lr=5e-05-seed1"]
    sweep("--loss", "ce", "--set", "optim.lr=0.00005")
    assert len(started) == 2
    assert "augment.hflip was None, now 0.5" in refusal("--loss", "ce", "--set", "augment.hflip=.5")


def test_an_open_value_is_another_than_what_a_training_makes_of_it(started: list[str]):
    sweep("--set", "augment.crop=null,48x40")
    assert started == ["ohem-crop=null-seed0", "ohem-crop=48x40-seed0"]
    sweep("--set", "augment.crop=48x40,null")
    assert len(started) == 2
    sweep("--loss", "ohem", "--set", "augment.crop=48x40", "--out", "by fit")
    Path("by fit/sweep.json").unlink()
    sweep("--set", "augment.crop=null,48x40", "--out", "by fit")
    assert started[2:] == ["ohem-seed0", "ohem-crop=null-seed0"]


def test_names_that_would_be_the_same_have_a_hash(started: list[str]):
    sets = ["--set", "data.exclude=['a/*'],['a_*']", "--seeds", "2"]
    sweep(*sets)
    assert len(set(started)) == 4 and started[0] == "ohem-exclude=a-seed0"
    long = [f"ohem+{'0.125*dice+' * count}dice" for count in (8, 9)]
    sweep("--loss", ",".join(long), *sets[:2], "--out", "long")
    assert len(set(started[4:])) == 4 and max(map(len, started)) < 100
    trained = len(started)
    sweep(*sets)
    sweep("--loss", ",".join(long), *sets[:2], "--out", "long")
    assert len(started) == trained


def test_runs_of_an_older_sweep_and_of_fit_are_taken_up(started: list[str]):
    """An older sweep.json has the config of all runs; runs of fit have none."""
    sweep("--loss", "ce,ohem")
    record = Path("sweep/sweep.json")
    base = json.loads(record.read_text())["base"]
    for content in ({"base": base}, None):
        record.write_text(json.dumps(content)) if content else record.unlink()
        shutil.copytree("sweep", "copy", ignore=shutil.ignore_patterns("compared"))
        started.clear()
        sweep("--loss", "ce,ohem,dice", "--out", "copy")
        assert started == ["dice-seed0"]
        sweep("--loss", "dice,ce,ohem", "--set", "optim.lr=1e-3,1e-4", "--out", "copy")
        assert started == ["dice-seed0", "dice-lr=0.0001-seed0", "ce-lr=0.0001-seed0",
                           "ohem-lr=0.0001-seed0"]  # fmt: skip
        shutil.rmtree("copy")


def test_a_folder_keeps_the_defaults_of_its_older_runs(started: list[str]):
    """Their config.yaml has no classes of dice, which were all; a run of today has its own."""
    sweep("--loss", "ce,ohem+dice")
    for words in (["--loss", "ohem+dice,dice"], ["--set", "loss.expression=ohem+dice,dice"]):
        sweep(*words, "--seeds", "2", "--set", "optim.lr=1e-4,1e-3")
    lines = sweep("--loss", "ohem+dice", "--seeds", "3", "--dry-run").splitlines()
    losses = {name: config["loss"]["expression"] for name, config in configs().items()}
    kept = "ohem + dice(classes='all')"
    assert losses.pop("ce-seed0") == "ce" and losses.pop("ohem+dice-seed0") == "ohem+dice"
    assert len(losses) == len(started) - 2 == 7
    assert {name for name, loss in losses.items() if loss == kept} == {
        "ohem+dice-lr=0.0001-seed0", "ohem+dice-lr=0.0001-seed1", "ohem+dice-lr=0.001-seed1"
    }  # fmt: skip
    assert len(lines) == 1 and f"--loss {shlex.quote(kept)} --seed 2" in lines[0]


def test_another_training_of_the_same_name_is_refused(started: list[str]):
    sweep("--loss", "ce")
    Path("sweep/sweep.json").unlink()
    error = refusal("--loss", "ce", "--set", "train.epochs=7")
    assert "ce-seed0 is another training: train.epochs is 1, not 7; use another --out" in error
    sweep("--loss", "ce", "--set", "train.epochs=7,8")  # has names of its own
    assert started == ["ce-seed0", "ce-epochs=7-seed0", "ce-epochs=8-seed0"]


def test_a_dry_runs_commands_make_the_runs_of_the_sweep(started: list[str]):
    words = ["--set", "augment.scale=[0.5,1.0],[0.75, 1.5]", "--set", "data.sampler=uniform,"
             "rare-crop", "--set", "model.options.decoder_channels=[4,4,4,4,4]"]  # fmt: skip
    lines = sweep(*words, "--dry-run").splitlines()
    assert len(lines) == 4 and not Path("sweep").exists()
    for line in lines:
        for command in line.split(" && "):
            assert pretend(shlex.split(command)[1:]) == (0, 0)
    left = run_cli("sweep", "--config", "c.yaml", *words, "--dry-run")
    assert left.stdout == "" and "4 of 4 are done" in left.stderr
    sweep(*words)
    assert started == []
    assert configs()["ohem-sampler=rare-crop-scale=0.75_1.5-seed0"]["augment"]["scale"] == [
        0.75, 1.5
    ]  # fmt: skip
