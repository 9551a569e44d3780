"""A signal becomes a request to stop; a second one stops at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from segtrain.distributed.signals import SIGNALS, StopRequest


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda s: s.name)
def test_a_signal_becomes_a_request_and_handlers_are_restored(signum, capfd):
    before = signal.getsignal(signum)
    with StopRequest() as stop_request:
        assert stop_request.signum == 0
        os.kill(os.getpid(), signum)
        assert stop_request.signum == signum
    assert signal.getsignal(signum) == before
    assert f"{signum.name}: stopping after this step" in capfd.readouterr().err


def test_a_request_without_announcement_prints_nothing(capfd):
    with StopRequest(announce=False):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert capfd.readouterr().err == ""


SECOND = """
import os, signal, sys
from segtrain.distributed.signals import StopRequest
first, second = int(sys.argv[1]), int(sys.argv[2])
with StopRequest():
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
