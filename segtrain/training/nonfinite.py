"""What a training loop survives: signals, bad steps, too little memory."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segtrain.errors import SegtrainError, first_line

# a terminal's Ctrl-C; an orderly end; SLURM's warning before its time limit
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
NOT_DETERMINISTIC = "does not have a deterministic implementation"
NO_MEMORY = ("can't allocate memory", "not enough memory", "CUDA out of memory", "ALLOC_FAILED")


class StopWish:
    """Notes the first of SIGNALS, so that a step can end and be saved; a second one ends at once.

    A context; its handlers are taken back at its end.
    """

    def __init__(self, loud: bool = True):
        self.loud = loud
        self.signum = 0  # 0: nobody wants to stop

    def __enter__(self) -> StopWish:
        self.before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: object) -> None:
        if self.signum:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.signum = signum
        if self.loud:  # print may be in the midst of its work
            name = signal.Signals(signum).name
            os.write(2, f"\n{name}: the step ends and is saved; once more stops at once\n".encode())


class Verdict(NamedTuple):
    """What all ranks agree on at a step, counted from 1."""

    step: int
    bad: bool  # its loss or gradient was not finite, and it was skipped
    signum: int  # of a wish to stop; 0: none


class Verdicts:
    """Brings verdicts to the host so that a GPU never waits for it: they are read a step later."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def note(self, step: int, verdict: Tensor) -> None:
        """verdict (2,): bad as 0 or 1, and the signal's number."""
        event = None
        if self.on_gpu:
            here = torch.empty(2, pin_memory=True)
            verdict = here.copy_(verdict, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.pending.append((step, verdict, event))

    def read(self, all_: bool = False) -> Iterator[Verdict]:
        """Those not read yet; on a GPU but the latest, unless `all_` are asked for."""
        while len(self.pending) > (self.on_gpu and not all_):
            step, verdict, event = self.pending.popleft()
            if event:
                event.synchronize()
            bad, signum = verdict.tolist()
            all_ = all_ or signum > 0  # the run stops here: nothing may be left unread
            yield Verdict(step, bool(bad), int(signum))


class Statistics:
    """The floating-point buffers of a module, which forward changes: batch norm's statistics.

    `keep` before a step and `restore` after it leave no trace of a bad one, and ask no device.
    """

    def __init__(self, module: nn.Module):
        self.buffers = [b for b in module.buffers() if b.is_floating_point()]
        self.sizes = [b.numel() for b in self.buffers]

    def keep(self) -> None:
        self.kept = torch.cat([b.flatten() for b in self.buffers])

    def restore(self, bad: Tensor) -> None:
        """bad: 0-d, bool."""
        now = torch.cat([b.flatten() for b in self.buffers])
        values = torch.where(bad, self.kept, now).split(self.sizes)
        torch._foreach_copy_(
            self.buffers, [v.view_as(b) for v, b in zip(values, self.buffers, strict=True)]
        )


@contextmanager
def limits_explained(advice: str) -> Iterator[None]:
    """Raises SegtrainError for what a device can't do: more memory (with the advice), or an
    operation of the network that has no deterministic way (train.deterministic)."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if short or any(sign in str(error) for sign in NO_MEMORY):
            raise SegtrainError(f"out of memory: {advice}") from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise SegtrainError(f"train.compile: {first_line(error)}; set it to off") from error
        if NOT_DETERMINISTIC in str(error):
            raise SegtrainError(
                f"train.deterministic: {first_line(error).partition('. ')[0]}; set it to false"
            ) from error
        raise
