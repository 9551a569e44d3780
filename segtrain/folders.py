"""Names in a run's folder that several verbs read, and where segtrain keeps what it can remake."""

import os
from pathlib import Path

CONFIG = Path("config.yaml")
ENVIRONMENT = Path("environment.json")


def cache_folder() -> Path:
    """$SEGTRAIN_CACHE, or ~/.cache/segtrain; it may be deleted at any time."""
    return Path(os.environ.get("SEGTRAIN_CACHE") or Path.home() / ".cache" / "segtrain")
