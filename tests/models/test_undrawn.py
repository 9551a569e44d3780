"""Networks built without their initial weights: all else is as in those that draw them."""

from __future__ import annotations

import pytest
import torch
from timm.layers import trunc_normal_
from torch import nn

from segtrain.config import ModelConfig
from segtrain.models.segmentation import build_model
from segtrain.models.undrawn import Undrawn

SMALL = {"decoder_channels": [4] * 5}
NETWORKS = {
    "of smp": {"encoder": "resnet18", "options": SMALL},
    "of timm": {"encoder": "tu-test_byobnet", "options": SMALL},
    "transformer": {"encoder": "mit_b0", "options": SMALL},
    "positions": {"arch": "dpt", "encoder": "tu-test_vit"},
    "relative positions": {"arch": "dpt", "encoder": "tu-test_vit_relpos"}
    | {"options": {"decoder_readout": "ignore"}},
    "rotary positions": {"arch": "dpt", "encoder": "tu-vit_small_patch16_dinov3"}
    | {"encoder_options": {"embed_dim": 32, "num_heads": 2}},
    "windows": {"encoder": "tu-swin_tiny_patch4_window7_224", "options": SMALL}
    | {"encoder_options": {"embed_dim": 12, "depths": [1] * 4, "num_heads": [1] * 4}},
}


@pytest.mark.parametrize("fields", NETWORKS.values(), ids=NETWORKS)
def test_a_loaded_network_is_the_same(fields: dict):
    torch.manual_seed(0)
    drawn = build_model(ModelConfig(**fields), 3).eval()
    with Undrawn():
        model = build_model(ModelConfig(**fields), 3).eval()
    model.load_state_dict(drawn.state_dict())
    own = dict(model.named_buffers()) | dict(model.named_parameters())
    for name, tensor in (*drawn.named_buffers(), *drawn.named_parameters()):
        assert torch.equal(tensor, own.pop(name)), name
    assert not own
    images = torch.randint(0, 256, (1, 3, model.padding.least, model.padding.least))
    with torch.no_grad():
        assert torch.equal(model(images), drawn(images))


def test_no_number_is_drawn():
    before = torch.get_rng_state()
    with Undrawn():
        build_model(ModelConfig(encoder="resnet18", options=SMALL), 3)
        trunc_normal_(nn.Linear(3, 4).weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_buffers_are_drawn():
    with Undrawn():
        module = nn.BatchNorm2d(4)
        module.register_buffer("table", torch.empty(1000).normal_(), persistent=False)
    assert 0.9 < module.table.std() < 1.1
    assert module.running_var.eq(1).all()
