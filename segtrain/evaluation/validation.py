"""Validation between epochs: scores of a split, shared out over the ranks."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from segtrain.config import Eval
from segtrain.data.loading.dataset import Pairs
from segtrain.distributed.devices import max_over_ranks, predictor
from segtrain.distributed.launch import Watch
from segtrain.distributed.signals import StopWish
from segtrain.evaluation.prediction import predict_split
from segtrain.metrics.confusion import Confusion, Scores, score
from segtrain.models.segmentation import SegmentationModel


def validate(
    model: SegmentationModel,
    pairs: Pairs,
    names: list[str],
    fabric: Fabric,
    workers: int,
    settings: Eval,
    wish: StopWish,
    watch: Watch,
) -> Scores | None:
    """Scores over all pairs, each counted once whatever the number of processes.

    None on all ranks where one left early because somebody wishes to stop.
    """
    confusion = Confusion(len(names), pairs.masks.lb_ignore, fabric.device)
    mine = range(fabric.global_rank, len(pairs), fabric.world_size)
    plainly = settings.model_copy(update={"tta": []})
    predict = predictor(model.eval(), fabric)
    for predicted in predict_split(predict, pairs, mine, fabric, workers, plainly):
        watch.check()
        if wish.signum:
            break
        confusion.update(predicted.prediction, predicted.target)
    left = torch.tensor(wish.signum, device=fabric.device)
    if max_over_ranks(left):
        return None
    matrix = fabric.all_reduce(confusion.matrix, reduce_op="sum")
    assert isinstance(matrix, torch.Tensor)  # as what was given; it takes collections, too
    return score(matrix, names)
