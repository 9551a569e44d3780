"""The tiny run that the tests of this folder interrupt, and the result that it must still have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from same_run import assert_same_run

from faults.zygote import Child, Event, Zygote

SECONDS = 60  # within which a child must end
STATE = "last.state.pt"
# a network with dropout, of half a million weights; epochs of 3 steps, saved after each 2
FIT = (
    "fit --arch fpn --encoder tu-test_resnet --weights none --device cpu --workers 0"
    " --crop 32x32 --batch-size 2 --epochs 3"
).split()
for setting in (
    "model.options={decoder_pyramid_channels: 16, decoder_segmentation_channels: 64}",
    "loss.expression=ohem+0.5*dice",
    "train.checkpoint_every=2",
    "train.ema=0.9",
    "train.log_every=1",
    "train.keep=1",
):
    FIT += ["--set", setting]
NAME = "tiny"
# the trials of its network, in the process that forks the others
TRY_NETWORK = """
from pathlib import Path
import torch
from segtrain.config.loading import load_config
from segtrain.training.plan import make_model, refuse_sizes
config = load_config(Path({config!r}))
refuse_sizes(config, (32, 32), [(48, 40)], num_classes=3)
with torch.random.fork_rng():
    make_model(config, num_classes=3)
"""


@dataclass
class Straight:
    """The uninterrupted run."""

    data: Path
    run: Path
    seconds: float  # its duration
    events: list[Event]

    def fit(self, zygote: Zygote, cwd: Path, *more: object, **how) -> Child:
        """Start the same run in the folder cwd."""
        argv = [*FIT, "--data", self.data, "--name", NAME, *more]
        return zygote.start(*argv, cwd=cwd, env=caches(cwd), **how)

    def resume(self, zygote: Zygote, cwd: Path, *more: object, **how) -> Child:
        """Start `fit --resume`, or the same run where it has no folder yet."""
        if not run_in(cwd).exists():
            return self.fit(zygote, cwd, *more, **how)
        return zygote.start("fit", "--resume", NAME, *more, cwd=cwd, env=caches(cwd), **how)

    def finish(self, zygote: Zygote, cwd: Path, *more: object) -> None:
        """Resume, and assert that the result is the same, bit for bit."""
        child = self.resume(zygote, cwd, *more)
        assert child.wait(SECONDS) == 0, child.stderr
        self.assert_same(run_in(cwd))

    def assert_same(self, run: Path) -> None:
        assert_same_run(self.run, run)


def caches(cwd: Path) -> dict[str, str]:
    return {"SEGTRAIN_CACHE": str(cwd / "cache")}


def run_in(cwd: Path) -> Path:
    return cwd / "runs" / NAME
