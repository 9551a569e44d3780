"""Two processes with unequal shards have the loss and the gradient of one with the whole batch."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from segtrain.losses import build_loss

SHARDS = [slice(0, 1), slice(1, 4)]  # one image for rank 0, three for rank 1
# expression, what the truth's channel has on top of noise, ignored share of rank 0's pixels
CASES = {
    "ce": ("ce", 0.5, 0.6),
    "ohem, hard pixels": ("ohem", 0.5, 0.6),
    "ohem, too few hard pixels": ("ohem", 6.0, 0.6),
    "ohem, ties": ("ohem", None, 0.6),
    "ohem, hard pixels on one rank": ("ohem(n_min_factor=4)", 3.0, 0.6),
    "dice": ("dice", 0.5, 0.6),
    "sum": ("ohem+0.5*dice", 0.5, 0.6),
    "sum, a rank without valid pixels": ("ohem+0.5*dice", 0.5, 1.0),
}


def joined_batch(boost: float | None, ignored: float) -> tuple:
    """Features (4,3,6,5) and labels (4,6,5); boost None makes all pixels of a class the same."""
    generator = torch.Generator().manual_seed(5)
    target = torch.randint(0, 3, (4, 6, 5), generator=generator)
    noise = torch.randn(4, 3, 6, 5, generator=generator) * (boost is not None)
    features = noise + (boost or 4.0) * torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    target[0][torch.rand(6, 5, generator=generator) < ignored] = 255
    return features, target


def value_and_gradient(case: str, shard: slice) -> tuple:
    """Loss of a network that is one 1x1 convolution, and the gradient of its weights."""
    expression, *rest = CASES[case]
    features, target = joined_batch(*rest)
    weights = torch.tensor([[1.0, 0.1, 0], [-0.1, 0.9, 0.2], [0, 0.1, 1.1]], requires_grad=True)
    logits = torch.einsum("oc,nchw->nohw", weights, features[shard])
    value = build_loss(expression, 3)(logits, target[shard])
    value.backward()
    return value.detach(), weights.grad


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, timedelta(minutes=2), len(SHARDS), rank)
    torch.save({case: value_and_gradient(case, SHARDS[rank]) for case in CASES}, f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(one_rank, (str(folder),), nprocs=len(SHARDS))
    return [torch.load(folder / str(rank)) for rank in range(len(SHARDS))]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case, ranks):
    value, gradient = value_and_gradient(case, slice(None))
    for rank in ranks:
        torch.testing.assert_close(rank[case][0], value, rtol=2e-6, atol=1e-7)
    averaged = sum(rank[case][1] for rank in ranks) / len(ranks)  # what DDP does
    torch.testing.assert_close(averaged, gradient, rtol=1e-5, atol=1e-7)
    assert gradient.abs().max() > 1e-4
