"""The public interface in Python is frozen, and docs/python.md names all of it."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path

import pytest

from segtrain.models.checkpoint import Meta

PAGE = (Path(__file__).parents[1] / "docs/python.md").read_text()
FACES = {
    "segtrain": "__version__ load",
    "segtrain.config": "AugmentConfig Config DataConfig EvalConfig LossConfig ModelConfig"
    " OptimConfig PredictConfig Section SplitConfig TrainConfig",
    "segtrain.losses": "Border ClDice CrossEntropy Dice FAMILIES Focal GHM Jaccard Loss Lovasz"
    " OhemCE Poly TopK Tversky VGG build_loss",
}


@pytest.mark.parametrize("face", FACES)
def test_a_face_has_exactly_these_names(face: str):
    module = importlib.import_module(face)
    assert sorted(module.__all__) == sorted(FACES[face].split())
    assert all(getattr(module, name) is not None for name in module.__all__)
    assert [name for name in module.__all__ if f"`{name}`" not in PAGE] == []
    with pytest.raises(AttributeError, match=f"'{face}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_a_checkpoint_says_exactly_this():
    names = [field.name for field in fields(Meta)]
    assert names == "config classes palette mean std epoch miou step version tuning".split()
    assert [name for name in names if f"`{name}`" not in PAGE] == []
