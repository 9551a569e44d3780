"""Where segtrain keeps what it can make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$SEGTRAIN_CACHE, or ~/.cache/segtrain; it may be deleted at any time."""
    return Path(os.environ.get("SEGTRAIN_CACHE") or Path.home() / ".cache" / "segtrain")
