"""Fabric as a config requests it, and the processes that a launcher started."""

from __future__ import annotations

import pytest

from segtrain.config import TrainConfig
from segtrain.distributed.fabric import check_batch_norm, make_fabric
from segtrain.errors import UsageError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0",
            "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}  # fmt: skip


SRUN = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip


@pytest.mark.parametrize(
    "variables, devices, nodes, parts",
    [
        ({}, 1, 2, ["train.nodes", "torchrun --nnodes=2 --nproc-per-node=1", "--node-rank"]),
        (TORCHRUN, 1, 1, ["torchrun started 4", "--devices 2 --nodes 2"]),
        (TORCHRUN, 4, 1, ["torchrun started 4", "2 on each host", "--devices 2 --nodes 2"]),
        (SRUN, 2, 1, ["srun started 4", "--devices 2 --nodes 2"]),
        (SRUN | {"SLURM_NTASKS_PER_NODE": ""}, 2, 2, ["SLURM", "--ntasks-per-node"]),
    ],
    ids=["no launcher", "torchrun, one", "torchrun, one host", "srun", "srun without a number"],
)
def test_other_processes_than_requested_are_refused(variables, devices, nodes, parts, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError) as refused:
        make_fabric(TrainConfig(device="cpu", devices=devices, nodes=nodes))
    assert [part for part in parts if part not in str(refused.value)] == []


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_the_requested_processes_are_accepted(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    fabric = make_fabric(TrainConfig(device="cpu", devices=2, nodes=2, batch_size=4))
    assert fabric.world_size == 4


def test_a_batch_job_of_one_task_starts_its_own_ranks(monkeypatch):
    """sbatch sets SLURM's variables for a plain command, too."""
    for name, value in (SRUN | {"SLURM_NTASKS": "1"}).items():
        monkeypatch.setenv(name, value)
    fabric = make_fabric(TrainConfig(device="cpu", devices=2))
    assert fabric.world_size == 2
    assert not fabric.strategy.cluster_environment.creates_processes_externally


def test_batch_norm_of_several_cpus_is_noted():
    two = make_fabric(TrainConfig(device="cpu", devices=2))
    (note,) = check_batch_norm(two, TrainConfig(batch_size=8), frozen=False)
    assert note.level == "note" and "the 4 image(s) of each process" in note.text
    assert check_batch_norm(two, TrainConfig(batch_size=8), frozen=True) == []
    one = make_fabric(TrainConfig(device="cpu"))
    assert check_batch_norm(one, TrainConfig(batch_size=8), frozen=False) == []
