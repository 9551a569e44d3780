"""Errors that the user sees in one line, without a traceback."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pickle import UnpicklingError

# what torch.load raises for a file that is none of its own
UNREADABLE = (
    RuntimeError,
    UnpicklingError,
    EOFError,
    OSError,
    IndexError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
)


class SegtrainError(Exception):
    """Something in the user's input: what was given, what is allowed, what to do."""

    exit_code = 1  # found while running: inside the data or a checkpoint


class UsageError(SegtrainError):
    """A wrong command line or config; a path that does not exist is one."""

    exit_code = 2


class Stopped(SegtrainError):
    """Ended on a signal's wish, in good order; the exit code is the shells' 128 + signal."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum


def did_you_mean(given: str, known: Iterable[str], most: int = 3) -> str:
    """'; did you mean a, b?' for the known names closest to the given one, else ''."""
    near = get_close_matches(given, list(known), n=most, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else ""


def first_line(error: BaseException) -> str:
    """What a library's exception says, cut to its first line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shorten(items: Iterable[object], most: int = 3) -> str:
    """The first few items and how many more there are: 'a, b, c (+4 more)'."""
    texts = [str(item) for item in items]
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f" (+{rest} more)" if rest > 0 else "")


@contextmanager
def translate_errors(
    explain: Callable[[Exception], str], kind: type[SegtrainError] = SegtrainError
) -> Iterator[None]:
    """Turn any exception of third-party code in the block into one of ours, worded by `explain`.

    For calls into decoders and constructors, which raise whatever their code meets: no list of
    types is complete. Our own errors pass unchanged.
    """
    try:
        yield
    except SegtrainError:
        raise
    except Exception as error:
        raise kind(explain(error)) from error
