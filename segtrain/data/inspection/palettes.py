"""Palettes of a data set's masks: contradictions between them, and colours without data.palette."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from segtrain.data.findings import Choice, Finding
from segtrain.data.inspection.conventions import are_apart
from segtrain.data.inspection.scan import PairFacts
from segtrain.data.masks import Palette, colour_counts, decode_colour
from segtrain.errors import shorten

RARE = 0.01  # largest share of the pixels of an index that dithering may have made
STRAY = 0.001  # largest share of all pixels of a colour that slips of a brush may have made
STRAY_MASKS = 0.2  # largest share of the masks with such a colour
MOST_COLOURS = 64  # more are not classes
CHANNELS = (0xFF0000, 0xFF00, 0xFF)  # of a colour's code
GREY = 0x010101  # code of a grey level's colour, over the level
BY_INDEX = Choice("the indices are ids, their colours are for the eye", {"palette_by": "index"})
LOSSY_COLOURS = "so many come from lossy or smooth masks: save PNG without anti-aliasing"
ANOTHER_ORDER = "as tools leave them that sort or reduce colours"


def check_palettes(
    facts: Iterable[PairFacts], palette: Palette | None, classes: list[str] | None
) -> list[Finding]:
    """Find indexed masks whose indices and colours contradict each other, or data.palette.

    The facts are of masks read by data.palette_by's default.
    """
    facts = list(facts)
    reordered = [fact for fact in facts if fact.mask.reordered]
    if reordered:
        text = f"{len(reordered)} indexed masks have colours of data.palette at other indices"
        places = [f"{fact.sample.mask}: {describe(fact)}" for fact in reordered]
    elif places := find_contradiction(facts):
        text = "indexed masks contradict each other: an index has another colour in each"
    else:
        return []
    text += f", {ANOTHER_ORDER}"
    pixels = count_colours(facts)
    by_colour = choose_colours(pixels, palette, classes)
    merging = any(len(set(own.values())) < len(own) for own in (f.mask.palette for f in facts))
    for_the_eye = palette and not pixels.keys() & set(map(encode_colour, palette)) - {0}
    if not by_colour or merging or for_the_eye:
        advice = "data.palette_by: colour with data.palette in the order of the classes"
        return [Finding("palette", True, text, places, advice, choices=(BY_INDEX,))]
    choices = (Choice("colours are classes", by_colour), BY_INDEX)
    return [Finding("palette", True, text, places, "", choices=choices)]


def find_contradiction(facts: Sequence[PairFacts]) -> list[str]:
    """Return two places where an index has two colours or a colour two indices, else [].

    A file with a colour at several indices can only be meant by index: it contradicts none.
    """
    colour_at: dict[int, tuple[int, PairFacts]] = {}
    index_of: dict[int, tuple[int, PairFacts]] = {}
    for fact in facts:
        own = fact.mask.palette
        if len(set(own.values())) < len(own):
            continue
        for index, code in own.items():
            other_code, other = colour_at.setdefault(index, (code, fact))
            if other_code == code and code not in fact.mask.repeated:
                other_index, other = index_of.setdefault(code, (index, fact))
                if other_index == index:
                    continue
            elif other_code == code:
                continue
            return [f"{each.sample.mask}: {describe(each)}" for each in (other, fact)]
    return []


def describe(fact: PairFacts) -> str:
    """Return the colours of an indexed mask's indices in words."""
    return shorten(f"{index} is {decode_colour(c)}" for index, c in fact.mask.palette.items())


def count_colours(facts: Iterable[PairFacts]) -> Counter[int]:
    """Return the pixels of each colour (code); indexed masks have their own palettes' colours."""
    pixels = Counter[int]()
    for fact in facts:
        pixels.update(fact.mask.colours)
        for value, count in fact.mask.values.items():
            if (code := colour_of(fact, value)) is not None:
                pixels[code] += count
    return pixels


def colour_of(fact: PairFacts, value: int) -> int | None:
    """Return the code of the colour that a value is shown in, None where it has none."""
    if fact.mask.palette:
        return fact.mask.palette.get(value)
    level = 255 * value if fact.mask.bilevel else value
    return GREY * level if 0 <= level <= 255 else None


def choose_colours(
    pixels: Counter[int], palette: Palette | None, classes: list[str] | None
) -> dict[str, Any]:
    """Return the data fields that read masks by colour.

    {} where classes are named but not their colours, and for too many colours.
    """
    known = [encode_colour(colour) for colour in palette or ()]
    # the most frequent first, unless one channel alone has something: these are ids
    by_id = any(all(code & ~channel == 0 for code in pixels) for channel in CHANNELS)
    order = sorted(pixels) if by_id else [code for code, _ in pixels.most_common()]
    codes = [*known, *(code for code in order if code not in known)]
    if (classes and not palette) or len(codes) > max(MOST_COLOURS, len(known)):
        return {}
    fix: dict[str, Any] = {"palette_by": "colour"}
    if len(codes) > len(known):
        fix["palette"] = [list(decode_colour(code)) for code in codes]
    if not classes:
        fix["classes"] = ["colour " + " ".join(map(str, decode_colour(c))) for c in codes]
    return fix


def merge_rare_indices(finding: Finding, facts: Sequence[PairFacts]) -> Finding:
    """Return a finding about indices with a further choice: rare ones come from dithering.

    Each then is of the class of the frequent index with the nearest colour.
    """
    pixels, colours = Counter[int](), dict[int, int]()
    for fact in facts:
        pixels.update(fact.mask.values)
        colours |= fact.mask.palette
    frequent = sorted(v for v, count in pixels.items() if count >= RARE * pixels.total())
    sparse = finding.kind == "classes" and colours.keys() == pixels.keys()
    if not sparse or len(frequent) in (len(pixels), 0, 1):
        return finding
    label_map = {}
    for value in sorted(pixels):
        colour = decode_colour(colours[value])
        others = [decode_colour(colours[other]) for other in frequent]
        distances = [
            sum((i - j) ** 2 for i, j in zip(colour, other, strict=True)) for other in others
        ]
        label_map[value] = distances.index(min(distances))
    fix = {"label_map": {v: i for v, i in label_map.items() if v != i}}
    meaning = f"indices of less than {RARE:.0%} come from dithering: the nearest colour's class"
    merged = Choice(meaning, fix | {"classes": [str(v) for v in frequent]})
    own = (Choice("a class for each", finding.fix),) if finding.fix else finding.choices
    return replace(finding, fix={}, choices=(*own, merged))


def find_colours(facts: Sequence[PairFacts]) -> list[Finding]:
    """Find coloured masks of a data set without a palette: each colour may be a class.

    Grey RGB masks among them are colours, too. Grey and indexed ones hold ids or, after an
    optimiser, colours: those of indexed ones are compared with the others'.
    """
    coloured = [fact for fact in facts if fact.mask.colours]
    rgb = [fact for fact in facts if fact.mask.colours or fact.mask.rgb]
    others = [fact for fact in facts if not (fact.mask.colours or fact.mask.rgb)]
    pixels = count_colours(rgb)
    places = [f"{f.sample.mask}: {shorten(colour_counts(f.mask.colours))}" for f in coloured]
    if objects := _find_object_colours(coloured):
        return [objects]
    text = f"RGB masks of {len(pixels)} colours need data.palette, in the order of class ids"
    stray = _find_stray(facts)
    if len(pixels.keys() - stray) > MOST_COLOURS:
        return [Finding("colour", True, text, places, LOSSY_COLOURS)]
    every = count_colours(facts)
    by_colour = _spare_stray(every, stray, {"palette_by": "colour"})
    by_index = _spare_stray(pixels, stray, {"palette_by": "index"})
    shared = set(pixels) - {0}
    choices = by_colour
    if not others or not by_colour:
        choices = _spare_stray(pixels, stray, {})
    elif not all(shared.intersection(count_colours([fact])) or is_black(fact) for fact in others):
        text += f"; {len(others)} other masks are grey or indexed: {others[0].sample.mask}"
        meanings = "their grey levels and palettes are colours, too", "they hold ids"
        choices = [
            replace(choice, meaning=f"{meaning}; {choice.meaning}" if stray else meaning)
            for meaning, found in zip(meanings, (by_colour, by_index), strict=True)
            for choice in found
        ]
    if len(choices) == 1 and not stray:
        return [Finding("colour", True, text, places, "", choices[0].fix)]
    return [Finding("colour", True, text, places, "", choices=tuple(choices))]


def _find_stray(facts: Sequence[PairFacts]) -> set[int]:
    """Return the colours (codes) of a tiny share of the pixels, in few masks: perhaps slips."""
    pixels = count_colours(facts)
    files = Counter(code for fact in facts for code in count_colours([fact]))
    most_files = max(1, STRAY_MASKS * len(facts))
    stray = {
        code
        for code, count in pixels.items()
        if count < STRAY * pixels.total() and files[code] <= most_files
    }
    return stray if len(pixels) - len(stray) > 1 else set()


def _spare_stray(pixels: Counter[int], stray: set[int], fields: dict[str, Any]) -> list[Choice]:
    """Return the readings of colours as classes: without the stray ones, and all of them."""
    frequent = Counter({code: pixels[code] for code in pixels if code not in stray})
    readings = [("colours of hardly a pixel are no class", frequent)] if stray else []
    readings.append((f"{len(pixels)} classes, one for each colour", pixels))
    choices = []
    for meaning, counts in readings:
        if fix := choose_colours(counts, None, None):
            own = {key: value for key, value in fix.items() if key != "palette_by"} | fields
            ignored = {"other_values": "ignore"} if counts is frequent else {}
            choices.append(Choice(meaning, own | ignored))
    return choices


def _find_object_colours(coloured: Sequence[PairFacts]) -> Finding | None:
    """Find coloured masks that give each object of an image its own colour, not its class's."""
    files = Counter(code for fact in coloured for code in fact.mask.colours)
    common = {code for code, count in files.items() if 2 * count > len(coloured)}
    sets = [fact.mask.colours.keys() - common for fact in coloured]
    each = sum(map(len, sets)) / len(sets)
    if len(sets) < 3 or len(common) > 1 or each > MOST_COLOURS or not are_apart(sets):
        return None
    text = "colours look like those of objects, not of classes: hardly any is in two masks"
    places = [f"{f.sample.mask}: {shorten(colour_counts(f.mask.colours))}" for f in coloured]
    advice = "give masks with a colour for each class, or name the classes' in data.palette"
    fix: dict[str, Any] = {}
    if common:
        others = (code for code in files if code not in common)
        palette = [list(decode_colour(code)) for code in (*common, next(others))]
        fix = {"palette": palette, "classes": ["background", "object"], "other_values": 1}
    choices = (Choice("one class of objects", fix),) if fix else ()
    return Finding("instances", True, text, places, advice, choices=choices)


def is_black(fact: PairFacts) -> bool:
    return set(count_colours([fact])) == {0}


def find_grey_among_colours(facts: Sequence[PairFacts], palette: Palette) -> list[Finding]:
    """Find grey masks among coloured ones whose levels are colours of data.palette at other ids."""
    coloured = [fact for fact in facts if fact.mask.colours]
    if not coloured:
        return []
    known: dict[int | None, int] = {
        encode_colour(colour): index for index, colour in reversed(list(enumerate(palette)))
    }
    grey = [fact for fact in facts if fact.mask.values and not fact.mask.palette]
    odd = [f for f in grey if any(known.get(colour_of(f, v), v) != v for v in f.mask.values)]
    if not odd:
        return []
    text = f"{len(odd)} grey masks among coloured ones have levels that are colours of data.palette"
    text += f"; {len(coloured)} have colours: {coloured[0].sample.mask}"
    places = [f"{f.sample.mask} has value {shorten(sorted(f.mask.values))}" for f in odd]
    by_colour = Choice("their levels are colours, too", {"palette_by": "colour"})
    by_index = Choice("they hold ids", {"palette_by": "index"})
    return [Finding("palette", True, text, places, "", choices=(by_colour, by_index))]


def encode_colour(colour: Sequence[int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]
