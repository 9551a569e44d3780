"""The one map that every pixel loss weights."""

import torch.nn.functional as F
from torch import Tensor


def pixel_nll(logits_nchw: Tensor, target_nhw: Tensor, lb_ignore: int = 255) -> Tensor:
    """Negative log-likelihood of each pixel's true class: (N,H,W), differentiable.

    -log softmax(logits)[true class], computed in float32 (float64 stays float64).
    Logits (N,C,H,W) with C >= 2, targets (N,H,W) int64 in 0..C-1 or `lb_ignore`.
    Ignored pixels have 0 and a gradient of exactly 0, whatever their logits hold.
    """
    valid, logits = masked_logits(logits_nchw, target_nhw, lb_ignore)
    nll = F.cross_entropy(logits, target_nhw.where(valid, 0), reduction="none")
    return nll.where(valid, 0)


def masked_logits(
    logits_nchw: Tensor, target_nhw: Tensor, lb_ignore: int = 255
) -> tuple[Tensor, Tensor]:
    """Where the target is valid (N,H,W), and the logits in float32 with 0 at ignored pixels.

    The 0 is put in by selection: a product with 0 would pass on a NaN or an infinity.
    """
    valid = target_nhw != lb_ignore
    return valid, full_precision(logits_nchw).where(valid.unsqueeze(1), 0)


def full_precision(logits: Tensor) -> Tensor:
    return logits if logits.element_size() == 8 else logits.float()
