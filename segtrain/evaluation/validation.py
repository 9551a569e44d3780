"""Validation between epochs: scores of a split, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from segtrain.data.loading.dataset import Pairs
from segtrain.distributed.collectives import max_over_ranks
from segtrain.errors import SegtrainError
from segtrain.evaluation.prediction import SplitPredictor
from segtrain.metrics.confusion import Confusion, Scores, score_matrix


def validate(
    predictor: SplitPredictor, pairs: Pairs, names: list[str], should_stop: Callable[[], bool]
) -> Scores | None:
    """Return scores over all pairs, each counted once whatever the number of processes.

    Test-time augmentation is left to `segtrain eval`. `should_stop` is asked for each image;
    where it is True on any rank, the result is None on all. Where a rank has an error, it is raised
    there, once all others know of it: for them the result is None.
    """
    error: SegtrainError | None = None
    fabric = predictor.fabric
    confusion = Confusion(len(names), pairs.masks.lb_ignore, fabric.device)
    own_pairs = range(fabric.global_rank, len(pairs), fabric.world_size)
    without_tta = replace(predictor, settings=predictor.settings.model_copy(update={"tta": []}))
    try:
        for prediction in without_tta.predict(pairs, own_pairs):
            if should_stop():
                break
            confusion.update(prediction.class_ids, prediction.target)
    except SegtrainError as caught:
        error = caught
    stop = torch.tensor(int(error is not None or should_stop()), device=fabric.device)
    if max_over_ranks(stop):
        if error:
            raise error
        return None
    # whole numbers, so the sum over ranks is exact
    matrix = fabric.all_reduce(confusion.matrix, reduce_op="sum")
    assert isinstance(matrix, torch.Tensor)  # Fabric also reduces collections of tensors
    return score_matrix(matrix, names)
