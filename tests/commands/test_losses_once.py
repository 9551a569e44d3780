"""Counts in a fit, from outside: its loss is parsed, built and searched once."""

import ast
import os
from collections import Counter
from pathlib import Path

import pytest
from conftest import QUICK

from segtrain.losses import build, ohem
from segtrain.losses.spec import parse_loss


@pytest.fixture
def counts(monkeypatch) -> Counter:
    """Count calls from now on, by the work that a run should do once."""
    parse_loss.cache_clear()
    counts: Counter[str] = Counter()

    def count(owner: object, function: str, name: str, counted=lambda *args, **kwargs: True):
        whole = getattr(owner, function)

        def counting(*args, **kwargs):
            counts[name] += counted(*args, **kwargs)
            return whole(*args, **kwargs)

        monkeypatch.setattr(owner, function, counting)

    count(ast, "parse", "parses", lambda text, *_, **__: str(text).startswith(("ohem", "topk")))
    count(build.Loss, "__init__", "modules built")
    count(ohem, "select_hardest", "selections")
    # every choice of a path asks whether the kernels are switched off
    count(os.environ, "get", "choices of a path", lambda key, *_: key == "SEGTRAIN_KERNELS")
    return counts


@pytest.mark.parametrize("loss", ["ohem", "topk(weight=median-frequency)+0.5*dice"])
def test_three_observed_steps_parse_build_and_choose_once(cli, pairs: Path, counts, loss):
    options = ["--loss", loss, "--set", "train.steps_per_epoch=3", "--set", "train.log_every=1"]
    once = {
        "parses": 1,
        "modules built": 1,
        "selections": 3,
        "choices of a path": 1,
    }
    fitted = cli("fit", "--data", pairs, *QUICK, *options, "--epochs", "1", "--name", "r")
    assert fitted.code == 0, fitted.stderr
    assert counts == once
    counts.clear()
    parse_loss.cache_clear()
    resumed = cli("fit", "--resume", "runs/r", "--epochs", "2")
    assert resumed.code == 0, resumed.stderr
    assert counts == once
