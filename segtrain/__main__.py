"""The program: `segtrain`, or `python -m segtrain`."""

import os

from segtrain.cli.interrupts import handle_interrupts

# OpenMP reads it as torch is imported. Threads that spin while they wait for each other take the
# cores from what they wait for, wherever other processes run: see benchmarks/busy.py
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


def main() -> None:
    """Run the command line."""
    handle_interrupts(raising=False)  # before anything else is imported
    for variable, setting in ENVIRONMENT.items():
        os.environ.setdefault(variable, setting)
    from segtrain.cli.app import app

    app(prog_name="segtrain")


if __name__ == "__main__":
    main()
