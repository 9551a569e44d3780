"""predictions.json: the record in --out of what predict wrote, of which images and with what."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic_core import from_json

from segtrain.console import Note
from segtrain.data.layouts.pairing import fold_name
from segtrain.errors import SegtrainError, UsageError, first_line, translate_errors
from segtrain.files.locks import lock_path
from segtrain.files.whole import save_json, sync_file

RECORD = "predictions.json"
VERSION = 1
LARGEST = 100_000_000  # bytes of a record; it takes up to 20 times as much memory to read
SAVING_SHARE = 0.02  # of the time may go into saving the record


class RecordError(SegtrainError):
    """The record can't be written, so no output may be."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PredictionSummary:
    """A prediction in numbers."""

    pixels: list[int]  # of each class
    confidence: float  # mean over the pixels, 0..1


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RecordedImage:
    """One image and its outputs. Its paths are compared, and never opened."""

    image: str
    digest: str  # of the image's bytes
    command: str  # a key of `commands`
    # relative to --out: digest; None for one that is yet to be written, or is of another command
    files: dict[str, str | None]
    summary: PredictionSummary | None = None  # once they are written


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RecordContent:
    """Content of predictions.json."""

    version: int
    commands: dict[str, dict[str, Any]]  # weights and settings
    predictions: dict[str, RecordedImage]  # by the name of the output, without _mask.png


class Record:
    """The record of a folder and of one command; a context manager that saves it at the end.

    Several processes may write into one folder: saving keeps the entries of the others.
    """

    def __init__(self, out: Path, command: dict[str, Any]):
        """Raise UsageError where predictions.json is a file of another program's."""
        self.out, self.real_out = out, Path(os.path.realpath(out))
        content, problem = _read_content(out)
        text = f"{out / RECORD}: {problem}; all images are predicted again"
        self.notes = [Note(text, "note")] if problem else []
        text = json.dumps(command, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.command = command
        self.known = content.predictions
        self.owners = {fold_name(name): Path(e.image) for name, e in self.known.items()}
        self.own: dict[str, RecordedImage] = {}  # of this command
        self.paths: dict[str, Path] = {}  # of outputs, by their texts
        self.unsynced: list[Path] = []  # written since the record was saved
        self.next_save = 0.0

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if not self.own:
            return
        for name, entry in self.own.items():  # a file that is not there is nobody's
            there = {
                f: d
                for f, d in entry.files.items()
                if f not in self.paths or os.path.exists(self.paths[f])
            }
            self.own[name] = replace(entry, files=there)
        with suppress(*[RecordError] * bool(kind)):  # another error comes first
            self.save()

    def locate_outputs(self, name: str, parts: list[str], real: bool = False) -> list[Path]:
        """Return the files of an output, such as NAME_mask.png; absolute without links if real."""
        return [(self.real_out if real else self.out) / f"{name}{part}" for part in parts]

    def find_owner(self, name: str) -> Path | None:
        """Return the image whose output has this name, if it still exists."""
        owner = self.owners.get(fold_name(to_text(name)))
        return owner if owner and os.path.isfile(owner) else None

    def is_current(self, name: str, digest: str, files: list[Path]) -> bool:
        """Return whether the files are as this command wrote them for an image of this digest."""
        entry = self.known.get(to_text(name))
        if entry is None or (entry.command, entry.digest) != (self.key, digest):
            return False
        expected = [entry.files.get(self._relative(file)) for file in files]
        return all(expected) and expected == [_hash_output(file) for file in files]

    def summarise(self, name: str) -> PredictionSummary | None:
        """Return the numbers of a prediction that is current; None of one without."""
        entry = self.own.get(to_text(name)) or self.known[to_text(name)]
        return entry.summary

    def plan(self, images: dict[str, Path], list_parts: Callable[[Path], list[str]]) -> None:
        """Record the outputs of images, by the output's name, before they are written.

        Otherwise a process that is killed leaves masks that a later one takes for images.
        """
        for name, image in images.items():
            files = self.locate_outputs(name, list_parts(image))
            unwritten = dict.fromkeys(map(self._relative, files))
            entry = self.known.get(to_text(name)) or RecordedImage("", "", self.key, {})
            self.own[to_text(name)] = replace(
                entry, image=to_text(image), files=unwritten | entry.files
            )
        self.save()

    def add(
        self,
        name: str,
        image: Path,
        digest: str,
        files: list[Path],
        summary: PredictionSummary | None,
    ) -> None:
        """Record the outputs of an image, which were planned and are written now."""
        earlier = dict.fromkeys(self.own[to_text(name)].files)
        written = {self._relative(file): _hash_output(file) for file in files}
        self.own[to_text(name)] = RecordedImage(
            to_text(image), digest, self.key, earlier | written, summary
        )
        self.unsynced += files
        if time.monotonic() > self.next_save:
            self.save()

    def save(self) -> None:
        """Write predictions.json, whole or not at all, once its files are. Raise RecordError."""
        began = time.monotonic()
        try:
            while self.unsynced:
                with suppress(FileNotFoundError):
                    sync_file(self.unsynced.pop())
            self.out.mkdir(parents=True, exist_ok=True)
            with lock_path(self.out, wait=True):
                others, _ = _read_content(self.out)
                entries = others.predictions | self.own
                entries = {name: entry for name, entry in entries.items() if entry.files}
                used = {entry.command for entry in entries.values()}
                commands = others.commands | {self.key: self.command}
                commands = {key: command for key, command in commands.items() if key in used}
                save_json(self.out / RECORD, asdict(RecordContent(VERSION, commands, entries)))
        except SegtrainError as error:
            raise RecordError(str(error)) from error.__cause__
        except OSError as error:
            raise RecordError(f"cannot write {self.out}: {error.strerror}") from error
        now = time.monotonic()
        self.next_save = now + (now - began) / SAVING_SHARE

    def _relative(self, file: Path) -> str:
        text = to_text(file.relative_to(self.out))
        self.paths[text] = file
        return text


class OwnOutputs:
    """The files that a predictions.json lists in the folder of it and below, and itself."""

    def __init__(self) -> None:
        self.list_below = cache(self._list_below)

    def __contains__(self, path: Path) -> bool:
        return any(to_text(path) in self.list_below(folder) for folder in path.parents)

    @staticmethod
    def _list_below(folder: Path) -> set[str]:
        try:
            content, problem = _read_content(folder)
        except UsageError:
            return set()
        files = {file for entry in content.predictions.values() for file in entry.files}
        return {to_text(folder / file) for file in (files | {RECORD} if files else files)}


def _read_content(folder: Path) -> tuple[RecordContent, str]:
    """Return the content of a folder's record, empty with the reason where it can't be read.

    Raise UsageError where the file is none of ours.
    """
    file, empty = folder / RECORD, RecordContent(VERSION, {}, {})
    try:
        if not os.path.isfile(file):
            return empty, ""
        if (size := file.stat().st_size) > LARGEST:
            return empty, f"not a record of predictions that can be read ({size:,} bytes)"
        with translate_errors(first_line):
            content = from_json(file.read_bytes())
            is_ours = isinstance(content, dict) and "version" in content
            if is_ours and content["version"] == VERSION:
                return TypeAdapter(RecordContent).validate_python(content), ""
    except SegtrainError as error:
        return empty, f"not a record of predictions that can be read ({error})"
    except OSError as error:
        return empty, f"can't be read ({error.strerror})"
    if not is_ours:
        raise UsageError(f"{file}: not written by segtrain predict; take another --out")
    return empty, f"a record of another version ({str(content['version'])[:20]})"


def hash_file(path: Path) -> str:
    """Return the digest of a file's bytes. Raise OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _hash_output(path: Path) -> str | None:
    """Return the digest of an output, None where there is no such file, or a link."""
    with suppress(OSError):
        if stat.S_ISREG(path.lstat().st_mode):
            return hash_file(path)
    return None


def to_text(path: Path | str) -> str:
    """Return a path as text for JSON, with escapes for bytes that are not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")
