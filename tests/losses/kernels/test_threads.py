"""Tiles on several threads: the same bits as on one, and torch's settings as they were."""

import pytest
import torch

from segtrain.losses import build_loss
from segtrain.losses.kernels import tiled
from segtrain.losses.kernels.threads import map_on_threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(tiled, "TILE", 600)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("upsample", [1, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_number_of_threads_changes_no_bit(upsample, layout):
    random = torch.Generator().manual_seed(upsample)
    logits = torch.randn(2, 5, 12, 9, generator=random).to(memory_format=layout)
    target = torch.randint(0, 5, (2, 12 * upsample, 9 * upsample), generator=random)
    results = []
    for threads in (1, 2, 2, 3):
        torch.set_num_threads(threads)
        leaf = logits.detach().requires_grad_()
        value = build_loss("ohem+dice", 5)(leaf, target, upsample)
        value.backward()
        results.append((value.detach(), leaf.grad))
        assert torch.get_num_threads() == threads
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0]) and torch.equal(gradient, results[0][1])


def test_modes_reach_the_threads_and_errors_return():
    logits, target = torch.randn(2, 5, 12, 9), torch.zeros(2, 12, 9, dtype=torch.int64)
    expected = build_loss("ohem+dice", 5)(logits, target)
    with torch.inference_mode():
        assert torch.equal(build_loss("ohem+dice", 5)(logits, target), expected)
    assert list(map_on_threads(lambda i: torch.get_num_threads(), [0, 1, 2])) == [1, 1, 1]
    with pytest.raises(ZeroDivisionError):
        list(map_on_threads(lambda i: 1 // i, [1, 0]))
