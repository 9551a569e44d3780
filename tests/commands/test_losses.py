"""segtrain losses: the list of all, the page of one, and an unknown name."""

import pytest

from segtrain.losses.arguments import ARGUMENTS


def test_lists_every_loss_with_its_formula(cli):
    answer = cli("losses")
    assert answer.code == 0
    words = " ".join(answer.stdout.split())
    for name, family in ARGUMENTS.items():
        assert f"\n{name}(" in "\n" + answer.stdout
        assert family.formula.split()[0] in words
    assert "ohem, topk, border go around ce, focal, ghm, poly, border: 'ohem(focal)'" in words


@pytest.mark.parametrize("name", ARGUMENTS)
def test_explains_one_with_arguments_defaults_and_source(cli, name):
    family, text = ARGUMENTS[name], cli("losses", name).stdout
    assert family.formula in text and family.source in text
    for key, default in family.defaults().items():
        assert f"{key}={default!r}" in text.splitlines()[0]
        assert f"\n{key}: " in text, f"{name} says nothing of {key}"


def test_refuses_another_with_the_nearest(cli):
    answer = cli("losses", "oehm")
    assert answer.code == 2
    assert "there is no 'oehm'" in answer.error and "did you mean ohem" in answer.error
