"""Validation between epochs: scores of a split, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segtrain.data.loading.dataset import Pairs
from segtrain.distributed.collectives import max_over_ranks
from segtrain.errors import SegtrainError
from segtrain.evaluation.prediction import SplitPredictor
from segtrain.metrics.confusion import Confusion, Scores, average_iou, score_matrix

UNSCORED = -1.0  # in place of the mIoU of an image without one


def validate(
    predictor: SplitPredictor,
    pairs: Pairs,
    names: list[str],
    should_stop: Callable[[], bool],
    mious: Tensor | None = None,
) -> Scores | None:
    """Return scores over all pairs, each counted once whatever the number of processes.

    Test-time augmentation is left to `segtrain eval`. `should_stop` is asked for each image;
    where it is True on any rank, the result is None on all. Where a rank has an error, it is raised
    there, once all others know of it: for them the result is None. `mious`, (N,) of UNSCORED on the
    device, gets the mIoU of each image that has one.
    """
    error: SegtrainError | None = None
    fabric = predictor.fabric
    confusion = Confusion(len(names), pairs.masks.lb_ignore, fabric.device)
    own_pairs = range(fabric.global_rank, len(pairs), fabric.world_size)
    try:
        for prediction in predictor.without_tta.predict(pairs, own_pairs):
            if should_stop():
                break
            own = confusion.update(prediction.class_ids, prediction.target)
            if mious is not None:  # the host doesn't wait for it
                mious[prediction.index] = average_iou(own).nan_to_num(UNSCORED)
    except SegtrainError as caught:
        error = caught
    stop = torch.tensor(int(error is not None or should_stop()), device=fabric.device)
    if max_over_ranks(stop):
        if error:
            raise error
        return None
    if mious is not None:
        max_over_ranks(mious)
    # whole numbers, so the sum over ranks is exact
    matrix = fabric.all_reduce(confusion.matrix, reduce_op="sum")
    assert isinstance(matrix, torch.Tensor)  # Fabric also reduces collections of tensors
    return score_matrix(matrix, names)
