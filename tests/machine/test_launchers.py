"""Several processes are refused, and one process trains as it would without a launcher."""

from __future__ import annotations

import os

import pytest
import torch

import compressor
from compressor.errors import EnvironmentMismatch
from compressor.machine.launchers import alone, require_one_process, unread_settings

# What each launcher sets for the second of two processes, or for the only one of two wanted.
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "none"}
ACCELERATE = {
    "ACCELERATE_USE_CPU": "True",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
}
BATCH_SCRIPT = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (TORCHRUN, "torchrun, accelerate or DeepSpeed started 2 processes"),
        ({"LOCAL_RANK": "1"}, "started this process as number 1 of several"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun of Open MPI started 4 processes"),
        ({"PMI_SIZE": "4"}, "mpirun of MPICH or Intel MPI started 4 processes"),
        ({"HOROVOD_SIZE": "2"}, "horovodrun started 2 processes"),
        ({"PMIX_RANK": "1"}, "a launcher with PMIx started this process as number 1 of several"),
        ({"PALS_RANKID": "3"}, "mpiexec of HPE Cray started this process as number 3"),
        ({"JSM_NAMESPACE_SIZE": "6", "JSM_NAMESPACE_RANK": "0"}, "jsrun started 6 processes"),
        ({"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "0"}, "flux run started 2 processes"),
        ({**BATCH_SCRIPT, "SLURM_STEP_NUM_TASKS": "8"}, "srun started 8 processes"),
        ({**ACCELERATE, "MASTER_ADDR": "127.0.0.1"}, "was asked for several processes and started"),
        ({"ACCELERATE_USE_FSDP": "true"}, "told to train with FSDP"),
        ({"ACCELERATE_USE_DEEPSPEED": "TRUE"}, "told to train with DeepSpeed"),
    ],
)
def test_a_launcher_that_would_be_ignored_is_refused_with_the_next_step(
    environment: dict[str, str], told: str
):
    with pytest.raises(EnvironmentMismatch, match=told) as caught:
        require_one_process(environment)
    assert "start compress once, without a launcher" in str(caught.value)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "10.0.0.1"},
        ACCELERATE,
        BATCH_SCRIPT,
        {**BATCH_SCRIPT, "SLURM_STEP_NUM_TASKS": "1"},
        {"MASTER_ADDR": "10.0.0.1"},
        {"WORLD_SIZE": "unknown", "RANK": ""},
        {"ACCELERATE_USE_FSDP": "false"},
    ],
)
def test_a_launcher_of_one_process_may_run(environment: dict[str, str]):
    require_one_process(environment)


def test_processes_that_python_code_joined_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(EnvironmentMismatch, match=r"torch\.distributed .* with 2 processes"):
        require_one_process({})


def test_a_run_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EnvironmentMismatch, match="started 2 processes"):
        compressor.run(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "ACCELERATE_MIXED_PRECISION=bf16 is not read"),
        (
            {
                "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
                "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
            },
            "ACCELERATE_DYNAMO_BACKEND=INDUCTOR and ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 are",
        ),
    ],
)
def test_what_accelerate_was_told_and_is_not_read_is_said(environment: dict[str, str], told: str):
    assert (unread_settings(environment) or "").startswith(told)


def test_nothing_is_said_where_accelerate_was_told_nothing():
    assert unread_settings({**ACCELERATE, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}) is None


def test_the_environment_is_as_it_was_after_a_block_that_hid_parts_of_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("LOCAL_RANK", "0")
    before = dict(os.environ)
    with alone():
        assert before.keys() - os.environ.keys() == {"ACCELERATE_MIXED_PRECISION", "LOCAL_RANK"}
        os.environ["ACCELERATE_USE_FSDP"] = "true"
    assert dict(os.environ) == before
