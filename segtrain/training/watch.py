"""Watch over the files of a run: those that change while it trains are named."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from segtrain.console import Note
from segtrain.data.inspection.scan import map_on_all_cores, mask_facts
from segtrain.data.inspection.survey import Survey
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError, shorten
from segtrain.files.whole import stamp_files

THREADS = 16  # disks of a network answer many at once; others take as long as with one
CHUNK = 500  # files that a thread looks at in turn
MISSING = -1


class FileWatch:
    """The files of train and val, with the stamps and masks that the survey found.

    Images are compared by size and time of the content. Masks are read again where one of these
    or the time of the status differs, and compared by their values: touched or linked, they are the
    same.
    """

    def __init__(self, survey: Survey):
        facts = [fact for of_split in survey.facts.values() for fact in of_split]
        self.masks = [(fact.sample, fact.mask.checksum) for fact in facts]
        self.palette, self.options = survey.source.merged.palette, survey.source.mask_options
        self.may_miss = survey.config.on_error == "skip"  # the loaders count those
        stamps = {
            file: stamp[:3]
            for fact in facts
            for file, stamp in zip(
                (fact.sample.image, *fact.sample.mask_files), fact.stamps, strict=True
            )
        }
        self.files = list(stamps)
        self.stamps = np.array([*stamps.values()], np.int64).reshape(-1, 3)

    def find_changes(self) -> tuple[str, list[Note]]:
        """Return the files that have changed since the last call, in words or '', and notes.

        The notes are on images that may have changed, or only have other links or permissions.
        """
        now = self._read_stamps()
        differs = (now != self.stamps).any(1)
        rewritten = (now[:, :2] != self.stamps[:, :2]).any(1)
        gone = (now[:, 0] == MISSING) & differs
        rows = {self.files[row]: row for row in np.flatnonzero(differs).tolist()}
        pairs = [pair for pair in self.masks if not rows.keys().isdisjoint(pair[0].mask_files)]
        held = {file for sample, _ in pairs if sample.mask_in_memory for file in sample.mask_files}
        same = map_on_all_cores(self._is_same, pairs, "comparing masks") if pairs else []
        of_masks: dict[Path, bool] = {}  # of each file of a mask: whether its values are the same
        for (sample, _), is_same in zip(pairs, same, strict=True):
            files = [file for file in sample.mask_files if file != sample.image]
            of_masks |= {file: is_same and of_masks.get(file, True) for file in files}
        changed, linked, unread = [], [], []
        for file, row in rows.items():
            if gone[row] and self.may_miss:
                continue
            if file in held and file in of_masks:
                unread += [file] if rewritten[row] else []
                continue
            if not of_masks[file] if file in of_masks else rewritten[row]:
                changed.append(f"{file} (gone)" if gone[row] else str(file))
            elif file not in of_masks:
                linked.append(file)
        self.stamps = now
        kinds = {
            "with another time of status: linked, or replaced under the same size and time": linked,
            "changed, whose masks stay as they were when the run started": unread,
        }
        notes = [
            Note(f"{_count(files)} {text}: {shorten(files)}", "note")
            for text, files in kinds.items()
            if files
        ]
        return (
            f"{_count(changed)} changed under the run: {shorten(changed)}" if changed else "",
            notes,
        )

    def _is_same(self, mask: tuple[Sample, int]) -> bool:
        sample, checksum = mask
        try:
            return (
                mask_facts(sample.mask_source, None, self.palette, self.options).checksum
                == checksum
            )
        except SegtrainError:
            return False

    def _read_stamps(self) -> np.ndarray:
        chunks = [self.files[start : start + CHUNK] for start in range(0, len(self.files), CHUNK)]
        with ThreadPoolExecutor(THREADS) as pool:
            return np.concatenate([np.empty((0, 3), np.int64), *pool.map(read_stamps, chunks)])


def read_stamps(files: Sequence[Path]) -> np.ndarray:
    """Return size and both times of each file, MISSING where there is none: int64 (n,3)."""
    stamps = [stamp_files(file) for file in files]
    rows = [stamp[0][:3] if stamp else (MISSING,) * 3 for stamp in stamps]
    return np.array(rows, np.int64).reshape(-1, 3)


def _count(files: Sequence[object]) -> str:
    return f"{len(files)} file{'s' * (len(files) != 1)}"
