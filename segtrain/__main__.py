"""The program: `segtrain`, or `python -m segtrain`."""

import os
import sys

from segtrain.cli.interrupts import handle_interrupts

# OpenMP reads it as torch is imported. Threads that spin while they wait for each other take the
# cores from what they wait for, wherever other processes run; where none do, threads that sleep at
# once wake late. So GCC's spin for a moment, others' not at all: see benchmarks/busy.py
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}
# torch reads it as it is imported: what its MPS device can't compute yet, the CPU does
FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"


def set_environment() -> None:
    """Set ENVIRONMENT, unless the user has set one of its variables; on a Mac FALLBACK, too."""
    if not ENVIRONMENT.keys() & os.environ.keys():
        os.environ.update(ENVIRONMENT)
    if sys.platform == "darwin":
        os.environ.setdefault(FALLBACK, "1")


def main() -> None:
    """Run the command line."""
    handle_interrupts(raising=False)  # before anything else is imported
    set_environment()
    from segtrain.cli.app import app

    app(prog_name="segtrain")


if __name__ == "__main__":
    main()
