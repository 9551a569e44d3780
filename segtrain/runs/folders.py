"""Names in a run's folder, and where segtrain keeps what it can remake."""

import os
from pathlib import Path

CONFIG = Path("config.yaml")
ENVIRONMENT = Path("environment.json")
HISTORY = Path("metrics.csv")
BEST = Path("checkpoints/best.safetensors")
LAST = Path("checkpoints/last.safetensors")
STATE = Path("checkpoints/last.state.pt")
BAD_STEPS = Path("bad_steps.csv")
BAD_BATCH = Path("bad_batch.pt")
LATEST = "latest"  # beside the runs: a link to the newest


def cache_folder() -> Path:
    """$SEGTRAIN_CACHE, or ~/.cache/segtrain; it may be deleted at any time."""
    return Path(os.environ.get("SEGTRAIN_CACHE") or Path.home() / ".cache" / "segtrain")
