"""Two hosts, each a network namespace, joined by a cable; torchrun as a user runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import QUICK, write_pairs
from running import Running
from same_run import assert_same_run

from faults.zygote import Zygote

HOSTS = ("10.77.0.1", "10.77.0.2")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """The names of two namespaces; each is also the name of its network interface."""
    if not shutil.which("ip"):
        pytest.skip("needs the ip command of iproute2")
    names = [f"seg{os.getpid()}{end}" for end in "ab"]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"needs the right to make network namespaces: {error.stderr.strip()}")
        for name, address in zip(names, HOSTS, strict=True):
            ip("link", "set", name, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            for device in (name, "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=30)
        subprocess.run(["ip", "link", "del", names[0]], capture_output=True, timeout=30)


def test_two_hosts_make_the_run_of_one(hosts: list[str], zygote: Zygote, tmp_path: Path):
    write_pairs(tmp_path / "set", 10)
    fit = ["fit", "--data", tmp_path / "set", *QUICK, "--batch-size", "4"]
    fit += ["--name", "r"]
    for name in hosts:
        (tmp_path / name).mkdir()
    one = zygote.run(*fit, "--devices", "2", "--out", "one/runs", cwd=tmp_path, devices=2)
    assert one.code == 0, one.stderr
    running = [
        Running(
            tmp_path / host,
            *("-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}"),
            *("--nproc-per-node=1", f"--master-addr={HOSTS[0]}", "--master-port=29500"),
            *("-m", "segtrain", *fit, "--nodes", "2"),
            before=["ip", "netns", "exec", host],
            GLOO_SOCKET_IFNAME=host,
        )
        for rank, host in enumerate(hosts)
    ]
    with running[0] as first, running[1] as second:
        assert first.wait(120) == 0, first.err.read_text()
        assert second.wait(30) == 0, second.err.read_text()
    assert_same_run(tmp_path / "one/runs/r", tmp_path / hosts[0] / "runs/r")
    assert second.out.read_text() == ""  # the first one prints, and has the run's folder
    assert not (tmp_path / hosts[1] / "runs").exists()
