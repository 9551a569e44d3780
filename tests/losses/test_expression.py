"""The little language of losses: what it reads, and that it runs nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.errors import UsageError
from segtrain.losses.expression import Term, parse_loss


@pytest.mark.parametrize(
    "expression, terms",
    [
        ("ce", [Term(1, "ce")]),
        (" ohem ( thresh = 0.7 ) ", [Term(1, "ohem", {"thresh": 0.7})]),
        ("2*ce", [Term(2, "ce")]),
        ("ce*2", [Term(2, "ce")]),
        ("ohem+0.5*dice", [Term(1, "ohem"), Term(0.5, "dice")]),
        ("ohem(focal(gamma=1), thresh=0.6)",
         [Term(1, "ohem", {"thresh": 0.6}, Term(1, "focal", {"gamma": 1}))]),
        ("ce(weight=median-frequency)", [Term(1, "ce", {"weight": "median-frequency"})]),
        ("dice(classes=present, squared=True)",
         [Term(1, "dice", {"classes": "present", "squared": True})]),
        ("ce(weight=[1, 2.5])", [Term(1, "ce", {"weight": [1, 2.5]})]),
        ("a(x=1, y=-2)*.5 + b() + 3*c",
         [Term(0.5, "a", {"x": 1, "y": -2}), Term(1, "b"), Term(3, "c")]),
    ],
)  # fmt: skip
def test_reads_weighted_sums(expression, terms):
    assert parse_loss(expression) == terms


NAMES = st.sampled_from(["ce", "ohem", "dice", "a_b1"])
NUMBERS = st.floats(-1e6, 1e6) | st.integers(-9, 9)
ARGUMENTS = st.dictionaries(NAMES, NUMBERS, max_size=3)
INNER = st.none() | st.builds(Term, st.just(1.0), NAMES, ARGUMENTS)
TERMS = st.builds(Term, st.floats(0, 1e6), NAMES, ARGUMENTS, INNER)


@settings(max_examples=40, deadline=None)
@given(st.lists(TERMS, min_size=1, max_size=4))
def test_reads_what_was_written(terms):
    assert parse_loss(" + ".join(map(str, terms))) == terms


@pytest.mark.parametrize(
    "expression",
    [
        "", "ohem(", "ohem dice", "2", "2*3", "2*3*ce", "ce-dice", "-ce", "ce/2", "ce**2",
        "ce*dice", "0.5*(ce+dice)", "ohem(0.7)", "ohem(*x)", "ohem(**{'thresh': 1})",
        "ohem(thresh=x.y)", "ohem(ce, dice)", "ohem(2*ce)", "ohem(ce+dice)", "losses.ce",
        "losses.ce()", "ce()()", "'ce'", "[ce]",
        "ce if 1 else dice", "lambda: ce", "ohem(thresh={[]: 1})",
        "True*ce", "1e999*ce", "ohem(thresh=0.1, thresh=0.2)", "ce\0",
        pytest.param("(" * 300 + "ce" + ")" * 300, id="deep"),
        pytest.param("ce" + "+ce" * 3000, id="long"),
    ],
)  # fmt: skip
def test_refuses_all_else_in_one_line(expression):
    with pytest.raises(UsageError, match="is not a loss expression; write for example ohem"):
        parse_loss(expression)


@pytest.mark.parametrize(
    "expression",
    ["__import__('pathlib').Path('ran').touch()", "ohem(thresh=__import__('os').mkdir('ran'))",
     "open('ran', 'w')", "(ran := open('ran', 'w'))"],
)  # fmt: skip
def test_runs_nothing(expression, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        parse_loss(expression)
    assert not (tmp_path / "ran").exists()
