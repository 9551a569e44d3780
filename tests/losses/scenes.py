"""Small batches of many kinds, and the numbers that tests ask of a loss."""

import torch

from segtrain.losses.pixel_pass import PixelReader

# in float32, against double precision
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
CLOSE_GRADIENT = {"rtol": 1e-4, "atol": 1e-6}

# added to the logit of the truth: the probability of the true class follows
KINDS = {"hard": -2.0, "mixed": 0.5, "easy": 5.0, "saturated": 1000.0}


def scene(kind="mixed", seed=0, shape=(2, 5, 4), classes=3, present=None) -> tuple:
    """Return logits (N,C,H,W) and labels (N,H,W); 'tied' repeats three easy pixels."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, present or classes, shape, generator=generator)
    truth = torch.nn.functional.one_hot(target, classes).movedim(-1, 1)
    if kind == "tied":
        boost = 3 + 0.5 * torch.randint(0, 3, shape, generator=generator)
        return truth * boost.unsqueeze(1), target
    logits = torch.randn(shape[0], classes, *shape[1:], generator=generator)
    return logits + KINDS[kind] * truth, target


def ignore_all_but(target: torch.Tensor, n_valid: int, seed: int = 0) -> torch.Tensor:
    order = torch.randperm(target.numel(), generator=torch.Generator().manual_seed(seed))
    return target.flatten().index_fill(0, order[n_valid:], 255).view(target.shape)


def some_ignored(**kwargs) -> tuple:
    logits, target = scene(**kwargs)
    target.view(-1)[::4] = 255
    return logits, target


def pixel_nll(logits, target, lb_ignore: int = 255, **upsampling) -> torch.Tensor:
    return PixelReader(lb_ignore).read(logits, target, **upsampling).nll


def value_and_gradient(loss, logits, target) -> tuple:
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, target)
    value.backward()
    assert value.shape == () and leaf.grad.shape == leaf.shape
    return value.detach(), leaf.grad
