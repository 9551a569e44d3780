from segtrain.cli import app

app(prog_name="segtrain")
