"""Sources of a config: each is checked by itself and named, and the later ones override."""

from __future__ import annotations

from pathlib import Path

import pytest

from segtrain.config.loading import load_config
from segtrain.errors import UsageError


def refusal(text: str = "", sets: tuple[str, ...] = (), **flags) -> str:
    file = Path("run.yaml")
    file.write_text(text)
    dotted = {key.replace("__", "."): value for key, value in flags.items()}
    with pytest.raises(UsageError) as raised:
        load_config(file, list(sets), dotted)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 2000
    return str(raised.value)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_error_names_its_source_alone():
    good = "train: {epochs: 3}"
    assert refusal(good, ("trainn.epochs=2",)).startswith("--set trainn.epochs=2: unknown key")
    assert refusal(good, train__epochs=0).startswith("--epochs 0: expected at least 1")
    assert refusal(good, data__path=3).startswith("--data 3: ")
    assert refusal(good, loss__n_min_factor=0).startswith("--n-min-factor 0: ")
    assert refusal("train: {epochs: 0}", ("train.seed=2",)).startswith("run.yaml: train.epochs: ")
    assert refusal("model: {epochs: 0}").startswith("run.yaml: unknown key model.epochs")


def test_a_source_is_refused_also_where_another_overrides_it():
    assert refusal("", ("train.epochs=x",), train__epochs=3).startswith("--set train.epochs=x: ")
    assert refusal("", ("train.epochs=x", "train.epochs=3")).startswith("--set train.epochs=x: ")
    assert refusal("train: {epochs: x}", ("train.epochs=3",)).startswith("run.yaml: train.epochs")


@pytest.mark.parametrize("wrong", ["model.arch=foo", "model.encoder=foo", "loss.expression=foo"])
def test_wrong_names_are_refused_also_where_a_flag_overrides_them(cli, wrong: str):
    flags = ["--arch", "unet", "--encoder", "resnet18", "--loss", "ce"]
    assert f"--set {wrong}: " in cli("fit", "--set", wrong, *flags).error


def test_all_sources_are_named_at_once():
    message = refusal("optim: {lr: x}", ("train.seed=-1",), train__epochs=0)
    assert [source in message for source in ("run.yaml:", "--set train.seed=-1:", "--epochs 0:")]


def test_a_contradiction_names_those_that_make_it():
    classes = "data: {classes: [a, b], workers: 1}\ntrain: {seed: 1}"
    message = refusal(classes, ("data.cache=ram",), data__lb_ignore=1)
    assert message.startswith("run.yaml, --lb-ignore 1: data: lb_ignore 1 is the id of class b")
    assert refusal("model: {mean: [1, 2]}").startswith("run.yaml: model: mean has 2 values for 3")


def test_one_source_need_not_be_complete():
    """The mean of five channels is right with the other source's number of channels."""
    Path("run.yaml").write_text("model: {in_channels: 5}")
    means = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert load_config(Path("run.yaml"), [f"model.mean={means}"]).model.mean == means


def test_a_section_given_whole_keeps_the_other_fields():
    Path("run.yaml").write_text("data: {path: here, label_map: {1: 0, 2: 1}}")
    data = load_config(Path("run.yaml"), ["data={workers: 0}", "data.label_map={3: 1}"]).data
    assert (data.path, data.workers, data.label_map) == ("here", 0, {3: 1})


def test_parts_of_a_split_are_given_one_by_one():
    Path("run.yaml").write_text("data: {splits: {train: &s {images: a}, val: *s}}")
    splits = load_config(Path("run.yaml"), ["data.splits.val.images=b"]).data.splits
    assert (splits["train"].images, splits["val"].images) == ("a", "b")


def test_many_problems_stay_one_readable_line():
    message = refusal("\n".join(f"key{number}: 1" for number in range(500)))
    assert "unknown key key0" in message and "(+492 more)" in message


@pytest.mark.parametrize(
    "field, value",
    [("train.epochs", "true"), ("optim.lr", "yes"), ("data.label_map", "{1: true}"),
     ("train.seed", str(2**63)), ("train.epochs", f"'{10**50}'"), ("augment.crop", str(10**30)),
     ("data.group_by", "'" + "(" * 4000 + "'"), ("data.label_map", "{1: 0, '1': 1}")],
)  # fmt: skip
def test_values_that_pydantic_would_take(field: str, value: str):
    assert refusal(sets=(f"{field}={value}",)).startswith(f"--set {field}=")


def test_words_in_another_spelling_are_taken():
    config = load_config(
        None,
        ["optim.name=AdamW", "data.sampler=Rare_Crop", "eval.tta=[HFlip, 0.5]",
         "data.label_map={3: IGNORE}", "train.precision=32", "model.weights=None",
         "loss.expression=OHEM(Focal) + 0.5*Dice(per-image=true)"],
        {"train.precision": "FP16", "data.format": "CamVid RGB"},
    )  # fmt: skip
    assert (config.optim.name, config.data.sampler) == ("adamw", "rare-crop")
    assert (config.eval.tta, config.data.label_map) == (["hflip", 0.5], {3: "ignore"})
    assert (config.train.precision, config.data.format) == ("fp16", "camvid-rgb")
    assert config.loss.expression == "ohem(focal) + 0.5*dice(per_image=True)"
    assert config.model.weights == "none"


def test_a_file_of_a_words_name_is_that_file():
    Path("ImageNet").write_text("")
    assert load_config(sets=["model.weights=ImageNet"]).model.weights == "ImageNet"
    quoted = "vgg(weights='Median-Frequency')"
    assert load_config(sets=[f"loss.expression={quoted}"]).loss.expression == quoted
