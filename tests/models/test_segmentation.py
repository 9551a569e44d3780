"""Segmentation network: normalisation, padding, frozen parts, batches of one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segtrain.config import ModelConfig
from segtrain.errors import UsageError
from segtrain.models.segmentation import SegmentationModel, build_model
from segtrain.models.trial import Padding

SMALL = {"unet": {"decoder_channels": [8] * 5}, "fpn": {"decoder_segmentation_channels": 32},
         "deeplabv3plus": {"decoder_channels": 8}}  # fmt: skip


@pytest.fixture(scope="module")
def built() -> dict[str, SegmentationModel]:
    torch.manual_seed(0)
    return {arch: build_model(ModelConfig(arch=arch, options=options), 3).eval()
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
def test_the_probe_for_one_image_changes_nothing(built, arch, size, expected):
    model = built[arch]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert any("running_mean" in name for name in before)
    assert model.can_train_on_one(size) is expected
    assert not model.training
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("arch", ["unet", "deeplabv3plus"])
def test_the_probe_for_one_image_agrees_with_training(built, arch):
    """A training step of one image does what the probe predicts."""
    model = build_model(ModelConfig(arch=arch, options=SMALL[arch]), 3).train()
    if model.can_train_on_one((64, 64)):
        assert model(pixels(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    else:
        with pytest.raises(ValueError):
            model(pixels(1, 3, 64, 64))


def test_a_fault_of_our_own_is_not_blamed_on_the_size(built, monkeypatch):
    monkeypatch.setattr(Padding, "pad", lambda *_: {}["our own"])
    with pytest.raises(KeyError):
        next(iter(built.values())).find_size_error([(64, 64)])


def learn(model: SegmentationModel, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Take one step of plain gradient descent; return the state before it."""
    before = copy.deepcopy(model.state_dict())
    model.train()
    model(images).square().mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    return before


def changed(model: SegmentationModel, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, now in model.state_dict().items() if not torch.equal(now, before[name])}


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def test_frozen_batch_norm_trains_its_weights_and_keeps_its_statistics():
    model = build_model(ModelConfig(freeze_bn=True, options=SMALL["unet"]), 3)
    names = {f"{name}." for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    trained = changed(model, learn(model, pixels(2, 3, 64, 64)))
    assert {f"{name}{part}" for name in names for part in ("weight", "bias")} <= trained
    assert not [name for name in trained if name.endswith(STATISTICS)]
    assert trained == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("arch, size", [("unet", (32, 32)), ("deeplabv3plus", (64, 64))])
def test_frozen_batch_norm_uses_its_statistics_so_that_one_image_trains(arch, size):
    """Without freeze_bn the probe says no here; only batch norm leaves training mode."""
    model = build_model(ModelConfig(arch=arch, freeze_bn=True, options=SMALL[arch]), 3)
    assert model.can_train_on_one(size)
    assert model.train().training and model.network.training
    assert [m.training for m in model.modules() if isinstance(m, nn.Dropout)] in ([], [True])
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0
    image = pixels(1, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(model(image), copy.deepcopy(model).eval()(image))


def test_frozen_batch_norm_stays_so_when_synchronised():
    model = build_model(ModelConfig(freeze_bn=True, options=SMALL["unet"]), 3)
    model.synchronise_bn()
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert norms and not any(m.training for m in norms)
    assert not any(m.training for m in model.eval().modules())


ENCODERS = [
    {"options": SMALL["unet"]},
    {"encoder": "mit_b0", "options": SMALL["unet"]},  # has drop path
    {"encoder": "tu-mobilenetv3_small_050", "options": SMALL["unet"]},
    {"arch": "fpn", "options": SMALL["fpn"]},
    {"arch": "deeplabv3plus", "options": SMALL["deeplabv3plus"]},
]


@pytest.mark.parametrize("fields", ENCODERS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_a_frozen_encoder_is_left_alone_and_all_else_is_trained(fields):
    torch.manual_seed(0)
    model = build_model(ModelConfig(**fields), 3)
    model.freeze_encoder()
    images = pixels(2, 3, 64, 64)
    trained = changed(model, learn(model, images))
    assert trained and not [name for name in trained if name.startswith("network.encoder.")]
    rest = {name for name in model.state_dict() if not name.startswith("network.encoder.")}
    assert trained == rest - {"mean", "std"}
    assert model.network.decoder.training and model.network.segmentation_head.training
    with torch.no_grad():  # nothing random, and the same as in evaluation
        features = [model.network.encoder(images.float())[-1] for _ in range(2)]
        features.append(model.eval().network.encoder(images.float())[-1])
    assert torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])


def test_a_frozen_encoders_batch_norm_lets_one_image_train(built):
    """At 32x32 the encoder's deepest map has one value per channel, the decoder's has four."""
    model = copy.deepcopy(built["unet"])
    assert not model.can_train_on_one((32, 32))
    model.freeze_encoder()
    assert model.can_train_on_one((32, 32))


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
        build_model(ModelConfig(**fields), 2)


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet-b0", "tu-test_efficientnet"])
def test_synchronised_batch_norm_changes_no_logits(encoder: str):
    """timm's norms include their activation, which torch's own conversion would drop."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(encoder=encoder), 3).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    before = model(image)
    names = list(model.state_dict())
    model.synchronise_bn()
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert list(model.state_dict()) == names
    assert torch.equal(model.eval()(image), before)
