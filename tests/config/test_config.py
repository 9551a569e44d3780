"""The config: precedence of its sources, errors, and that every field is used."""

import ast
from pathlib import Path

import pytest
import yaml

import segtrain
from segtrain.config import Config, SplitConfig
from segtrain.config.loading import compare_configs, load_config, make_config, to_yaml
from segtrain.config.schema import list_keys
from segtrain.errors import UsageError

SOURCES = Path(segtrain.__file__).parent


def refusal(**kwargs) -> str:
    """Return the error of a config; assert that it is one line."""
    with pytest.raises(UsageError) as raised:
        load_config(**kwargs)
    assert "\n" not in str(raised.value)
    return str(raised.value)


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
    "sets, words",
    [
        (["train.epoch=3"], ["unknown key train.epoch", "did you mean train.epochs"]),
        (["trian.epochs=3"], ["unknown key trian", "did you mean train"]),
        (["data.Batch-Size=3"], ["did you mean train.batch_size, eval.batch_size?"]),
        (["train.batch-size=3"], ["did you mean train.batch_size?"]),
        (["lr=3"], ["unknown key lr; did you mean optim.lr?"]),
        (["data.splits.val.imges=a"],
         ["unknown key data.splits.val.imges", "did you mean data.splits.val.images"]),
        (["train.epochs=many"], ["train.epochs", "integer", "got 'many'"]),
        (["train.zz=3"], ["unknown key train.zz", "train"]),
        (["nope.nope=3"], ["unknown key nope", "segtrain fit --dry-run"]),
        (["train.epochs.x=3"], ["train.epochs", "integer", "{'x': 3}"]),
        (["train=3"], ["--set train=3: expected keys with values, got 3"]),
        (["optim.lr=.inf"], ["optim.lr", "finite"]),
        (["optim.lr=0"], ["optim.lr", "greater than 0"]),
        (["loss.thresh=1.5"], ["loss.thresh", "at most 1,", "got 1.5"]),
        (["augment.crop=256x"], ["augment.crop", "512 or 512x512", "got '256x'"]),
        (["augment.crop=32x0"], ["augment.crop", "512 or 512x512", "got '0'"]),
        (["augment.crop=true"], ["augment.crop", "512 or 512x512", "got 'true'"]),
        (["augment.crop=[1, 2, 3]"], ["512 or 512x512, got [1, 2, 3]"]),
        (["augment.crop=[32]"], ["512 or 512x512, got [32]"]),
        (["data.value_range=[3]"], ["two values", "[0, 4095], got [3]"]),
        (["data.value_range=[x]"], ["two values", "[0, 4095], got 'x'"]),
        (["data.value_range=[]"], ["two values", "[0, 4095], got []"]),
        (["data.value_range=[0, 1, 2]"], ["[0, 4095], got [0, 1, 2]"]),
        (["data.palette=[[0, 0], [1, 2, 3]]"], ["[red, green, blue]", "got [0, 0]"]),
        (["augment.scale=[2, 0.5]"], ["augment.scale", "the lower one first", "got [2, 0.5]"]),
        (["data.workers=-1"], ["data.workers=-1: expected at least 0 or 'auto', got -1"]),
        (["eval.tta=[hflip, x]"], ["eval.tta", "[hflip, 0.75], got 'x'"]),
        (["eval.group_by='('"], ["eval.group_by", "regular expression", "'('"]),
        (["augment.scale=[0, 1]"], ["augment.scale", "positive"]),
        (["data.classes=[a, b]", "data.lb_ignore=1"], ["lb_ignore 1 is the id of class b", "0..1"]),
        (["data.classes=[a, b]", "data.palette=[[0, 0, 0]]"], ["1 colours for 2 classes"]),
        (["data.classes=[road, car, road]"], ["names road twice"]),
        (["data.classes=[a, b]", "data.label_map={7: 2}"], ["label_map names class 2", "0..1"]),
        (["data.classes=[a]"], ["data.classes", "at least 2 names", "got ['a']"]),
        (["data.palette=[[0, 0, 256]]"], ["data.palette", "255"]),
        (["train.epochs"], ["--set train.epochs", "key.path=value"]),
        (["train.epochs=: :"], ["--set", "not YAML"]),
        (["train.epochs=2026-99-99"], ["--set train.epochs=2026-99-99: expected an integer"]),
        (["train.epochs=" + "[" * 2000], ["--set", "more than 50 levels"]),
        (["train.epochs=many", "loss.tresh=1", "optim.lr=-1"],
         ["train.epochs", "unknown key loss.tresh", "optim.lr"]),
    ],
)  # fmt: skip
def test_all_wrong_keys_are_named_at_once(sets, words):
    message = refusal(sets=sets)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    "text, words",
    [
        ("train: [", "not YAML"),
        ("train: !!int ''", "not YAML"),
        ("- train", "expected sections"),
        ("just words", "expected sections"),
        ("train: [1]", "train"),
        ("train: {1: 2}", "train.1"),
        ("train: {epohcs: 3}", "did you mean train.epochs"),
        ("train.epochs: 3", "unknown key 'train.epochs'; in a file, write train: {epochs: VALUE}"),
    ],
)
def test_a_bad_file_is_named(file, text, words):
    path = file(text)
    message = refusal(file=path)
    assert words in message and str(path) in message


def test_files_that_cannot_be_read(tmp_path):
    assert "no such file" in refusal(file=tmp_path / "none.yaml")
    assert "cannot be read" in refusal(file=tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    assert "UTF-8" in refusal(file=tmp_path / "binary.yaml")


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
    assert compare_configs(old, new) == {}
    new = load_config(sets=["train.epochs=7", "augment.crop=64", "data.label_map={}"], base=old)
    assert compare_configs(old, new) == {
        "data.label_map": ({"7": 1, "9": "ignore"}, {}),
        "augment.crop": ([96, 64], [64, 64]),
        "train.epochs": (50, 7),
    }


SECTIONS = {type_.annotation.__name__: name for name, type_ in Config.model_fields.items()}
SECTIONS["SplitConfig"] = "split"


def annotated_names(nodes: list[ast.AST]) -> set[tuple[str, str]]:
    """Return (name, section) of each argument or variable whose annotation is a section."""
    found = set()
    for node in nodes:
        name = node.arg if isinstance(node, ast.arg) else getattr(node, "target", None)
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            kind = ast.unparse(node.annotation)
            if kind in SECTIONS:
                found.add((name if isinstance(name, str) else ast.unparse(name), SECTIONS[kind]))
    return found


def fields_read(tree: ast.Module, of_classes: set[tuple[str, str]]) -> set[str]:
    """Return 'section.field' for each x.section.field, and each field of a name annotated so.

    of_classes: names of the fields of all classes. A loop's `split` is a SplitConfig. Where getattr
    reads fields, their names appear as text.
    """
    found = set()
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        inside = list(ast.walk(function))
        names = annotated_names(inside) | of_classes | {("split", "split")}
        names |= {(section, section) for section in Config.model_fields}
        for node in inside:
            if isinstance(node, ast.Attribute):
                base = ast.unparse(node.value).rpartition(".")[2]
                found |= {f"{section}.{node.attr}" for name, section in names if name == base}
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
                base = ast.unparse(node.args[0])
                sections = [section for name, section in names if name == base]
                found |= {f"{s}.{text}" for s in sections for text in texts if type(text) is str}
    return found


def test_every_field_is_read_by_another_file():
    manual = SOURCES / "config"
    others = [path for path in SOURCES.rglob("*.py") if manual not in path.parents]
    trees = [ast.parse(path.read_text()) for path in others]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    of_classes = annotated_names([part for node in classes for part in node.body])
    read = set().union(*(fields_read(tree, of_classes) for tree in trees))
    fields = list_keys() + [f"split.{field}" for field in SplitConfig.model_fields]
    assert [field for field in fields if field not in read] == []
    assert "data.no_such_field" not in read


TIME = "90s, 10min or 2h"
STEPS = "a number of steps, or a time such as 90s or 10min"


@pytest.mark.parametrize(
    "field, value, allowed, shown",
    [
        ("timeout", "5", TIME, "5"),
        ("timeout", "0s", TIME, "'0s'"),
        ("timeout", "9999999h", TIME, "'9999999h'"),
        ("timeout", "null", TIME, "null"),
        ("checkpoint_every", "0", STEPS, "0"),
        ("checkpoint_every", "-3", STEPS, "-3"),
        ("checkpoint_every", "1.5", STEPS, "1.5"),
        ("checkpoint_every", "true", STEPS, "'true'"),
        ("checkpoint_every", "null", STEPS, "null"),
        ("checkpoint_every", "10 minutes", STEPS, "'10 minutes'"),
        ("checkpoint_every", "²", STEPS, "'²'"),
        ("compile", "maybe", "'auto', 'on' or 'off'", "'maybe'"),
        ("patience", "0", "at least 1", "0"),
        ("ema", "1", "less than 1", "1"),
    ],
)
def test_wrong_values_of_training(field: str, value: str, allowed: str, shown: str):
    message = refusal(sets=[f"train.{field}={value}"])
    assert message.startswith(f"--set train.{field}={value}: expected ")
    assert allowed in message and message.endswith(f", got {shown}")


@pytest.mark.parametrize(
    "value, kept", [("5", 5), ("'5'", 5), ("10min", "10min"), ("0.5 h", "0.5 h"), ("90s", "90s")]
)
def test_steps_and_times(value: str, kept: int | str):
    assert load_config(sets=[f"train.checkpoint_every={value}"]).train.checkpoint_every == kept


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_on_and_off_are_words(word: str):
    assert load_config(sets=[f"train.compile={word}"]).train.compile == word
