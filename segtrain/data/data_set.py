"""A data set, resolved from its config section: pairs, classes, colours and readers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segtrain.config import DataConfig
from segtrain.config.addresses import is_remote
from segtrain.config.loading import revise_section
from segtrain.config.types import Colour
from segtrain.console import Note
from segtrain.data.findings import Finding
from segtrain.data.images import ImageReader
from segtrain.data.large_images import cut_splits
from segtrain.data.layouts.detect import find_pairs
from segtrain.data.layouts.label_maps import merge_labels
from segtrain.data.layouts.locate import locate
from segtrain.data.layouts.pairing import ClassSource
from segtrain.data.mask_options import MaskOptions
from segtrain.data.masks import MaskReader, class_palette
from segtrain.data.sample import Sample
from segtrain.errors import UsageError


@dataclass(frozen=True)
class DataSet:
    """A data set whose pairs, classes and colours are known, with the readers of its files.

    Built once and passed on, to other processes too; nothing else decides how files are read.
    """

    config: DataConfig  # as given, with path and classes filled in
    root: Path
    format: str
    layout: str  # how the pairs were found, in one line
    splits: dict[str, list[Sample]]
    classes: list[str]
    palette: list[Colour]  # one RGB colour for each class
    lb_ignore: int
    images: ImageReader
    masks: MaskReader
    notes: tuple[Note, ...]  # for the user: where the data is, and what overrides its layout

    @property
    def name(self) -> str:
        """`demo`, or the name of the data set's folder."""
        return "demo" if self.config.path == "demo" else self.root.name

    def split(self, name: str) -> list[Sample]:
        """Return the pairs of a split. Raises UsageError where there is none of that name."""
        if name not in self.splits:
            available = ", ".join(self.splits)
            raise UsageError(f"--split {name}: {self.config.path} has {available}; use one of them")
        return self.splits[name]


@dataclass(frozen=True)
class DataSource:
    """A data set before its classes are known: its pairs, and what mask values mean so far."""

    config: DataConfig  # as given, with its path: saved configs must not hold the layout's tables
    merged: DataConfig  # with the layout's classes, palette and label map where it has none
    root: Path
    format: str
    layout: str
    splits: dict[str, list[Sample]]
    images: ImageReader
    location: Note
    findings: list[Finding]  # of files that form no pair
    notes: tuple[Note, ...]  # what the config overrides
    class_source: ClassSource

    @property
    def place(self) -> str:
        """The address of a remote data set, or the folder or list of any other."""
        path = str(self.config.path)
        return path if is_remote(path) else str(self.root)

    @property
    def mask_options(self) -> MaskOptions:
        return MaskOptions.of(self.merged)

    def with_classes(self, names: list[str]) -> DataSet:
        """Return the data set with these classes.

        Raises UsageError where they contradict the config or the label map.
        """
        merged: DataConfig = revise_section(self.merged, {"classes": names}, "data")
        counts = ", ".join(f"{len(samples)} {split}" for split, samples in self.splits.items())
        return DataSet(
            config=self.config.model_copy(update={"classes": names}),
            root=self.root,
            format=self.format,
            layout=self.layout,
            splits=self.splits,
            classes=names,
            palette=class_palette(len(names), merged.palette, merged.label_map),
            lb_ignore=merged.lb_ignore,
            images=self.images,
            masks=MaskReader(
                len(names),
                merged.label_map,
                merged.lb_ignore,
                merged.palette,
                merged.allow_lossy_masks,
                self.mask_options,
            ),
            notes=(self.location, Note(f"pairs: {counts}; {self.layout}"), *self.notes),
        )

    def with_fields(self, fields: dict[str, Any]) -> DataSource:
        """Return the source with other values of config fields, which override the layout's too."""
        config, merged = (revise_section(c, fields, "data") for c in (self.config, self.merged))
        return replace(self, config=config, merged=merged)


def find_data_source(config: DataConfig, channels: int = 3) -> DataSource:
    """Find the pairs of a data section and what its layout says of them; no pixel is read.

    `channels` are the images'. Raises UsageError and SegtrainError where no data set is found.
    """
    location = locate(config)
    found = find_pairs(location.config, location.root)
    splits, in_areas = cut_splits(found.splits, config.windowed)
    merged, notes = merge_labels(location.config, found)
    return DataSource(
        config=location.config,
        merged=merged,
        root=location.root,
        format=found.format,
        layout=found.layout,
        splits=splits,
        images=ImageReader.of(config, channels),
        location=location.note,
        findings=found.findings,
        notes=(*notes, *in_areas),
        class_source=found.class_source,
    )
