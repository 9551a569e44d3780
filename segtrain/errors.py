"""Errors that the user sees in one line, without a traceback."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class SegtrainError(Exception):
    """Wrong input: the message says what was given, what is allowed and what to do."""

    exit_code = 1  # found while running: inside the data or a checkpoint


class UsageError(SegtrainError):
    """A wrong command line or config, such as a path that does not exist."""

    exit_code = 2


class Stopped(SegtrainError):
    """A graceful stop on a signal; the exit code is 128 + signal, as in shells."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum


def did_you_mean(given: str, known: Iterable[str], limit: int = 3) -> str:
    """Return '; did you mean a, b?' with the known names closest to the given one, else ''."""
    near = get_close_matches(given, list(known), n=limit, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shorten(items: Iterable[object], limit: int = 3) -> str:
    """Return the first few items and the number of the others: 'a, b, c (+4 more)'."""
    texts = [str(item) for item in items]
    rest = len(texts) - limit
    return ", ".join(texts[:limit]) + (f" (+{rest} more)" if rest > 0 else "")


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
