"""The config: who wins, what is refused and how it is told, and that every knob turns something."""

import ast
from pathlib import Path

import pytest
import yaml

import segtrain
from segtrain.config import Config, SplitConfig
from segtrain.config.loading import differences, known_keys, load_config, make_config, to_yaml
from segtrain.errors import UsageError

SOURCES = Path(segtrain.__file__).parent


def refusal(**kwargs) -> str:
    with pytest.raises(UsageError) as told:
        load_config(**kwargs)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.fixture
def file(tmp_path: Path):
    def write(text: str) -> Path:
        (tmp_path / "given.yaml").write_text(text)
        return tmp_path / "given.yaml"

    return write


def test_flag_over_set_over_file_over_base_over_default(file):
    base = make_config({"train": {"epochs": 1, "seed": 1, "nodes": 1, "batch_size": 1}})
    given = file("train: {seed: 2, batch_size: 2, log_every: 2}\n")
    flags = {"train.log_every": 4, "train.epochs": None}
    found = load_config(given, ["train.batch_size=3", "train.log_every=3"], flags, base).train
    default = Config().train.devices
    assert (found.epochs, found.seed, found.batch_size, found.log_every) == (1, 2, 3, 4)
    assert found.devices == default


def test_each_source_alone(file):
    assert load_config() == Config()
    assert load_config(file("")) == Config()
    assert load_config(file("optim: {lr: 1e-3}")).optim.lr == 0.001  # a string to YAML 1.1
    assert load_config(sets=["optim.lr=5e-4"]).optim.lr == 0.0005
    assert load_config(sets=["data.splits.val.list=v.txt"]).data.splits["val"].list == "v.txt"


@pytest.mark.parametrize(
    "written, crop",
    [("256x192", (256, 192)), ("256X192", (256, 192)), (256, (256, 256)), ("64", (64, 64)),
     ([32, 48], (32, 48)), (None, None)],
)  # fmt: skip
def test_crop_is_height_by_width_or_one_number(written, crop):
    assert make_config({"augment": {"crop": written}}).augment.crop == crop


@pytest.mark.parametrize(
    "sets, told",
    [
        (["train.epoch=3"], ["unknown key train.epoch", "did you mean train.epochs"]),
        (["trian.epochs=3"], ["unknown key trian", "did you mean train"]),
        (["data.splits.val.imges=a"], ["unknown key data.splits.val.imges"]),
        (["train.epochs=many"], ["train.epochs", "integer", "got 'many'"]),
        (["train.epochs.x=3"], ["train.epochs"]),
        (["train=3"], ["train:", "got 3"]),
        (["optim.lr=.inf"], ["optim.lr", "finite"]),
        (["optim.lr=0"], ["optim.lr", "greater than 0"]),
        (["loss.thresh=1.5"], ["loss.thresh", "less than or equal to 1"]),
        (["augment.crop=256x"], ["augment.crop"]),
        (["augment.crop=32x0"], ["augment.crop"]),
        (["augment.crop=true"], ["augment.crop"]),
        (["augment.scale=[2, 0.5]"], ["augment.scale", "the lower one first"]),
        (["augment.scale=[0, 1]"], ["augment.scale", "positive"]),
        (["data.classes=[a, b]", "data.lb_ignore=1"], ["lb_ignore 1 is the id of class b", "0..1"]),
        (["data.classes=[a, b]", "data.palette=[[0, 0, 0]]"], ["1 colours for 2 classes"]),
        (["data.classes=[road, car, road]"], ["names road twice"]),
        (["data.classes=[a, b]", "data.label_map={7: 2}"], ["label_map names class 2", "0..1"]),
        (["data.classes=[a]"], ["data.classes"]),
        (["data.palette=[[0, 0, 256]]"], ["data.palette", "255"]),
        (["train.epochs"], ["--set train.epochs", "key.path=value"]),
        (["train.epochs=: :"], ["--set", "not YAML"]),
        (["train.epochs=many", "loss.tresh=1", "optim.lr=-1"],
         ["train.epochs", "unknown key loss.tresh", "optim.lr"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_all_at_once(sets, told):
    message = refusal(sets=sets)
    assert [part for part in told if part not in message] == []


@pytest.mark.parametrize(
    "text, told",
    [
        ("train: [", "not YAML"),
        ("- train", "expected sections"),
        ("just words", "expected sections"),
        ("train: [1]", "train"),
        ("train: {1: 2}", "train.1"),
        ("train: {epohcs: 3}", "did you mean train.epochs"),
    ],
)
def test_a_bad_file_is_named(file, text, told):
    path = file(text)
    message = refusal(file=path)
    assert told in message and str(path) in message


def test_files_that_cannot_be_read(tmp_path):
    assert "no such file" in refusal(file=tmp_path / "none.yaml")
    assert "cannot be read" in refusal(file=tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    assert "cannot be read" in refusal(file=tmp_path / "binary.yaml")


RICH = {
    "data": {"classes": ["Straße", "no", "3"], "palette": [[0, 0, 0], [1, 2, 3], [255, 0, 9]],
             "label_map": {7: 1, 9: "ignore"}, "lb_ignore": -1, "workers": 2,
             "splits": {"val": {"images": "a", "masks": "b"}, "train": {"list": "t.txt"}}},
    "augment": {"crop": "96x64", "scale": [1, 1]},
    "model": {"options": {"decoder_channels": [8, 8]}},
    "optim": {"lr": 1e-7},
    "train": {"precision": "32"},
}  # fmt: skip


@pytest.mark.parametrize("values", [{}, RICH])
def test_yaml_round_trip(values):
    config = make_config(values)
    assert make_config(yaml.safe_load(to_yaml(config))) == config


def test_differences_are_those_fields_that_changed():
    old, new = make_config(RICH), make_config(RICH)
    assert differences(old, new) == {}
    new = load_config(sets=["train.epochs=7", "augment.crop=64", "data.label_map={}"], base=old)
    assert differences(old, new) == {
        "data.label_map": ({"7": 1, "9": "ignore"}, {}),
        "augment.crop": ([96, 64], [64, 64]),
        "train.epochs": (50, 7),
    }


def section_of(annotation: ast.expr | None) -> str | None:
    """The name of the section whose type an annotation is."""
    sections = {type_.annotation.__name__: name for name, type_ in Config.model_fields.items()}
    kind = ast.unparse(annotation) if annotation else ""
    return "Split" if kind == "SplitConfig" else sections.get(kind)


def names_of_sections(trees: list[ast.Module]) -> set[tuple[str, str]]:
    """(name, section) of each argument, variable and field that is annotated as a section."""
    found = {(name, name) for name in Config.model_fields} | {("split", "Split")}
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.arg) and (section := section_of(node.annotation)):
            found.add((node.arg, section))
        if isinstance(node, ast.AnnAssign) and (section := section_of(node.annotation)):
            found.add((ast.unparse(node.target).rpartition(".")[2], section))
    return found


def fields_read(trees: list[ast.Module]) -> set[str]:
    """'section.field' for each x.field where x is named as a section, or annotated as one.

    Where getattr reads fields, their names are constants of that file.
    """
    names, found = names_of_sections(trees), set()
    for tree in trees:
        constants = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        for node in ast.walk(tree):
            fields: list = []
            if isinstance(node, ast.Attribute):
                owner, fields = node.value, [node.attr]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
                owner, fields = node.args[0], [c for c in constants if type(c) is str]
            name = ast.unparse(owner).rpartition(".")[2] if fields else ""
            found |= {f"{s}.{field}" for n, s in names if n == name for field in fields}
    return found


def test_every_field_is_read_by_another_file():
    manual = SOURCES / "config"
    others = [path for path in SOURCES.rglob("*.py") if manual not in path.parents]
    read = fields_read([ast.parse(path.read_text()) for path in others])
    fields = known_keys() + [f"Split.{field}" for field in SplitConfig.model_fields]
    assert [field for field in fields if field not in read] == []
    assert "data.no_such_field" not in read and "train.no_such_field" not in read


TIME = "expected a time such as 90s, 10min or 2h"
STEPS = "expected at least 1 step, or a time such as 90s or 10min"


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("timeout", "5", f"train.timeout: {TIME}, got '5'"),
        ("timeout", "0s", f"train.timeout: {TIME}, got '0s'"),
        ("timeout", "9999999h", f"train.timeout: {TIME}, got '9999999h'"),
        ("timeout", "null", f"train.timeout: {TIME}, got 'None'"),
        ("checkpoint_every", "0", f"train.checkpoint_every: {STEPS}, got 0"),
        ("checkpoint_every", "-3", f"train.checkpoint_every: {STEPS}, got -3"),
        ("checkpoint_every", "1.5", f"train.checkpoint_every: {STEPS}, got 1.5"),
        ("checkpoint_every", "true", f"train.checkpoint_every: {STEPS}, got True"),
        ("checkpoint_every", "null", f"train.checkpoint_every: {STEPS}, got None"),
        ("checkpoint_every", "10 minutes", f"train.checkpoint_every: {TIME}, got '10 minutes'"),
        ("checkpoint_every", "²", f"train.checkpoint_every: {TIME}, got '²'"),
        ("compile", "maybe", "train.compile: input should be 'auto', 'on' or 'off', got 'maybe'"),
        ("patience", "0", "train.patience: input should be greater than or equal to 1, got 0"),
        ("ema", "1", "train.ema: input should be less than 1, got 1"),
    ],
)
def test_values_of_training_that_mean_nothing(field: str, value: str, said: str):
    with pytest.raises(UsageError) as raised:
        load_config(sets=[f"train.{field}={value}"])
    assert str(raised.value) == f"config: {said}"


@pytest.mark.parametrize(
    "value, kept", [("5", 5), ("'5'", 5), ("10min", "10min"), ("0.5 h", "0.5 h"), ("90s", "90s")]
)
def test_steps_and_times(value: str, kept: int | str):
    assert load_config(sets=[f"train.checkpoint_every={value}"]).train.checkpoint_every == kept


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_on_and_off_are_words(word: str):
    assert load_config(sets=[f"train.compile={word}"]).train.compile == word
