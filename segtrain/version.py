"""The version, and the name under which pip knows the package; importable by every module."""

DISTRIBUTION = "segtrain-cli"  # `segtrain` is somebody else's on PyPI
__version__ = "0.2.0"
