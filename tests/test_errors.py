"""Errors: choices by another spelling, and suggestions."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
from hypothesis import given
from hypothesis import strategies as st

from segtrain.errors import _spelling, did_you_mean, match_choice
from segtrain.losses.arguments import ARGUMENTS

ARCHITECTURES = list(smp.MODEL_ARCHITECTURES_MAPPING)
ENCODERS = smp.encoders.get_encoder_names() + [f"tu-{name}" for name in timm.list_models()]
ALL = [ARCHITECTURES, ENCODERS, list(ARGUMENTS)]


@pytest.mark.parametrize(
    "written, choice",
    [
        ("DeepLabV3+", "deeplabv3plus"),
        ("deeplab v3 plus", "deeplabv3plus"),
        ("UNet++", "unetplusplus"),
        ("U-Net", "unet"),
        ("ResNet50", "resnet50"),
        ("TU_ConvNeXt-Tiny", "tu-convnext_tiny"),
        ("OHEM", "ohem"),
        ("resnet.50", None),  # a point begins timm's tag
        ("", None),
        ("-", None),
    ],
)
def test_another_spelling_is_taken(written: str, choice: str | None):
    assert match_choice(written, [name for names in ALL for name in names]) == choice


@pytest.mark.parametrize("names", ALL, ids=["architectures", "encoders", "losses"])
def test_no_two_known_names_are_spelled_alike(names: list[str]):
    assert len({_spelling(name) for name in names}) == len(names)


def test_a_name_that_spells_several_is_not_taken():
    assert match_choice("ROAD", ["road", "Road"]) is None
    assert match_choice("road", ["road", "Road"]) == "road"
    assert match_choice("ROAD", ["road", "road"]) == "road"  # one name, listed twice
    assert did_you_mean("ROAD", ["road", "Road"]) == "; did you mean road, Road?"


@given(st.text(), st.lists(st.text()))
def test_a_known_name_is_itself(name: str, others: list[str]):
    assert match_choice(name, [*others, name]) == name
    assert match_choice(name, others) in (None, *others)


def test_suggestions_compare_spellings():
    assert did_you_mean("DEEP-LAB-V3++", ARCHITECTURES).startswith("; did you mean deeplabv3plus")
    assert did_you_mean("zzz", ARCHITECTURES) == ""
