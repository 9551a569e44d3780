"""Loss expressions become modules: sums, arguments, and refusals that say what is allowed."""

import pytest
import torch
from scenes import some_ignored

from segtrain.errors import UsageError
from segtrain.losses import build_loss


@pytest.mark.parametrize(
    "expression, parts",
    [
        ("ohem+0.5*dice", {"ohem": 1, "dice": 0.5}),
        ("2*ce", {"ce": 2}),
        ("ce*2", {"ce": 2}),
        ("ce + ce", {"ce": 2}),
        ("0.1*ohem(thresh=0.3) + dice(smooth=1)*3 + ce",
         {"ohem(thresh=0.3)": 0.1, "dice(smooth=1)": 3, "ce": 1}),
        ("0.5*topk(focal(gamma=1), keep=0.5) + lovasz(classes=all)",
         {"topk(focal(gamma=1), keep=0.5)": 0.5, "lovasz(classes='all')": 1}),
    ],
)  # fmt: skip
def test_a_sum_is_the_sum_of_its_parts(expression, parts):
    value = build_loss(expression, 3)(*some_ignored()).item()
    expected = sum(w * build_loss(part, 3)(*some_ignored()).item() for part, w in parts.items())
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("inner", ["", "ce, ", "focal, "])
def test_an_argument_wins_over_the_default_that_the_config_gives(inner):
    default, own, both = (
        build_loss(expression, 3, thresh=thresh, n_min_factor=16)(*some_ignored()).item()
        for expression, thresh in (
            (f"ohem({inner})", 0.9), (f"ohem({inner})", 0.2), (f"ohem({inner}thresh=0.2)", 0.9))
    )  # fmt: skip
    assert both == own != default


@pytest.mark.parametrize(
    "expression, parts",
    [
        ("ohm", ["did you mean ohem"]),
        ("ohem+dise", ["did you mean dice"]),
        ("focl(gamma=2)", ["did you mean focal"]),
        ("ohem(fcal)", ["did you mean focal"]),
        ("1" + "0" * 400 + "*ohem", ["not a loss expression"]),
        ("ohem(thresh=1" + "0" * 400 + ")", ["thresh", "(0, 1]"]),
        ("ohem(n_min_factor=1e30)", ["whole number from 1", "got 1e+30"]),
        ("topk(keep=99999999999999999999)", ["whole number from 1"]),
        ("ghm(bins=100000000000)", ["whole number from 1 to 10000"]),
        ("ce(weight=[1e39, 1, 1])", ["weight", "got 1e+39"]),
        ("dice(smooth=1e300)", ["smooth", "got 1e+300"]),
        ("mse", ["ce", "ohem", "topk", "focal", "ghm", "dice", "tversky", "jaccard", "lovasz"]),
        ("ohem(tresh=0.7)", ["tresh", "thresh, n_min_factor"]),
        ("ohem(num_classes=3)", ["no argument 'num_classes'"]),
        ("ohem(lb_ignore=3)", ["no argument 'lb_ignore'"]),
        ("ohem(sync=False)", ["no argument 'sync'"]),
        ("ohem(thresh=0)", ["(0, 1]", "got 0"]),
        ("ohem(thresh=1.5)", ["(0, 1]", "got 1.5"]),
        ("ohem(thresh='high')", ["thresh", "number", "got 'high'"]),
        ("ohem(thresh=high)", ["thresh", "number", "high"]),
        ("ohem(thresh=True)", ["thresh", "number", "got True"]),
        ("ohem(n_min_factor=0)", ["whole number from 1", "got 0"]),
        ("ohem(n_min_factor=2.5)", ["whole number from 1", "got 2.5"]),
        ("ohem(n_min_factor=1e999)", ["n_min_factor", "number", "got inf"]),
        ("ohem(0.7)", ["not a loss expression"]),
        ("ohem(dice)", ["dice", "ce", "focal", "ghm"]),
        ("ohem(topk)", ["topk", "ce", "focal", "ghm"]),
        ("ohem(ohem)", ["ohem", "ce", "focal", "ghm"]),
        ("topk(lovasz, keep=0.5)", ["lovasz", "ce", "focal", "ghm"]),
        ("topk(ce, ghm)", []),
        ("ce(focal)", []),
        ("dice(ce)", ["dice takes no inner loss; ohem, topk, border do"]),
        ("poly(ce)", ["poly takes no inner loss"]),
        ("border(dice)", ["border can't go around dice", "ce, focal, ghm, poly, border"]),
        ("border(ohem)", ["border can't go around ohem", "write ohem(border)"]),
        ("poly(epsilon=-2)", ["epsilon", "from -1", "got -2"]),
        ("poly(eps=1)", ["did you mean epsilon"]),
        ("border(sigma=0)", ["sigma", "above 0", "got 0"]),
        ("border(w0=-1)", ["w0", "from 0", "got -1"]),
        ("bordr(w0=1)", ["did you mean border"]),
        ("topk(keep=0)", ["keep", "got 0"]),
        ("topk(keep=0.0)", ["keep", "got 0"]),
        ("topk(keep=1.5)", ["keep", "got 1.5"]),
        ("topk(keep=-3)", ["keep", "got -3"]),
        ("topk(keep=True)", ["keep", "got True"]),
        ("topk(keep=1e999)", ["keep", "got inf"]),
        ("focal(gamma=-1)", ["gamma", "from 0", "got -1"]),
        ("focal(alpha=[1, 2])", ["alpha", "3"]),
        *((loss, ["focal's alpha=0.25 is for two classes, and there are 3",
                  "such as alpha=[0.75, 0.25, 0.25]", "0.25*focal to scale the loss"])
          for loss in ("focal(alpha=0.25)", "ohem(focal(alpha=0.25))", "ce + 2*focal(alpha=0.25)")),
        ("focal(alpha=2)", ["a number in [0, 1] (two classes)", "got 2"]),
        ("focal(alpha=True)", ["a number in [0, 1] (two classes)", "got True"]),
        ("focal(alpha=abc)", ["a number in [0, 1] (two classes) or a list", "one for each class",
                              "got 'abc'"]),
        ("focal(alpha=[1, 2, 'x'])", ["alpha", "'x'"]),
        ("focal(alpha=[1, 2, -3])", ["alpha", "-3"]),
        ("ghm(bins=0)", ["bins", "whole number from 1", "got 0"]),
        ("ghm(bins=2.5)", ["bins", "whole number from 1", "got 2.5"]),
        ("ghm(momentum=1)", ["momentum", "[0, 1)", "got 1"]),
        ("ghm(momentum=-0.1)", ["momentum", "[0, 1)", "got -0.1"]),
        ("dice(smooth=0)", ["smooth", "above 0", "got 0"]),
        ("dice(smooth=1e999)", ["smooth", "number", "got inf"]),
        ("dice(classes=some)", ["classes", "all", "present", "some"]),
        ("dice(classes='some')", ["classes", "all", "present", "some"]),
        ("dice(classes=[0, 1])", ["classes", "all", "present"]),
        ("dice(squared=1)", ["squared", "True or False", "got 1"]),
        ("dice(average=mean)", ["average is macro, micro or generalised", "got 'mean'"]),
        ("tversky(gamma=0)", ["gamma is a number from 0.1 to 10", "got 0"]),
        ("dice(gamma=2)", ["no argument 'gamma'"]),
        ("cldice(iterations=0)", ["iterations is a whole number from 1 to 100", "got 0"]),
        ("dice(alpha=1)", ["no argument 'alpha'", "smooth"]),
        ("tversky(alpha=-1)", ["alpha", "from 0", "got -1"]),
        ("tversky(beta=-1)", ["beta", "from 0", "got -1"]),
        ("jaccard(per_image=no)", ["per_image", "True or False"]),
        ("lovasz(per_image=3)", ["per_image", "True or False", "got 3"]),
        ("lovasz(classes=none)", ["classes", "present", "all", "none"]),
        ("ce(weight=[1, 2])", ["weight", "2", "3"]),
        ("ce(weight=[1, 2, 3, 4])", ["weight", "4", "3"]),
        ("ce(weight=[])", ["weight"]),
        ("ce(weight=2)", ["weight", "got 2"]),
        ("ce(weight=[1, 2, -1])", ["weight", "-1"]),
        ("ce(weight=[0, 0, 0])", ["weight"]),
        ("topk(weight=[1, 2])", ["weight", "2", "3"]),
        ("ce(label_smoothing=1.5)", ["label_smoothing", "[0, 1]", "got 1.5"]),
        ("ce(label_smoothing=-0.1)", ["label_smoothing", "[0, 1]", "got -0.1"]),
        ("ce(thresh=0.7)", ["no argument 'thresh'", "weight, label_smoothing"]),
        ("ce(args=1)", ["no argument 'args'"]),
        ("1e999*ce", ["not a loss expression"]),
    ],
)  # fmt: skip
def test_refusals_say_what_is_allowed(expression, parts):
    with pytest.raises(UsageError) as refusal:
        build_loss(expression, 3)
    assert all(part in str(refusal.value) for part in parts), str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_one_class_is_refused():
    with pytest.raises(UsageError, match="num_classes is 1"):
        build_loss("ce", 1)


def test_a_loss_is_a_module_without_parameters():
    loss = build_loss("ohem(ghm) + 0.5*ce(weight=[1, 2, 3]) + dice + lovasz", 3)
    assert isinstance(loss, torch.nn.Module) and not list(loss.parameters())
