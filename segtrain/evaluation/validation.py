"""Validation between epochs: scores of a split, shared out over the ranks."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from segtrain.config import EvalConfig
from segtrain.data.loading.dataset import Pairs
from segtrain.distributed.collectives import max_over_ranks
from segtrain.distributed.devices import predictor
from segtrain.distributed.launch import RankMonitor
from segtrain.distributed.signals import StopRequest
from segtrain.evaluation.prediction import predict_split
from segtrain.metrics.confusion import Confusion, Scores, score
from segtrain.models.segmentation import SegmentationModel


def validate(
    model: SegmentationModel,
    pairs: Pairs,
    names: list[str],
    fabric: Fabric,
    workers: int,
    settings: EvalConfig,
    stop_request: StopRequest,
    rank_monitor: RankMonitor,
) -> Scores | None:
    """Scores over all pairs, each counted once whatever the number of processes.

    None on all ranks where one left early because somebody wishes to stop.
    """
    confusion = Confusion(len(names), pairs.masks.lb_ignore, fabric.device)
    mine = range(fabric.global_rank, len(pairs), fabric.world_size)
    plainly = settings.model_copy(update={"tta": []})
    predict = predictor(model.eval(), fabric)
    for predicted in predict_split(predict, pairs, mine, fabric, workers, plainly):
        rank_monitor.check()
        if stop_request.signum:
            break
        confusion.update(predicted.prediction, predicted.target)
    left = torch.tensor(stop_request.signum, device=fabric.device)
    if max_over_ranks(left):
        return None
    matrix = fabric.all_reduce(confusion.matrix, reduce_op="sum")
    assert isinstance(matrix, torch.Tensor)  # as what was given; it takes collections, too
    return score(matrix, names)
