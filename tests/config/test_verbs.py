"""The table of fields that each verb reads: it agrees with the code; other --set are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from conftest import QUICK, run_cli
from test_architecture import FILES, TREES, inner_imports
from test_config import annotated_names, fields_read

from segtrain.config import Config, Section
from segtrain.config.schema import list_keys
from segtrain.config.verbs import READS

# of a checkpoint; or read to refuse what a launcher did, which a command without it can't give
NOT_GIVEN = {
    "data.classes", "data.group_by", "data.path", "train.precision",
    *(key for key in list_keys() if key.startswith(("model.", "loss."))),
    *(f"train.{name}" for name in ("devices", "nodes", "accumulate", "timeout")),
}  # fmt: skip
DECLARED = {
    *(f"segtrain.config.{name}" for name in ("schema", "data", "train", "verbs")),
    "segtrain.evaluation.data_section",  # copies all fields
}
COMMANDS = {
    "eval": ["eval", "RUN", "--device", "cpu", "--workers", "0"],
    "eval --predictions": ["eval", "--predictions", "masks", "--data", "set", "--device", "cpu"],
    "predict": ["predict", "set/images/000.png", "--checkpoint", "RUN", "--device", "cpu"],
    "tune": ["tune", "RUN", "--device", "cpu", "--workers", "0"],
    "check": ["check", "set"],
    "check --augment": ["check", "set", "--augment", "sheet.png"],
    "fit": ["fit", "--data", "set", *QUICK],
    "sweep": ["sweep", "--data", "set", "--loss", "ce", "--dry-run"],
}


def command(verb: str, run: Path, *more: str) -> list[object]:
    """Return a command line of a verb, in a folder with set/ and masks/."""
    Path("set").symlink_to(run.parents[1] / "set")
    Path("masks").symlink_to(run.parents[1] / "set/masks")
    return [run if word == "RUN" else word for word in COMMANDS[verb]] + [*more]


def test_each_field_is_read_by_a_verb():
    assert set().union(*READS.values()) == set(list_keys())


def reachable(module: str) -> set[str]:
    """Return the modules that a module imports, directly or not, with itself."""
    found, left = set(), {module}
    while left:
        found |= left
        left = {other for name in left for other in inner_imports(name)} - found
    return found


@pytest.mark.parametrize("verb", READS)
def test_a_verb_imports_a_reader_of_each_field(verb: str):
    command = "fit" if verb == "sweep" else verb.split()[0]  # a sweep starts trainings
    modules = reachable(f"segtrain.commands.{command}") - DECLARED
    trees = [TREES[name] for name in modules & FILES.keys()]
    classes = annotated_names([part for tree in trees for node in tree.body for part in
                               getattr(node, "body", [])])  # fmt: skip
    read = set().union(*(fields_read(tree, classes) for tree in trees))
    later = READS["eval"] | READS["predict"] if verb in ("fit", "sweep") else set()
    assert READS[verb] - read - later == set()


@pytest.mark.parametrize("verb", ["eval", "eval --predictions", "predict", "check"])
def test_a_verb_reads_no_other_fields(cli, trained: Path, monkeypatch, verb: str):
    sections = {type(getattr(Config(), name)): name for name in Config.model_fields}
    read, declared = set(), {str(FILES[name]) for name in DECLARED}

    def record(self: Section, name: str):
        reader = sys._getframe(1).f_code.co_filename  # sections check their own fields
        if type(self) in sections and name in type(self).model_fields and reader not in declared:
            read.add(f"{sections[type(self)]}.{name}")
        return super(Section, self).__getattribute__(name)

    arguments = command(verb, trained)
    monkeypatch.setattr(Section, "__getattribute__", record, raising=False)
    answer = run_cli(*arguments)
    assert answer.code in (0, 1), answer.stderr
    assert len(read) > 5
    assert read - READS[verb] - NOT_GIVEN == set()


@pytest.mark.parametrize(
    "verb, entry, words",
    [
        ("eval", "model.arch=fpn", ["model.arch", "fit and sweep do", "checkpoint"]),
        ("eval", "model.mean=[1, 2, 3]", ["model.mean"]),
        ("eval", "loss={expression: dice}", ["loss.expression"]),
        ("eval", "train.epochs=3", ["train.epochs", "it reads train.deterministic, train.device"]),
        ("eval", "eval.mask_values=own", ["eval.mask_values", "eval --predictions does"]),
        ("eval --predictions", "eval.tta=[hflip]", ["eval.tta", "eval.mask_values"]),
        ("predict", "data.on_error=skip", ["data.on_error", "data.exif, data.max_pixels"]),
        ("predict", "augment.crop=64", ["augment.crop", "fit, sweep and check --augment do"]),
        ("check", "train.seed=3", ["train.seed"]),
        ("check", "augment.hflip=1", ["augment.hflip", "check --augment do"]),
        ("sweep", "train.seed=1", ["train.seed", "its --seeds sets it"]),
        ("fit", "eval.mask_values=own", ["eval.mask_values", "eval --predictions does"]),
    ],
)
def test_a_field_that_a_verb_does_not_read_is_refused(cli, trained, verb, entry, words):
    answer = cli(*command(verb, trained, "--set", entry))
    assert answer.code == 2
    assert answer.error.startswith(f"error: --set {entry}: {verb} does not read ")
    assert [word for word in words if word not in answer.error] == []


def test_a_wrong_value_is_refused_before_a_verb_that_does_not_read_it(cli, trained):
    answer = cli(*command("eval", trained, "--set", "modle.arch=fpn"))
    assert answer.code == 2 and "did you mean model" in answer.error


def test_a_file_describes_a_data_set_for_every_verb(cli, trained: Path):
    """As README's check of a training's file; what has no effect is said."""
    given = {"data": {"classes": ["a", "b", "c"]}, "loss": {"expression": "dice"},
             "eval": {"mask_values": "own", "worst": 1}}  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(given))
    checked = cli(*command("check", trained, "--config", "run.yaml"))
    assert checked.code == 0 and "does not read" not in checked.stderr + checked.stdout
    scored = cli(*COMMANDS["eval --predictions"], "--config", "run.yaml", "--json")
    assert scored.code == 0 and "does not read loss.expression" in scored.stderr
    assert "loss.expression" not in scored.stdout.split('"config"')[0]
    planned = cli("fit", "--data", "set", *QUICK, "--config", "run.yaml", "--dry-run")
    assert planned.code == 0 and "run.yaml: fit does not read eval.mask_values" in planned.stderr


def test_a_runs_own_config_has_no_notes(cli, trained: Path):
    arguments = command("eval --predictions", trained, "--config", str(trained / "config.yaml"))
    assert cli(*arguments).code == 0
    again = cli("fit", "--config", trained / "config.yaml", "--dry-run")
    assert again.code == 0 and "note: " not in again.stderr


def test_a_spelling_is_taken_reported_and_saved(cli, trained: Path):
    spelled = ["--arch", "U-Net", "--encoder", "TU_test-byobnet", "--loss", "OHEM", "--device",
               "CPU", "--set", "optim.name=AdamW", "--set", "train.monitor=mIoU"]  # fmt: skip
    answer = cli(*command("fit", trained, *spelled, "--name", "run"))
    assert answer.code == 0, answer.error
    saved = yaml.safe_load(Path("runs/run/config.yaml").read_text())
    for given, choice, place in [
        ("U-Net", "unet", saved["model"]["arch"]),
        ("TU_test-byobnet", "tu-test_byobnet", saved["model"]["encoder"]),
        ("OHEM", "ohem", saved["loss"]["expression"]),
        ("CPU", "cpu", saved["train"]["device"]),
        ("AdamW", "adamw", saved["optim"]["name"]),
        ("mIoU", "miou", saved["train"]["monitor"]),
    ]:
        assert place == choice
        notes = answer.stderr + answer.stdout
        assert notes.count(f"note: {given} is taken for {choice}") == 1


def test_a_sheet_of_huge_crops_takes_no_memory(cli, trained: Path):
    answer = cli(*command("check --augment", trained, "--set", "augment.crop=100000"))
    assert answer.code == 2 and "a smaller --crop" in answer.error


def test_a_sweep_and_the_list_of_losses_take_spellings(cli, trained: Path):
    answer = cli(*command("sweep", trained, "--loss", "CE,OHEM", "--set", "model.arch=UNet++"))
    assert answer.code == 0 and "--loss ce" in answer.stdout and "ohem-seed0" in answer.stdout
    assert "UNet++ is taken for unetplusplus" in answer.stderr
    listed = cli("losses", "Top-K")
    assert listed.code == 0 and listed.stdout.startswith("topk(")
    assert "Top-K is taken for topk" in listed.stderr
