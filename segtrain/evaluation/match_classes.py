"""Masks read as a network's classes: by themselves, by name or by id, or as in training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from segtrain.config import DataConfig
from segtrain.config.types import Colour
from segtrain.console import Note
from segtrain.data.data_set import DataSet, DataSource, find_data_source
from segtrain.data.findings import Choice, yaml_line
from segtrain.data.inspection.scan import PairFacts
from segtrain.data.inspection.survey import open_named, read_classes
from segtrain.data.masks import UNKNOWN, MaskReader, NetworkIds, decode_colour
from segtrain.errors import SegtrainError, UsageError, match_choice, shorten

MOST_SHOWN = 8  # names or values in one line
NUMBERED = re.compile(r"(?i)(?:class|label|category|id)?[-_ ]?0*(\d+)")
Labels = dict[int, int | str]  # of mask values: class ids, or ignore


@dataclass(frozen=True)
class Reading:
    """Masks read as a network's classes, or the problem that stands in the way."""

    data: DataSet | None = None
    problem: str = ""
    choices: tuple[Choice, ...] = ()  # further ways to read them
    facts: tuple[PairFacts, ...] = ()


def read_alone(source: DataSource, network: list[str], split: str) -> Reading:
    """Read masks as `segtrain check` does, and match the classes to those of the network."""
    names, facts = source.merged.classes, list[PairFacts]()
    if not names:
        facts, resolved = read_classes(source)
        names = resolved.names
        if not names:
            texts = [finding.text for finding in resolved.findings]
            every = (c for f in resolved.findings for c in (*f.choices, Choice(f.advice, f.fix)))
            choices = tuple(choice for choice in every if choice.fix)
            return Reading(None, "; ".join(texts) or "no mask can be read", choices)
    plain = open_named(source.with_fields({"classes": names}), split)
    used = {*plain.masks.labels.tolist(), plain.masks.other} & set(range(len(names)))
    ids, notes = match_names(names, network, inferred=not source.merged.classes)
    if lacking := sorted(used - ids.keys()):
        return Reading(None, _explain_lacking(plain, network, lacking))
    network_ids = NetworkIds(tuple(ids.get(c, -1) for c in range(len(names))), len(network))
    data = source.with_classes(names)
    masks, notes = data.masks.for_network(network_ids), [*data.notes, *notes]
    return Reading(replace(data, masks=masks, notes=tuple(notes)), facts=tuple(facts))


def match_names(
    names: Sequence[str], network: Sequence[str], inferred: bool
) -> tuple[dict[int, int], list[Note]]:
    """Return the network's id of each class that it has, and a note where ids are all there is."""
    unnamed = inferred or _are_numbers(names)
    if unnamed or _are_numbers(network) and len(names) == len(network):
        ids = {i: i for i in range(min(len(names), len(network)))}
        pairs = [f"{names[i]} is {network[i]}" for i in ids if names[i] != network[i]]
        if not pairs or _are_numbers(names) and _are_numbers(network):
            return ids, []
        which = "of the masks" if unnamed else "of the network"
        text = f"classes: the ids {which} have no names, so classes are matched by id: "
        return ids, [Note(text + shorten(pairs, MOST_SHOWN), "note")]
    found = {i: match_choice(name, network) for i, name in enumerate(names)}
    ids = {i: network.index(name) for i, name in found.items() if name is not None}
    return {i: c for i, c in ids.items() if list(ids.values()).count(c) == 1}, []


def _are_numbers(names: Sequence[str]) -> bool:
    matches = [NUMBERED.fullmatch(name) for name in names]
    return [match and int(match[1]) for match in matches] == list(range(len(names)))


def _explain_lacking(data: DataSet, network: Sequence[str], lacking: list[int]) -> str:
    """Return the problem with classes that the network lacks, and the way to ignore them."""
    masks = data.masks
    values = {
        int(v): "ignore" for v, c in zip(masks.known, masks.labels, strict=True) if c in lacking
    }
    names = data.classes
    text = (
        f"its classes are {shorten(names, MOST_SHOWN)}, the network's are "
        f"{shorten(network, MOST_SHOWN)}, which lack {shorten(names[c] for c in lacking)}"
    )
    if len(lacking) < len(names) - 1:
        text += f"; to ignore what is lacking: --set 'data.label_map={yaml_line(values)}'"
    return text


def read_as_trained(config: DataConfig, channels: int, split: str) -> Reading:
    """Read masks by the data section of the training, which has the network's classes.

    A problem where it leaves values without a meaning: an id to which the label map has values is
    no value itself.
    """
    try:
        source = find_data_source(config, channels)
        data = open_named(source, split)
        facts, resolved = read_classes(source)
    except SegtrainError as error:
        return Reading(None, str(error))
    if resolved.findings:
        return Reading(None, resolved.findings[0].text)
    if strange := {value for fact in facts for value in _list_strange(fact, data.masks)}:
        return Reading(None, f"no meaning for {shorten(sorted(strange, key=str), MOST_SHOWN)}")
    return Reading(data, facts=tuple(facts))


def adds_meaning(as_trained: Reading, alone: DataSet) -> bool:
    """Return whether the training's labels name values that a table leaves out, and change none."""
    if as_trained.data is None:
        return False
    strange = any(_list_strange(fact, alone.masks) for fact in as_trained.facts)
    return strange and not any(
        compare_readers(as_trained.facts, alone.masks, as_trained.data.masks)
    )


def _list_strange(fact: PairFacts, masks: MaskReader) -> set[int | Colour]:
    """Return the values and colours of a mask to which no entry of the reader gives a meaning."""
    values = np.array(list(fact.mask.values), np.int64)
    codes = np.array(list(fact.mask.colours), np.int64)
    known = np.isin(values, masks.anchors)
    known |= masks.options.find_nodata(values, fact.mask.nodata)
    indices = masks.palette_indices(codes)
    seen = (indices >= 0) & (masks.ids(indices) != UNKNOWN)
    return {*values[~known].tolist(), *map(decode_colour, codes[~seen].tolist())}


def list_readers(
    source: DataSource, choices: Sequence[Choice], network: list[str]
) -> list[MaskReader]:
    """Return the reader of masks by each of the choices that give values a meaning."""
    readers = []
    for fix in (
        choice.fix for choice in choices if "label_map" in choice.fix or "classes" in choice.fix
    ):
        labels = source.merged.label_map | fix.get("label_map", {})
        names = fix.get("classes") or network
        with suppress(UsageError):
            chosen = source.with_fields(fix | {"label_map": labels, "classes": names})
            readers.append(chosen.with_classes(names).masks)
    return readers


def compare_readers(
    facts: Sequence[PairFacts], first: MaskReader, second: MaskReader
) -> tuple[Labels, Labels]:
    """Return the labels of the mask values that two readers read differently, by each of them."""
    labels: tuple[Labels, Labels] = {}, {}
    held = {value: fact.mask.nodata for fact in facts for value in fact.mask.values}
    for value, tag in sorted(held.items(), key=lambda item: item[0]):
        ids = [int(reader.ids(np.array([value]), tag)[0]) for reader in (first, second)]
        both = [c if c in range(first.network.count) else "ignore" for c in ids]
        if both[0] != both[1]:
            labels[0][value], labels[1][value] = both
    return labels
