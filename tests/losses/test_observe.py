"""Report of a loss on the steps that it observed."""

import numpy as np
import pytest
import torch

from segtrain.losses import build_loss

NAMES = ["road", "car", "pole"]


def batch(seed: int) -> tuple:
    random = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 2, (2, 6, 5), generator=random)  # no pole
    target.view(-1)[::7] = 255
    return 2 * torch.randn(2, 3, 6, 5, generator=random), target


def kept_pixels(logits, target, thresh: float, factor: int) -> tuple:
    """Return kept and valid pixels of each class, and the threshold probability."""
    probs = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    sure = []  # probability of the truth, class
    for n, y, x in np.ndindex(tuple(target.shape)):
        if (c := int(target[n, y, x])) != 255:
            sure.append((probs[n, c, y, x], c))
    sure.sort()
    count = max(sum(p < thresh for p, _ in sure), len(sure) // factor)
    kept = [sum(c == k for _, c in sure[:count]) for k in range(3)]
    valid = [sum(c == k for _, c in sure) for k in range(3)]
    return np.array(kept), np.array(valid), max(thresh, sure[count - 1][0])


@pytest.mark.parametrize("thresh, factor", [(0.6, 16), (0.001, 4)])
def test_kept_shares_and_threshold_are_those_of_the_observed_steps(thresh, factor):
    loss = build_loss(f"2*ohem(thresh={thresh}, n_min_factor={factor})+dice", 3)
    values, kept, valid, cuts = [], 0, 0, []
    for seed in range(4):
        value = loss(*batch(seed), observe=seed % 2 == 1)
        if seed % 2:
            k, v, cut = kept_pixels(*batch(seed), thresh, factor)
            kept, valid, cuts = kept + k, valid + v, [*cuts, cut]
            values.append(value.item())
    report = loss.report(NAMES)
    assert report["ohem/kept"] == pytest.approx(kept.sum() / valid.sum())
    assert report["ohem/kept/road"] == pytest.approx(kept[0] / valid[0])
    assert report["ohem/kept/car"] == pytest.approx(kept[1] / valid[1])
    assert report["ohem/kept/pole"] is None
    assert report["ohem/threshold"] == pytest.approx(np.mean(cuts), rel=1e-5)
    total = report["ohem/value"] + report["dice/value"]
    assert total == pytest.approx(np.mean(values))
    assert report["ohem/share"] == pytest.approx(report["ohem/value"] / total)
    assert report["ohem/share"] + report["dice/share"] == pytest.approx(1)
    assert loss.observed == []


def test_chosen_by_image_the_report_is_that_of_the_images():
    logits, target = batch(0)
    target[1, 2:] = 255
    logits, target = torch.cat([logits, logits]), torch.cat([target, torch.full_like(target, 255)])
    whole, one = (build_loss("topk(per_image=True)", 3) for _ in range(2))
    whole(logits, target, observe=True)
    kept, valid, cuts = 0, 0, []
    for image in range(2):
        one(logits[image : image + 1], target[image : image + 1], observe=True)
        n_valid = target[image].ne(255).sum().item()
        report = one.report(NAMES)
        kept, valid = kept + report["topk/kept"] * n_valid, valid + n_valid
        cuts.append(report["topk/threshold"])
    report = whole.report(NAMES)
    assert report["topk/kept"] == pytest.approx(kept / valid)
    assert cuts[0] != cuts[1] and report["topk/threshold"] == pytest.approx(np.mean(cuts))


def test_observing_changes_neither_value_nor_state():
    plain, observed = build_loss("ohem(ghm)+ghm", 3), build_loss("ohem(ghm)+ghm", 3)
    for seed in range(3):
        assert torch.equal(plain(*batch(seed)), observed(*batch(seed), observe=True))
    for one, other in zip(plain.buffers(), observed.buffers(), strict=True):
        assert torch.equal(one, other)
    report = observed.report(NAMES)
    assert {"ohem/bin/0", "ohem/kept", "ghm/bin/9"} <= report.keys()
    counts = [report[f"ghm/bin/{b}"] for b in range(10)]
    assert sum(counts) == pytest.approx(batch(0)[1].ne(255).sum().item())


def test_nothing_valid_reports_nothing_false():
    logits, target = batch(0)
    loss = build_loss("ohem+dice", 3)
    loss(logits, torch.full_like(target, 255), observe=True)
    report = loss.report(NAMES)
    assert report["ohem/kept"] is None and report["ohem/share"] is None
    assert report["ohem/value"] == 0
