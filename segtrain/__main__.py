from segtrain.cli.app import app

app(prog_name="segtrain")
