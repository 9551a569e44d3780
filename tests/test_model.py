"""The network that owns how it reads an image."""

from __future__ import annotations

import pytest
import torch

from segtrain.config import Model
from segtrain.errors import UsageError
from segtrain.model import SegmentationModel, build_model

SMALL = {"unet": {"decoder_channels": [8] * 5}, "fpn": {"decoder_segmentation_channels": 32},
         "deeplabv3plus": {"decoder_channels": 8}}  # fmt: skip


@pytest.fixture(scope="module")
def built() -> dict[str, SegmentationModel]:
    torch.manual_seed(0)
    return {arch: build_model(Model(arch=arch, options=options), 3).eval()
            for arch, options in SMALL.items()}  # fmt: skip


def pixels(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("size", [(33, 47), (64, 32), (1, 5), (31, 97)])
def test_logits_have_the_images_size(built, arch: str, size: tuple[int, int]):
    with torch.no_grad():
        logits = built[arch](pixels(2, 3, *size))
    assert logits.shape == (2, 3, *size)
    assert logits.isfinite().all()


def test_the_model_normalises_and_pads_by_itself(built):
    """Padding is 0 after normalisation, at the right and the bottom."""
    model, image = built["unet"], pixels(1, 3, 33, 47)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255
    padded = torch.zeros(1, 3, 64, 64)
    padded[..., :33, :47] = (image - mean) / std
    with torch.no_grad():
        torch.testing.assert_close(model(image), model.network(padded)[..., :33, :47])


@pytest.mark.parametrize(
    "arch, size, expected",
    [
        ("unet", (64, 64), True),
        ("unet", (32, 32), False),  # one value a channel at the deepest
        ("fpn", (64, 64), True),
        ("deeplabv3plus", (64, 64), False),
    ],
)
def test_trains_on_one_says_so_and_changes_nothing(built, arch, size, expected):
    model = built[arch]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert any("running_mean" in name for name in before)
    assert model.trains_on_one(size) is expected
    assert not model.training
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("arch", ["unet", "deeplabv3plus"])
def test_trains_on_one_is_true_of_training(built, arch):
    """What the probe says is what a training step of one image does."""
    model = build_model(Model(arch=arch, options=SMALL[arch]), 3).train()
    if model.trains_on_one((64, 64)):
        assert model(pixels(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    else:
        with pytest.raises(ValueError):
            model(pixels(1, 3, 64, 64))


def test_parameters_are_counted(built):
    counted = sum(p.numel() for p in built["unet"].network.parameters())
    assert built["unet"].parameter_count == counted > 1e7


def test_mean_and_std_are_saved_with_the_weights(built):
    state = built["unet"].state_dict()
    assert state["mean"].flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert state["std"].flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"arch": "unett"}, "no 'unett'; did you mean unet"),
        ({"encoder": "resnet81"}, "no 'resnet81'; did you mean resnet18"),
        ({"options": {"decoder_channels": [8, 8]}}, "unet cannot be built on resnet18"),
        ({"arch": "unetplusplus", "encoder": "mit_b0"}, "unetplusplus cannot be built on mit_b0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(fields: dict, words: str):
    with pytest.raises(UsageError, match=words):
        build_model(Model(**fields), 2)
