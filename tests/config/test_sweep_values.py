"""Values of a sweep: where a text is split, and where a comma may mean something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segtrain.config.differences import label_values, list_differences
from segtrain.config.loading import load_config
from segtrain.config.sweep_values import split_sets, split_values
from segtrain.errors import UsageError


@pytest.mark.parametrize(
    "text, parts",
    [
        ("ce", ["ce"]),
        ("ce, ohem+dice", ["ce", "ohem+dice"]),
        ("ohem(focal(gamma=2, alpha=1), thresh=0.6),ce", ["ohem(focal(gamma=2, alpha=1), "
                                                         "thresh=0.6)", "ce"]),
        ("ce(weights=[1, 2,3]),ohem", ["ce(weights=[1, 2,3])", "ohem"]),
        ("ce,", ["ce", ""]),
        ("[0.5,1.0],[0.75,1.5]", ["[0.5,1.0]", "[0.75,1.5]"]),
        ("{a: 1, b: [1,2]},{}", ["{a: 1, b: [1,2]}", "{}"]),
        ("'a,b',\"c,]\",d", ["'a,b'", '"c,]"', "d"]),
        ("'it''s, one',2", ["'it''s, one'", "2"]),
        (r'"a\",b",c', [r'"a\",b"', "c"]),
        ("iou:driver's,miou", ["iou:driver's", "miou"]),  # a quote within a word opens none
        ("['a,', b],c", ["['a,', b]", "c"]),
        ("^(.{1,3})_,^x", ["^(.{1,3})_", "^x"]),
        ("", [""]),
    ],
)  # fmt: skip
def test_commas_outside_brackets_and_quotes_separate_values(text: str, parts: list[str]):
    assert split_values(text) == parts


VALUE = st.sampled_from(["1e-3", "a.b", "-", "'a,b'", '"]"', "(x, y)", "[]", "[a, [b, 'c,']]"])


@given(st.lists(VALUE, min_size=1))
def test_whatever_is_joined_by_commas_is_split_again(values: list[str]):
    assert split_values(" , ".join(values)) == values


@pytest.mark.parametrize(
    "entry, entries",
    [
        ("optim.lr=1e-3", ["optim.lr=1e-3"]),
        ("optim.lr=1e-3, 3e-4", ["optim.lr=1e-3", "optim.lr=3e-4"]),
        ("augment.scale=[0.5,1.0],[0.75, 1.5]", ["augment.scale=[0.5,1.0]",
                                                 "augment.scale=[0.75, 1.5]"]),
        ("augment.crop=256x192,384", ["augment.crop=256x192", "augment.crop=384"]),
        ("augment.crop=64,128,256", ["augment.crop=64", "augment.crop=128", "augment.crop=256"]),
        ("data.classes=[a,b]", ["data.classes=[a,b]"]),
        ("data.rare_classes=null,[a]", ["data.rare_classes=null", "data.rare_classes=[a]"]),
        ("model.options={a: 1, b: [1,2]}", ["model.options={a: 1, b: [1,2]}"]),
        ("model.options.a=x,y", ["model.options.a=x", "model.options.a=y"]),
        ("data.group_by='^a,b'", ["data.group_by='^a,b'"]),
        ("optim={lr: 1},{lr: 2}", ["optim={lr: 1}", "optim={lr: 2}"]),
        ("trainn.epochs=1,2", ["trainn.epochs=1", "trainn.epochs=2"]),  # refused by its name later
        ("train.epochs", ["train.epochs"]),
    ],
)  # fmt: skip
def test_a_set_stands_for_each_of_its_values(entry: str, entries: list[str]):
    assert split_sets([entry, "train.epochs=3"]) == [entries, ["train.epochs=3"]]


@pytest.mark.parametrize(
    "entries, words",
    [
        (["augment.scale=0.5,1.0"], ["one list is augment.scale=[0.5,1.0], two are"]),
        (["eval.tta=hflip,vflip"], ["one list is eval.tta=[hflip,vflip]"]),
        (["data.classes=road, car"], ["one list is data.classes=[road, car]"]),
        (["data.exclude=a,b"], ["one list"]),
        (["data.value_range=0,4095"], ["one list"]),
        (["model.mean=1,2,3"], ["one list"]),
        (["augment.transforms=HorizontalFlip,RandomGamma: {p: 0.3}"], ["one list"]),
        (["augment.crop=256,192"], ["one size is augment.crop=256x192", "=256x256,192x192"]),
        (["optim.lr=1e-3,"], ["optim.lr=1e-3,: no value beside a comma", "null"]),
        (["optim.lr=1", "optim.lr=1,2"], ["optim.lr is given 2 times"]),
    ],
)
def test_commas_that_may_mean_something_else_are_refused(entries: list[str], words: list[str]):
    with pytest.raises(UsageError) as raised:
        split_sets(entries)
    assert [word for word in words if word not in str(raised.value)] == []


def test_differences_are_labelled_by_what_differs_alone():
    sets = [
        ["loss.expression=ce", "optim.lr=1e-3", "augment.crop=64x32"],
        ["loss.expression=ohem", "optim.lr=0.0010", "augment.scale=[0.5, 1]"],
        ["loss.expression=ohem", "eval.batch_size=2", "train.batch_size=2"],
    ]
    sets[0] += ["model.options={a: 1, b: 2}"]
    sets[1] += ["model.options={a: 1, b: [3]}"]
    sets[2] += ["model.options={a: 1}"]
    found = list_differences([load_config(None, each) for each in sets])
    assert found == {
        "augment.crop": [[64, 32], None, None],
        "augment.scale": [None, [0.5, 1.0], None],
        "model.options.b": [2, [3], None],
        "loss.expression": ["ce", "ohem", "ohem"],
        "train.batch_size": [8, 8, 2],
        "eval.batch_size": [1, 1, 2],
    }
    assert next(iter(found)) == "loss.expression"
    assert [label_values({key: column[i] for key, column in found.items()}) for i in (0, 1)] == [
        "ce, crop=64x32, scale=null, b=2, train.batch_size=8, eval.batch_size=1",
        "ohem, crop=null, scale=[0.5, 1.0], b=[3], train.batch_size=8, eval.batch_size=1",
    ]
    assert list_differences([load_config()] * 2) == {}
