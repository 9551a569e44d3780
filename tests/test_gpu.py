"""What only a GPU shows; skipped, with the reason, where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import QUICK, write_pairs

from segtrain.losses import build_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "32"])
def test_the_three_commands_on_a_gpu(cli, tmp_path: Path, precision: str):
    write_pairs(tmp_path / "set")
    fitted = cli("fit", "--data", "set", *QUICK, "--device", "cuda", "--precision", precision)
    assert fitted.code == 0, fitted.stderr
    assert cli("eval").code == 0
    assert cli("predict", "set/images").code == 0
    assert len(list(Path("predictions").glob("*_mask.png"))) == 6


@pytest.mark.parametrize("expression", ["ce", "ohem", "dice", "ohem+0.5*dice"])
def test_losses_do_not_synchronise_and_equal_the_cpu(expression: str):
    logits = torch.randn(2, 5, 32, 48, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 5, (2, 32, 48), generator=torch.Generator().manual_seed(1))
    target[:, :4] = 255
    loss = build_loss(expression, 5)
    on_cpu = loss(logits, target)
    loss, logits, target = loss.cuda(), logits.cuda().requires_grad_(), target.cuda()
    loss(logits, target).backward()  # once before: libraries synchronise when they start
    torch.cuda.set_sync_debug_mode("error")
    try:
        value = loss(logits, target)
        value.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert value.item() == pytest.approx(on_cpu.item(), rel=1e-5)
