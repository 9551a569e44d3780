"""Devices as asked for, what a launcher started, and what a device cannot do."""

from __future__ import annotations

import os

import pytest
import torch

from segtrain.config import TrainConfig
from segtrain.distributed import devices
from segtrain.distributed.devices import limits_explained
from segtrain.errors import SegtrainError, UsageError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0",
            "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}  # fmt: skip


SRUN = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip


@pytest.mark.parametrize(
    "variables, asked, said",
    [
        ({}, (1, 2), ["train.nodes", "torchrun --nnodes=2 --nproc-per-node=1", "--node-rank"]),
        (TORCHRUN, (1, 1), ["torchrun started 4", "--devices 2 --nodes 2"]),
        (TORCHRUN, (4, 1), ["torchrun started 4", "2 on each host", "--devices 2 --nodes 2"]),
        (SRUN, (2, 1), ["srun started 4", "--devices 2 --nodes 2"]),
        (SRUN | {"SLURM_NTASKS_PER_NODE": ""}, (2, 2), ["SLURM", "--ntasks-per-node"]),
    ],
    ids=["nobody", "torchrun, one", "torchrun, one host", "srun", "srun without a number"],
)
def test_what_was_started_must_be_what_was_asked_for(variables, asked, said, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError) as refused:
        devices.make_fabric(TrainConfig(device="cpu", devices=asked[0], nodes=asked[1]))
    assert [words for words in said if words not in str(refused.value)] == []


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_what_was_started_right_is_taken(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    fabric = devices.make_fabric(TrainConfig(device="cpu", devices=2, nodes=2, batch_size=4))
    assert fabric.world_size == 4


def test_a_batch_job_of_one_task_starts_its_own_ranks(monkeypatch):
    """sbatch sets SLURM's variables for a plain command, too."""
    for name, value in (SRUN | {"SLURM_NTASKS": "1"}).items():
        monkeypatch.setenv(name, value)
    fabric = devices.make_fabric(TrainConfig(device="cpu", devices=2))
    assert fabric.world_size == 2
    assert not fabric.strategy.cluster_environment.creates_processes_externally


def test_batch_norm_of_several_cpus_is_said():
    two = devices.make_fabric(TrainConfig(device="cpu", devices=2))
    said = devices.batch_norm_note(two, TrainConfig(batch_size=8), frozen=False)
    assert "over the 4 image(s) of each process" in said
    assert devices.batch_norm_note(two, TrainConfig(batch_size=8), frozen=True) == ""
    one = devices.make_fabric(TrainConfig(device="cpu"))
    assert devices.batch_norm_note(one, TrainConfig(batch_size=8), frozen=False) == ""


def test_determinism_is_not_left_behind():
    devices.set_deterministic(True)
    try:
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    finally:
        devices.set_deterministic(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    assert not torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = False


def test_a_network_that_cannot_be_compiled_is_one_sentence():
    from torch._dynamo.exc import Unsupported

    with pytest.raises(SegtrainError, match="train.compile: no such op; set it to off"):
        with limits_explained("take less"):
            raise Unsupported("no such op")


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
