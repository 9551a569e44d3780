"""The program: `segtrain`, or `python -m segtrain`."""

import os

from segtrain.cli.interrupts import handle_interrupts


def main() -> None:
    """Run the command line."""
    handle_interrupts(raising=False)  # before anything else is imported
    # OpenMP reads it as torch is imported. Threads that spin while they wait for each other take
    # the cores from what they wait for, wherever other processes run: see benchmarks/busy.py
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from segtrain.cli.app import app

    app(prog_name="segtrain")


if __name__ == "__main__":
    main()
