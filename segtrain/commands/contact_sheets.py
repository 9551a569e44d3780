"""Contact sheets of `check`: masks over images, and augmented pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.config import Config
from segtrain.console import write_notes
from segtrain.data.inspection.survey import Inspection, Survey
from segtrain.data.loading.dataset import Pairs, as_tensor
from segtrain.data.loading.sampling import Draw, patch_draws
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError
from segtrain.render.fonts import explain_missing_fonts
from segtrain.render.overlay import (
    add_legend,
    blend_classes,
    build_colour_table,
    draw_contact_sheet,
    save_image,
    to_image,
    to_rgb,
)
from segtrain.training.plan import make_augmentation, resolve_crop

PICTURES = 12  # on a sheet
PASSES = 3  # pictures of each augmented pair


def write_sheets(
    inspection: Inspection, config: Config, preview: Path | None, augment: Path | None
) -> None:
    """Write a sheet to each file that is given.

    Raises SegtrainError where classes are unclear or no training pair can be read.
    """
    if not isinstance(inspection, Survey) or not inspection.facts["train"]:
        raise SegtrainError(
            "--preview and --augment need readable training pairs and known classes; fix the "
            "errors above first"
        )
    for sheet, file in ((preview_sheet, preview), (augment_sheet, augment)):
        if file:
            save_image(file, sheet(inspection, config))
    write_notes(explain_missing_fonts(inspection.data_set.classes))


def preview_sheet(survey: Survey, config: Config) -> Image.Image:
    """Paint pairs of all splits with their masks in colour, with every class that occurs."""
    data = survey.data_set
    colours, pictures = build_colour_table(data.palette), []
    for split, sample in choose_pairs(survey):
        image = to_rgb(as_tensor(data.images(sample.image, sample.area)).permute(2, 0, 1))
        class_ids = as_tensor(data.masks(sample.mask_source))
        pictures.append(
            (f"{split}: {sample.title}", to_image(blend_classes(image, class_ids, colours, 0.5)))
        )
    return add_legend(draw_contact_sheet(pictures), data.classes, data.palette)


def augment_sheet(survey: Survey, config: Config) -> Image.Image:
    """Paint training pairs as the network would see them, PASSES times each.

    Raises UsageError where augment.copy_paste has nothing to paste.
    """
    data = survey.data_set
    augmentation = make_augmentation(config, resolve_crop(config, survey.median_size))
    patches = patch_draws(data, survey.by_image["train"], config.augment.copy_paste)
    colours, pictures = build_colour_table(data.palette), []
    pairs, train = Pairs.of(data, "train"), data.splits["train"]
    for index in spread_evenly(len(train), PICTURES // PASSES):
        pair = pairs.read(index)
        for pass_ in range(PASSES):
            draw = patches.add_to(Draw(pass_, index), config.train.seed)
            source = pairs.read(draw.patch.image) if draw.patch else None
            image, mask = augmentation(*pair, draw, source)
            painted = blend_classes(
                to_rgb(as_tensor(image).permute(2, 0, 1)), as_tensor(mask), colours, 0.35
            )
            pasted = f" and {data.classes[draw.patch.class_id]}" if draw.patch else ""
            caption = f"{train[index].title}, pass {pass_ + 1}{pasted}"
            pictures.append((caption, to_image(painted)))
    sheet = draw_contact_sheet(pictures, columns=PASSES)
    return add_legend(sheet, data.classes, data.palette)


def choose_pairs(survey: Survey) -> list[tuple[str, Sample]]:
    """Return at most PICTURES (split, pair), so that every class that occurs is shown.

    First come the pairs with most pixels of a class, rarest class first, then evenly spread ones.
    """
    pairs = [(split, f.sample) for split, facts in survey.facts.items() for f in facts]
    matrix = np.concatenate([survey.by_image[split] for split in survey.facts])
    picked: list[int] = []
    for class_id in np.argsort(matrix.sum(0)):
        best = int(matrix[:, class_id].argmax())
        if matrix[best, class_id] and not (matrix[picked, class_id] > 0).any():
            picked.append(best)
    spread = spread_evenly(len(pairs), PICTURES)
    order = list(dict.fromkeys(picked[:PICTURES] + spread))[:PICTURES]
    return [pairs[i] for i in order]


def spread_evenly(count: int, limit: int) -> list[int]:
    """Return at most `limit` indices of 0..count-1, evenly spread."""
    return list(dict.fromkeys(np.linspace(0, count - 1, min(count, limit)).round().astype(int)))
