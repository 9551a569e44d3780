"""The uninterrupted run, and a summary of when the others were killed."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from conftest import write_pairs

from faults.runs import TRY_NETWORK, Straight, run_in
from faults.zygote import Zygote


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Straight:
    home = tmp_path_factory.mktemp("straight")
    data = home / "set"
    write_pairs(data / "train", 6)
    write_pairs(data / "val", 3, first=6)
    straight = Straight(data, run_in(home), 0, [])
    start = time.monotonic()
    child = straight.fit(zygote, home)
    assert child.wait() == 0, child.stderr
    straight.seconds = time.monotonic() - start
    straight.events = child.events()
    zygote.prepare(TRY_NETWORK.format(config=str(straight.run / "config.yaml")))
    return straight


def pytest_terminal_summary(terminalreporter) -> None:
    """Write how many kills fell into each phase."""
    reports = [r for key in ("passed", "failed") for r in terminalreporter.stats.get(key, [])]
    properties = [pair for report in reports for pair in report.user_properties]
    fell = Counter(value for key, value in properties if key == "killed")
    if not fell:
        return
    terminalreporter.section(f"{sum(fell.values())} kills fell")
    for phase, count in fell.most_common():
        terminalreporter.write_line(f"{count:5d}  {phase}")
    left = sum(value for key, value in properties if key == "left")
    terminalreporter.write_line(f"{left} temporary files of killed processes are left")
