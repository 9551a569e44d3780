"""The data set that a network is scored on: its training's, or another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from segtrain.config import DataConfig
from segtrain.config.yaml_text import dump_yaml
from segtrain.console import Note
from segtrain.data.data_set import DataSet, DataSource, find_data_source
from segtrain.data.findings import Choice, raise_errors, yaml_line
from segtrain.data.groups import group_images
from segtrain.data.inspection.survey import open_named
from segtrain.data.layouts.locate import locate
from segtrain.data.value_range import match_value_range
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.evaluation.data_section import PAIRS, list_unused, take_fields
from segtrain.evaluation.match_classes import (
    MOST_SHOWN,
    Labels,
    adds_meaning,
    compare_readers,
    list_readers,
    read_alone,
    read_as_trained,
)
from segtrain.models.checkpoint import Meta

PATHS = ("images", "masks", "list", "coco")  # of a split


def open_scored_data(meta: Meta, trained: DataConfig, own: DataConfig, split: str) -> DataSet:
    """Open the data set that a network is to predict, its masks read as the network's classes.

    trained, own: the data section as it was in training and as `reset_files` returns it, both with
    the command's changes. Raises UsageError, SegtrainError where no reading or several will do.
    """
    channels = meta.config.model.in_channels
    if locate(own).config.path == meta.config.data.path:
        if trained.classes != meta.config.data.classes:
            raise UsageError(
                f"data.classes: the network's are {shorten(meta.classes, MOST_SHOWN)}, in this "
                "order; leave data.classes out"
            )
        warnings = _find_trained_images(meta.config.data, trained, channels, split)
        trained = trained.model_copy(update={"classes": meta.classes})
        data = _open_trained(trained, own, channels, split)
        data = replace(data, notes=(*data.notes, *warnings))
        return _match_images(data, trained, own, split, of_training=True)
    source = _find_other_pairs(trained, own, channels, split)
    raise_errors(source.findings)
    found = take_fields(trained, source.config, ("path", *PAIRS, "group_by"))
    found = found.model_copy(update={"classes": meta.classes})
    data = _read_other(source, found, meta.classes, split)
    data = _match_images(data, trained, own, split)
    notes = data.notes
    if unused := list_unused(trained, data.config):
        text = "not used, for these are other files than the training's: "
        notes = (*notes, Note(text + shorten(unused, MOST_SHOWN), "note"))
    return replace(data, classes=meta.classes, palette=meta.palette, notes=notes)


def _match_images(
    data: DataSet, trained: DataConfig, own: DataConfig, split: str, of_training: bool = False
) -> DataSet:
    """Return the data set with the training's value range where it can be that of its images."""
    if own.value_range or of_training and not trained.value_range:
        return data  # the command names one, or the range is that of the type
    reader = replace(data.images, value_range=trained.value_range)
    images = [sample.image for sample in data.split(split)]
    reader, notes = match_value_range(reader, images, of_training)
    config = data.config.model_copy(update={"value_range": reader.value_range})
    return replace(data, images=reader, config=config, notes=(*data.notes, *notes))


def _open_trained(trained: DataConfig, own: DataConfig, channels: int, split: str) -> DataSet:
    """Open the training's data set; its layout's own splits add to those that the config names."""
    source, notes = find_data_source(trained, channels), list[Note]()
    layout = None if split in source.splits else _find_split(trained, own, channels, split)
    if layout:
        added = {k: pairs for k, pairs in layout.splits.items() if k not in source.splits}
        seen = {sample.image for pairs in source.splits.values() for sample in pairs}
        source = replace(source, splits=source.splits | added)
        notes.append(Note(f"{split}: by the data set's own layout, {layout.layout}"))
        if shared := sum(sample.image in seen for sample in added.get(split, ())):
            text = f"{shared} of {len(added[split])} images of {split} are in train or val, too"
            notes.append(Note(text, "warning"))
    data = open_named(source, split)
    return replace(data, notes=(*data.notes, *notes))


def _find_trained_images(
    before: DataConfig, trained: DataConfig, channels: int, split: str
) -> list[Note]:
    """Return a warning where the command's changes put images of the training into a split."""
    if trained == before or split == "train":
        return []
    with suppress(SegtrainError):  # such files are gone, or such a split is found elsewhere
        then, now = (find_data_source(config, channels).splits for config in (before, trained))
        seen = {sample.image for sample in then.get("train", ())}
        if shared := sum(sample.image in seen for sample in now.get(split, ())):
            text = f"the network was trained on {shared} of {len(now[split])} images of {split}"
            return [Note(f"{text}, for the command changes which these are", "warning")]
    return []


def _find_split(
    trained: DataConfig, own: DataConfig, channels: int, split: str
) -> DataSource | None:
    """Find a split that the config doesn't name: named as the others are, or by the layout."""
    attempts = []
    for name, files in trained.splits.items():
        paths = {k: v.replace(name, split) for k, v in files if k in PATHS and v}
        alike = files.model_copy(update=paths)
        if alike != files:
            attempts.append(trained.model_copy(update={"splits": {split: alike}}))
    found = None
    for config in (*attempts, take_fields(trained, own, PAIRS)):
        with suppress(SegtrainError):
            found = find_data_source(config, channels)
            if split in found.splits:
                return found
    return found


def _find_other_pairs(
    trained: DataConfig, own: DataConfig, channels: int, split: str
) -> DataSource:
    """Find pairs by the layout, or by the training's section, which counts if it names splits."""
    found, errors = list[DataSource](), list[SegtrainError]()
    attempts = [own, take_fields(own, trained, PAIRS)]
    for config in attempts[::-1] if trained.splits != own.splits else attempts:
        try:
            found.append(find_data_source(config, channels))
        except SegtrainError as error:
            errors.insert(0 if config is own else 1, error)
    if not found:
        raise errors[0]
    source = min(found, key=lambda source: split not in source.splits)  # the first of equals
    if trained.group_by and own.group_by is None:
        images = [sample.image for pairs in source.splits.values() for sample in pairs]
        with suppress(UsageError):  # names of another kind
            group_images(images, trained.group_by, source.root)
            config = source.config.model_copy(update={"group_by": trained.group_by})
            return find_data_source(config, channels)
    return source


def _read_other(source: DataSource, trained: DataConfig, network: list[str], split: str) -> DataSet:
    """Read masks by themselves, or as in training where that alone gives each value a meaning.

    Raises SegtrainError where neither can be matched to the network's classes, or both can and
    differ. `trained` is the training's section, for these files.
    """
    alone, path = read_alone(source, network, split), source.config.path
    table = bool(source.merged.classes)
    if alone.data and table and not trained.label_map:  # the table has the meaning of each value
        return alone.data
    as_trained = read_as_trained(trained, source.images.channels, split)
    if alone.data and table and not adds_meaning(as_trained, alone.data):
        return alone.data
    if as_trained.data is None:
        if alone.data:
            return alone.data
        also = f"; as in training: {as_trained.problem}" * bool(list_unused(trained, source.config))
        choose = f"; choose {_list_ways(alone.choices, network)}" * bool(alone.choices)
        raise SegtrainError(f"{path}: {alone.problem}{choose}{also}")
    if table and not alone.data:
        labels = {"label_map": trained.label_map} if trained.label_map else {}
        names = dump_yaml(network, default_flow_style=True, width=math.inf).strip()
        sets = f"--set 'data.classes={names}' {_as_sets(labels)}".strip()
        raise SegtrainError(f"{path}: {alone.problem}; to read them as in training: {sets}")
    masks = as_trained.data.masks
    readers = [alone.data.masks] if alone.data else list_readers(source, alone.choices, network)
    differences = [compare_readers(as_trained.facts, reader, masks) for reader in readers]
    if alone.data and not table and not any(differences[0]):
        return alone.data
    coloured = any(fact.mask.colours for fact in as_trained.facts)
    if readers and not coloured and all(map(any, differences)):
        ways = [_describe(labels, source, network) for labels, _ in differences]
        raise SegtrainError(
            f"{path}: {alone.problem or 'the masks can be read in two ways'}; choose "
            f"{', or '.join(ways)}; or, as in training, "
            + _describe(differences[0][1], source, network)
        )
    used = list_unused(trained, source.config)
    by = f"data section, {shorten(used, MOST_SHOWN)}" if used else "class ids"
    problem = alone.problem or "values without a meaning"
    text = f"masks are read by the training's {by}; by themselves: {problem}"
    return replace(as_trained.data, notes=(*as_trained.data.notes, Note(text, "note")))


def _list_ways(choices: Iterable[Choice], network: list[str]) -> str:
    """Return the options for the ways to read masks; the order of colours only the user knows."""
    ways = []
    for choice in choices:
        if "palette" in choice.fix:
            colours = shorten((tuple(colour) for colour in choice.fix["palette"]), MOST_SHOWN)
            names = shorten(network, MOST_SHOWN)
            return f"--set data.palette=..., the colours {colours} in the order of {names}"
        meaning = f" ({choice.meaning})" if choice.meaning else ""
        ways.append(_as_sets(choice.fix) + meaning)
    return ", or ".join(ways)


def _describe(labels: Labels, source: DataSource, network: list[str]) -> str:
    """Return labels of mask values in words, and the option that sets them."""
    texts = (
        f"{value} is {'ignored' if label == 'ignore' else network[int(label)]}"
        for value, label in labels.items()
    )
    fields = {"label_map": source.config.label_map | labels}
    return f"{_as_sets(fields)} ({shorten(texts, MOST_SHOWN)})"


def _as_sets(fields: dict[str, Any]) -> str:
    """Return options that set fields of the data section; the classes are the network's."""
    given = (f"--set 'data.{k}={yaml_line(v)}'" for k, v in fields.items() if k != "classes")
    return " ".join(given)
