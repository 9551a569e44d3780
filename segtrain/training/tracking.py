"""Pictures of a validation's worst images for the tracker."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from segtrain.config import TrainConfig
from segtrain.data.loading.dataset import Pairs
from segtrain.evaluation.evaluation import Evaluation
from segtrain.evaluation.pictures import draw_prediction, predict_maps
from segtrain.evaluation.prediction import SplitPredictor
from segtrain.evaluation.validation import UNSCORED
from segtrain.training.session import Session


def count_shown(train: TrainConfig) -> int:
    """Return the number of images of each validation that are tracked."""
    return 0 if train.track == "none" else train.track_images


def show_worst(
    session: Session, predictor: SplitPredictor, pairs: Pairs, mious: Sequence[float]
) -> None:
    """Track image, truth, prediction and errors of the images with the lowest mIoU.

    Each is predicted again: the predictions of all would fill the memory.
    """
    config, data = session.plan.config, session.plan.data
    evaluation = Evaluation(
        folder=session.run,
        config=config,
        data=data,
        split="val",
        classes=data.classes,
        palette=data.palette,
        pairs=pairs,
        predict=partial(predictor.without_tta.predict, pairs),
        device=session.fabric.device,
    )
    scored = [index for index, miou in enumerate(mious) if miou != UNSCORED]
    pictures = []
    for index in sorted(scored, key=lambda index: mious[index])[: count_shown(config.train)]:
        title = f"{pairs.samples[index].title}: mIoU {mious[index]:.3f}"
        maps = predict_maps(evaluation, index)
        pictures.append((title, draw_prediction(maps, evaluation, title)))
    session.tracker.show(session.training.state.step, pictures)
