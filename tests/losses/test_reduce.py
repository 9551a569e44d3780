"""Processes with unequal shards have the loss and the gradient of one with the whole batch."""

import multiprocessing
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from segtrain.errors import UsageError
from segtrain.losses import build_loss

IMAGES = 6
# first and last image of each rank's shard; image 0 has few valid pixels or none
SHARDS = {2: [(0, 1), (1, 6)], 4: [(0, 1), (1, 2), (2, 4), (4, 6)]}
# name: expression, what the truth's channel has on top of noise, ignored share of image 0
CASES = {
    "ce": ("ce", 0.5, 0.6),
    "ce, weights": ("ce(weight=[0.5, 1, 3], label_smoothing=0.1)", 0.5, 0.6),
    "ohem, hard pixels": ("ohem", 0.5, 0.6),
    "ohem, too few hard pixels": ("ohem", 6.0, 0.6),
    "ohem, ties": ("ohem", None, 0.6),
    "ohem, hard pixels on one rank": ("ohem(n_min_factor=4)", 3.0, 0.6),
    "ohem, weights": ("ohem(weight=[0.5, 1, 3])", 3.0, 0.6),
    "topk": ("topk", 0.5, 0.6),
    "topk, ties": ("topk(keep=0.3)", None, 0.6),
    "topk, a count": ("topk(keep=7)", 0.5, 1.0),
    "ohem, per image": ("ohem(n_min_factor=4, per_image=True)", 3.0, 1.0),
    "topk, per image, ties": ("topk(keep=0.3, per_image=True)", None, 0.6),
    "focal": ("focal(alpha=[0.5, 1, 3])", 0.5, 0.6),
    "ghm": ("ghm", 0.5, 0.6),
    "ghm, a rank without valid pixels": ("ghm(bins=4, momentum=0.5)", 0.5, 1.0),
    "poly": ("poly(weight=[0.5, 1, 3])", 0.5, 0.6),
    "border": ("border(sigma=2)", 0.5, 0.6),
    "border, a rank without valid pixels": ("ohem(border(focal), thresh=0.3)", 0.5, 1.0),
    "dice": ("dice", 0.5, 0.6),
    "dice, all": ("dice(classes=all, squared=True)", 0.5, 0.6),
    "dice, foreground": ("dice(background=False)", 0.5, 1.0),
    "dice, micro": ("dice(average=micro, background=False)", 0.5, 0.6),
    "dice, generalised": ("dice(average=generalised)", 0.5, 0.6),
    "dice, per image": ("dice(per_image=True)", 0.5, 0.6),
    "dice, per image and all": ("dice(per_image=True, classes=all)", 0.5, 1.0),
    "dice, per image and generalised": (
        "dice(per_image=True, average=generalised, background=False)", 0.5, 1.0),
    "tversky": ("tversky", 0.5, 0.6),
    "tversky, per image": ("tversky(per_image=True)", 0.5, 1.0),
    "tversky, focal": ("tversky(gamma=1.33)", 0.5, 0.6),
    "jaccard": ("jaccard(smooth=1)", 0.5, 0.6),
    "jaccard, all": ("jaccard(classes=all)", 0.5, 1.0),
    "lovasz": ("lovasz", 0.5, 0.6),
    "lovasz, a rank without valid pixels": ("lovasz(classes=all)", 0.5, 1.0),
    "lovasz, foreground": ("lovasz(background=False)", 0.5, 0.6),
    "cldice": ("cldice", 0.5, 0.6),
    "cldice, a rank without valid pixels": ("cldice(per_image=True, background=True)", 0.5, 1.0),
    "vgg, a rank without valid pixels": ("vgg(layers=[3], weights=none)", 0.5, 1.0),
    "mining of focal": ("ohem(focal(gamma=2))", 0.5, 0.6),
    "mining of ghm": ("topk(ghm, keep=0.5)", 0.5, 0.6),
    "sum": ("ohem+0.5*dice+0.1*lovasz", 0.5, 0.6),
    "sum, a rank without valid pixels": ("ohem+0.5*dice+0.1*lovasz", 0.5, 1.0),
}  # fmt: skip
BATCHWIDE = "lovasz(per_image=False)"
PALETTE = [(0, 0, 0), (200, 30, 90), (10, 250, 128)]


def joined_batch(step: int, boost: float | None, ignored: float, side: tuple) -> tuple:
    """Features (6,3,H,W) and labels (6,H,W); boost None makes all pixels of a class the same."""
    generator = torch.Generator().manual_seed(5 + step)
    target = torch.randint(0, 3, (IMAGES, *side), generator=generator)
    target[1] = 2  # an image of one class
    noise = torch.randn(IMAGES, 3, *side, generator=generator) * (boost is not None)
    features = noise + (boost or 4.0) * torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    target[0][torch.rand(*side, generator=generator) < ignored] = 255
    return features, target


@cache
def values_and_gradients(
    case: str, first: int = 0, last: int = IMAGES, sync: bool = True
) -> list[tuple]:
    """Loss of a network that is one 1x1 convolution, and its gradient, for each of the steps."""
    expression, *rest = CASES[case]
    torch.manual_seed(0)  # of vgg's weights
    loss = build_loss(expression, 3, palette=PALETTE, sync=sync)
    found = []
    for step in range(2 if "ghm" in expression else 1):
        features, target = joined_batch(step, *rest, (32, 32) if "vgg" in expression else (6, 5))
        start = torch.tensor([[1.0, 0.1, 0], [-0.1, 0.9, 0.2], [0, 0.1, 1.1]])
        weights = start.requires_grad_()
        logits = torch.einsum("oc,nchw->nohw", weights, features[first:last])
        value = loss(logits, target[first:last])
        value.backward()
        found.append((value.detach(), weights.grad))
    return found


def one_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, timedelta(minutes=2), world, rank)
    shard = SHARDS[world][rank]
    found = {case: values_and_gradients(case, *shard) for case in CASES}
    own = {case: values_and_gradients(case, *shard, sync=False) for case in CASES}
    try:
        build_loss(BATCHWIDE, 3)(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
        refused = ""
    except UsageError as refusal:
        refused = str(refusal)
    torch.save((found, own, refused), f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=SHARDS)
def ranks(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple], list[tuple]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    world = request.param
    multiprocessing.set_forkserver_preload(["segtrain.losses.build", "pytest"])  # imported once
    mp.start_processes(one_rank, (world, str(folder)), nprocs=world, start_method="forkserver")
    return SHARDS[world], [torch.load(folder / str(rank)) for rank in range(world)]


@pytest.mark.parametrize("case", CASES)
def test_processes_equal_one(case, ranks):
    _, found = ranks
    for step, (value, gradient) in enumerate(values_and_gradients(case)):
        of_ranks = [synced[case][step] for synced, _, _ in found]
        for rank_value, _ in of_ranks:
            assert torch.equal(rank_value, of_ranks[0][0])
            torch.testing.assert_close(rank_value, value, rtol=2e-6, atol=1e-7)
        averaged = sum(slopes for _, slopes in of_ranks) / len(of_ranks)  # what DDP does
        torch.testing.assert_close(averaged, gradient, rtol=1e-5, atol=1e-7)
        assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("case", CASES)
def test_without_sync_each_rank_is_alone(case, ranks):
    shards, found = ranks
    for shard, (_, own, _) in zip(shards, found, strict=True):
        for (value, gradient), (expected, slopes) in zip(
            own[case], values_and_gradients(case, *shard), strict=True
        ):
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(gradient, slopes, rtol=1e-5, atol=1e-8)


def test_what_needs_all_pixels_in_one_place_is_refused(ranks):
    for _, _, refused in ranks[1]:
        assert "per_image" in refused
