"""`python -m segtrain`."""

from segtrain.cli.app import app

app(prog_name="segtrain")
