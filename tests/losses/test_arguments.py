"""Arguments of the families: one source for expressions and classes, and refused in one line."""

import inspect
import math
import re

import pytest
import torch

from segtrain import losses
from segtrain.errors import UsageError
from segtrain.losses.argument_types import make_arguments
from segtrain.losses.arguments import ARGUMENTS
from segtrain.losses.build import FAMILIES
from segtrain.losses.pixel_arguments import OhemArguments


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_class_takes_the_arguments_of_its_expression_in_their_order(name):
    given = inspect.signature(FAMILIES[name]).parameters
    defaults = {key: p.default for key, p in given.items()}
    extras = {"inner", "palette", "lb_ignore"} & defaults.keys()
    assert defaults["lb_ignore"] == 255 and list(given)[-1] == "lb_ignore"
    own = {key: default for key, default in defaults.items() if key not in extras}
    assert list(own.items()) == list(ARGUMENTS[name].defaults().items())
    assert FAMILIES[name].__doc__ == ARGUMENTS[name].__doc__


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: losses.OhemCE(2), ["thresh", "(0, 1]", "got 2"]),
        (lambda: losses.OhemCE(0.7, 0), ["n_min_factor", "from 1", "got 0"]),
        (lambda: losses.OhemCE(weight=[0, 0]), ["weight", "not all 0", "[0, 0]"]),
        (lambda: losses.OhemCE(weight="inverse-sqrt"), ["weight", "numbers", "inverse-sqrt"]),
        (lambda: losses.OhemCE(inner=losses.TopK()), ["inner", "CrossEntropy", "TopK"]),
        (lambda: losses.TopK(inner=losses.Dice()), ["inner", "CrossEntropy", "Dice"]),
        (lambda: losses.TopK(True), ["keep", "(0, 1]", "whole number", "got True"]),
        (lambda: losses.CrossEntropy([1, math.nan]), ["weight", "from 0", "got nan"]),
        (lambda: losses.Focal(10**400), ["gamma", "from 0", "got 1000"]),
        (lambda: losses.Tversky(0.3, -1), ["beta", "from 0", "got -1"]),
        (lambda: losses.Dice(1.0, 1), ["squared", "True or False", "got 1"]),
        (lambda: losses.Lovasz("some"), ["classes", "present", "some"]),
        (lambda: losses.GHM(10.5), ["bins", "10000", "got 10.5"]),
        (lambda: losses.OhemCE(per_image=1), ["per_image", "True or False", "got 1"]),
    ],
)
def test_a_class_refuses_in_one_line(make, named):
    with pytest.raises(UsageError) as refusal:
        make()
    assert all(part in str(refusal.value) for part in named), str(refusal.value)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 150


@pytest.mark.parametrize(
    "classes, end", [(3, "[0.75, 0.25, 0.25]"), (150, "[0.75, 0.25, ..., 0.25]")]
)
@pytest.mark.parametrize("make", [losses.Focal, lambda **a: losses.TopK(inner=losses.Focal(**a))])
def test_one_alpha_is_refused_for_more_than_two_classes(make, classes, end):
    target = torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(UsageError, match=re.escape(f"alpha={end}, or write 0.25*focal to scale")):
        make(alpha=0.25)(torch.zeros(1, classes, 2, 2), target)
    assert make(alpha=0.25)(torch.zeros(1, 2, 2, 2), target).isfinite()


@pytest.mark.parametrize("factor", [16, 16.0])
def test_a_float_without_fraction_is_a_whole_number(factor):
    assert make_arguments(OhemArguments, n_min_factor=factor).n_min_factor == 16


def test_a_count_and_a_share_differ_by_their_type():
    whole, share = (losses.TopK(keep).k for keep in (1, 1.0))
    assert (type(whole), type(share)) == (int, float)
