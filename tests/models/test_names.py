"""Names of networks, checked without torch: stored ones, and those of the installed libraries."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
from write_names import installed_names

from segtrain.errors import UsageError
from segtrain.models import names
from segtrain.models.names import check_names, refuse_missing_weights, stored_names
from segtrain.models.segmentation import check_installed


def test_the_stored_names_are_those_of_the_installed_libraries():
    assert stored_names() == installed_names(), "run: python tests/models/write_names.py"


def test_a_name_that_the_list_lacks_is_left_to_the_libraries(monkeypatch):
    """They may be newer than the list."""
    monkeypatch.setattr(names, "stored_names", lambda: dict.fromkeys(stored_names(), []))
    for arch in smp.MODEL_ARCHITECTURES_MAPPING:
        check_names(arch, "resnet18")
    encoders = [*smp.encoders.get_encoder_names()[::8], "tu-convnext_base_in22k"]  # an older name
    for encoder in encoders + [f"tu-{name}" for name in timm.list_models()[::100]]:
        check_names("unet", encoder)


@pytest.mark.parametrize(
    "arch, encoder, words",
    [
        ("unett", "resnet18", ["model.arch", "'unett'", "unet", "deeplabv3plus"]),
        ("unet", "resnett18", ["model.encoder", "'resnett18'", "resnet18", "tu-NAME"]),
        ("unet", "tu-resnett18", ["'tu-resnett18'", "tu-resnet18"]),
        ("unet", "tu-resnett18.a1_in1k", ["'tu-resnett18.a1_in1k'", "tu-resnet18"]),
        ("unet", "mobilenetv3_small_100x", ["'mobilenetv3_small_100x'"]),
        ("a(", "resnet18", ["'a('"]),
        ("unet", "tu-[", ["'tu-['"]),
    ],
)
def test_a_wrong_name_is_refused_alike_with_and_without_the_libraries(arch, encoder, words):
    errors = []
    for check in (check_names, check_installed):
        with pytest.raises(UsageError) as refused:
            check(arch, encoder)
        errors.append(str(refused.value))
    assert errors[0] == errors[1] and all(word in errors[0] for word in words)


def test_a_tag_of_weights_may_follow_a_name_of_timm():
    check_names("unet", "tu-resnet18.a1_in1k")


def test_a_missing_file_of_weights_is_refused(tmp_path):
    for word in ("auto", "imagenet", "none"):
        refuse_missing_weights(word)
    with pytest.raises(UsageError, match="no such file"):
        refuse_missing_weights(str(tmp_path / "w.pt"))
    with pytest.raises(
        UsageError, match="a folder without .*; that of a run has a file checkpoints/best"
    ):
        refuse_missing_weights(str(tmp_path))
