"""The version of segtrain, and its name on PyPI."""

DISTRIBUTION = "segtrain-cli"  # `segtrain` is another project on PyPI
__version__ = "0.2.0"
