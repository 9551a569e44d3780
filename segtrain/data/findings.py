"""What is wrong with a data set, and the line that mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from segtrain.errors import SegtrainError, listing


@dataclass(frozen=True)
class Finding:
    """One kind of fault, with all its places.

    An error would crash training or train on wrong labels; anything else is a note.
    """

    kind: str  # for machines: unpaired, unreadable, size, value, ...
    error: bool
    text: str  # what is wrong, in one clause with the count
    places: list[str] = field(default_factory=list)  # files, with what was found in them
    fix: str = ""  # the config line that mends it, or what to do where no line can

    def __str__(self) -> str:
        where = f": {listing(self.places)}" if self.places else ""
        return f"{self.text}{where}" + (f"; {self.fix}" if self.fix else "")


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raises one SegtrainError with all errors among the findings."""
    errors = [str(finding) for finding in findings if finding.error]
    if errors:
        more = f" ({len(errors)} kinds of fault; 'segtrain check' shows all)"
        raise SegtrainError("; ".join(errors) + (more if len(errors) > 1 else ""))
