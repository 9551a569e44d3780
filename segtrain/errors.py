"""Errors that the user sees in one line, without a traceback."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

LONGEST = 300  # characters of a library's message
# sentences of torch on a file that it won't read; the reason stands in another one
ADVICE = re.compile(r"(?i)weights_only|safe_globals|trust|will likely succeed|still be loaded")


class SegtrainError(Exception):
    """Wrong input: the message says what was given, what is allowed and what to do."""

    exit_code = 1  # found while running: inside the data or a checkpoint


class UsageError(SegtrainError):
    """A wrong command line or config, such as a path that does not exist."""

    exit_code = 2


class Stopped(SegtrainError):
    """A graceful stop on a signal; the exit code is 128 + signal, as in shells.

    Without a signal it is 1: the stop of a rank for a fault that another one reports.
    """

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum if signum else 1


class TrainingEnded(SegtrainError):
    """A fault that ended a training, whose message says what is saved."""


def match_choice(given: str, known: Iterable[str]) -> str | None:
    """Return the known name that `given` is, or spells alone among them; None where none is.

    Letter case, `-`, `_` and blanks don't count, and `+` reads as `plus`.
    """
    names = dict.fromkeys(known)
    if given in names:
        return given
    spelling = _spelling(given)
    same = [name for name in names if _spelling(name) == spelling]
    return same[0] if len(same) == 1 else None


def did_you_mean(given: str, known: Iterable[str], limit: int = 3) -> str:
    """Return '; did you mean a, b?' with the known names closest to the given one, else ''."""
    by_spelling: dict[str, list[str]] = {}
    for name in known:
        by_spelling.setdefault(_spelling(name), []).append(name)
    near = get_close_matches(_spelling(given), by_spelling, n=limit, cutoff=0.5)
    names = [name for spelling in near for name in by_spelling[spelling]]
    return f"; did you mean {', '.join(names[:limit])}?" if names else ""


def _spelling(name: str) -> str:
    """Return a name as choices compare it."""
    return re.sub(r"[-_\s]", "", name.casefold()).replace("+", "plus")


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type where it has none.

    Of torch's refusal to unpickle a file, the reason alone: its advice is to run the file's code.
    """
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    if isinstance(error, KeyError):  # its message is the key alone
        line = f"KeyError: {line}"
    if "weights_only" in text:
        text = text.replace("Cannot use ``weights_only=True`` with", "torch refuses")
        sentences = [part.strip() for part in re.split(r"\n+|(?<=\.) ", text)]
        reasons = [s for s in sentences if s and not ADVICE.search(s) and "https:" not in s]
        line = reasons[-1].rpartition("WeightsUnpickler error: ")[2] if reasons else "no tensors"
    return cut_middle(line, LONGEST)


def cut_middle(text: str, limit: int, measure: Callable[[str], float] = len) -> str:
    """Return a text that measures at most `limit`: a longer one without its middle."""
    if measure(text) <= limit:
        return text
    head, tail = text[:limit], text[-(limit // 3) :]  # no character measures less than 1
    while tail and measure(tail) > limit / 3:
        tail = tail[1:]
    while head and measure(f"{head}…{tail}") > limit:
        head = head[:-1]
    return f"{head}…{tail}"


def shorten(items: Iterable[object], limit: int = 3, separator: str = ", ") -> str:
    """Return the first few items and the number of the others: 'a, b, c (+4 more)'."""
    texts = [str(item) for item in items]
    rest = len(texts) - limit
    return separator.join(texts[:limit]) + (f" (+{rest} more)" if rest > 0 else "")


@contextmanager
def translate_errors(
    explain: Callable[[Exception], str], kind: type[SegtrainError] = SegtrainError
) -> Iterator[None]:
    """Raise `kind` with the message `explain(exception)` for any exception of third-party code.

    For calls into decoders and constructors, which raise whatever their code meets: no list of
    types is complete. Our own errors pass unchanged.
    """
    try:
        yield
    except SegtrainError:
        raise
    except Exception as error:
        raise kind(explain(error)) from error
