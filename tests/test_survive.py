"""What a loop survives, each piece by itself."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from segtrain.distributed.devices import limits_explained
from segtrain.distributed.signals import SIGNALS, StopWish
from segtrain.errors import SegtrainError
from segtrain.training.nonfinite import Verdict, Verdicts
from segtrain.training.step import Statistics


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda s: s.name)
def test_a_signal_becomes_a_wish_and_handlers_come_back(signum, capfd):
    before = signal.getsignal(signum)
    with StopWish() as wish:
        assert wish.signum == 0
        os.kill(os.getpid(), signum)
        assert wish.signum == signum
    assert signal.getsignal(signum) == before
    assert f"{signum.name}: the step ends and is saved" in capfd.readouterr().err


def test_a_quiet_one_says_nothing(capfd):
    with StopWish(loud=False):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert capfd.readouterr().err == ""


SECOND = """
import os, signal, sys
from segtrain.distributed.signals import StopWish
first, second = int(sys.argv[1]), int(sys.argv[2])
with StopWish():
    os.kill(os.getpid(), first)
    print("alive", flush=True)
    os.kill(os.getpid(), second)
    print("still alive", flush=True)
"""


def test_a_second_signal_stops_at_once():
    arguments = [str(int(signal.SIGINT)), str(int(signal.SIGTERM))]
    done = subprocess.run([sys.executable, "-c", SECOND, *arguments], capture_output=True)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == b"alive\n"


def test_verdicts_are_read_at_once_without_a_gpu():
    verdicts = Verdicts(torch.device("cpu"))
    verdicts.note(7, torch.tensor([1.0, 15.0]))
    verdicts.note(8, torch.tensor([0.0, 0.0]))
    assert list(verdicts.read()) == [Verdict(7, True, 15), Verdict(8, False, 0)]
    assert list(verdicts.read()) == []


def test_a_gpus_verdicts_are_read_a_step_later_and_all_once_somebody_wishes_to_stop():
    verdicts = Verdicts(torch.device("cpu"))
    verdicts.on_gpu = True

    def note(step: int, bad: float, signum: float) -> list[Verdict]:
        verdicts.pending.append((step, torch.tensor([bad, signum]), None))
        return list(verdicts.read())

    assert note(1, 0, 0) == []
    assert note(2, 1, 0) == [Verdict(1, False, 0)]
    assert note(3, 0, 15) == [Verdict(2, True, 0)]
    # step 4 was taken before anybody could know
    assert note(4, 1, 15) == [Verdict(3, False, 15), Verdict(4, True, 15)]
    assert note(5, 0, 0) == [] and list(verdicts.read(all_=True)) == [Verdict(5, False, 0)]


def test_a_network_that_cannot_be_compiled_is_one_sentence():
    from torch._dynamo.exc import Unsupported

    with pytest.raises(SegtrainError, match="train.compile: no such op; set it to off"):
        with limits_explained("take less"):
            raise Unsupported("no such op")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).train()


@pytest.mark.parametrize("bad", [True, False])
def test_batch_norm_forgets_a_bad_step_alone(bad: bool):
    module = network()
    statistics = Statistics(module)
    module(torch.randn(2, 3, 8, 8))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    statistics.keep()
    module(torch.full((2, 3, 8, 8), torch.nan if bad else 1.0))
    during = {k: v.clone() for k, v in module.state_dict().items()}
    assert not torch.equal(before["1.running_var"], during["1.running_var"])
    statistics.restore(torch.tensor(bad))
    for name in ("1.running_mean", "1.running_var"):
        expected = before[name] if bad else during[name]
        assert torch.equal(module.state_dict()[name], expected)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_is_one_sentence_with_advice(error):
    with pytest.raises(SegtrainError, match="^out of memory: take less$"):
        with limits_explained("take less"):
            raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), limits_explained("take less"):
        raise RuntimeError("shapes don't match")


def test_a_real_allocation_that_fails_is_known():
    with pytest.raises(SegtrainError, match="out of memory"), limits_explained("take less"):
        torch.empty(2**60, dtype=torch.uint8)


def test_what_has_no_deterministic_way_is_one_sentence():
    said = "put_ does not have a deterministic implementation, but you set 'torch.use_…'. You can"
    with pytest.raises(SegtrainError, match="put_ does not .*; set it to false"):
        with limits_explained("take less"):
            raise RuntimeError(said)
