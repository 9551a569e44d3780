"""Context of a verb's imports, which take most of the time of a short command."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from segtrain.cli.interrupts import Interrupts


@contextmanager
def importing() -> Iterator[None]:
    """Import what a verb needs: Ctrl-C ends the process at once, and no garbage is collected.

    What is imported stays. To visit all of it at each collection, and at the process's end, took
    two of five seconds.
    """
    collecting, imported = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        with Interrupts(raising=False):  # there is nothing to clean up
            yield
    finally:
        if len(sys.modules) > imported:
            gc.freeze()
        if collecting:
            gc.enable()
