"""What launchers say is read, or refused by name; one process trains as it would without any."""

from __future__ import annotations

import os

import pytest
import torch

import compressor
from compressor.errors import EnvironmentMismatch
from compressor.machine.launchers import (
    Launch,
    alone,
    asked_precision,
    read_launch,
    require_cpu_as_told,
)

# What launchers set for the second of two processes, and accelerate beside that.
TORCHRUN = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
ACCELERATE = {
    "ACCELERATE_USE_CPU": "True",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
}
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}
BATCH_SCRIPT = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}
SECOND = Launch(1, 2, 1, "10.0.0.1", 29500)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"LOCAL_RANK": "1"}, "started this process as number 1 of several"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun of Open MPI started 4 processes"),
        ({**TORCHRUN, "OMPI_COMM_WORLD_SIZE": "4"}, "mpirun of Open MPI started 4 processes"),
        ({"PMI_SIZE": "4"}, "mpirun of MPICH or Intel MPI started 4 processes"),
        ({"HOROVOD_SIZE": "2"}, "horovodrun started 2 processes"),
        ({"PMIX_RANK": "1"}, "a launcher with PMIx started this process as number 1 of several"),
        ({"PALS_RANKID": "3"}, "mpiexec of HPE Cray started this process as number 3"),
        ({"JSM_NAMESPACE_SIZE": "6", "JSM_NAMESPACE_RANK": "0"}, "jsrun started 6 processes"),
        ({"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "0"}, "flux run started 2 processes"),
        ({**BATCH_SCRIPT, "SLURM_STEP_NUM_TASKS": "8"}, "srun started 8 processes"),
        ({**ACCELERATE, "MASTER_ADDR": "127.0.0.1"}, "was asked for several processes and started"),
        ({**TORCHRUN, "RANK": "2"}, "RANK from 0 to 1"),
        ({**TORCHRUN, "MASTER_PORT": ""}, "MASTER_ADDR and MASTER_PORT, got .* MASTER_PORT="),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "need RANK from 0 to 1, MASTER_ADDR and MASTER_PORT"),
        ({"ACCELERATE_USE_DEEPSPEED": "TRUE"}, "told to train with DeepSpeed"),
        ({**TORCHRUN, "ACCELERATE_USE_DEEPSPEED": "true"}, "told to train with DeepSpeed"),
        ({**TORCHRUN, "ACCELERATE_USE_MEGATRON_LM": "1"}, "told to train with Megatron-LM"),
        ({**TORCHRUN, "ACCELERATE_USE_NEWCOMER": "true"}, "ACCELERATE_USE_NEWCOMER=true"),
        (FSDP, "there is one process, which has nobody to divide a model with"),
        ({**TORCHRUN, **FSDP, "FSDP_VERSION": "1"}, "FSDP, version 1; take version 2"),
        ({**TORCHRUN, **FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "FSDP_OFFLOAD_PARAMS=true is not"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "ACCELERATE_DYNAMO_BACKEND=INDUCTOR is not"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "accumulation_steps in the recipe"),
    ],
)
def test_what_a_run_would_ignore_is_refused_by_name(environment: dict[str, str], told: str):
    with pytest.raises(EnvironmentMismatch, match=told):
        read_launch(environment)


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
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"},
    ],
)
def test_a_launcher_of_one_process_is_as_good_as_none(environment: dict[str, str]):
    assert read_launch(environment) == Launch()


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        (TORCHRUN, SECOND),
        ({**TORCHRUN, **ACCELERATE}, SECOND),
        ({**TORCHRUN, **BATCH_SCRIPT, "SLURM_STEP_NUM_TASKS": "2"}, SECOND),  # one on each host
        ({**TORCHRUN, **FSDP}, Launch(1, 2, 1, "10.0.0.1", 29500, True, True)),
        (
            {**TORCHRUN, **FSDP, "FSDP_RESHARD_AFTER_FORWARD": "false"},
            Launch(1, 2, 1, "10.0.0.1", 29500, True, False),
        ),
    ],
)
def test_torchrun_and_accelerate_say_which_of_how_many_processes_this_is(
    environment: dict[str, str], launch: Launch
):
    assert read_launch(environment) == launch


def test_processes_that_python_code_joined_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(EnvironmentMismatch, match=r"torch\.distributed .* with 2 processes"):
        read_launch({})


def test_a_run_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(EnvironmentMismatch, match="started 2 processes"):
        compressor.run(None)  # type: ignore[arg-type]


def test_the_precision_that_accelerate_was_told_has_the_name_of_the_recipe():
    assert asked_precision({"ACCELERATE_MIXED_PRECISION": "bf16"}) == "bfloat16"
    assert asked_precision({"ACCELERATE_MIXED_PRECISION": "no"}) is None
    assert asked_precision({}) is None
    with pytest.raises(EnvironmentMismatch, match="ACCELERATE_MIXED_PRECISION=fp8"):
        asked_precision({"ACCELERATE_MIXED_PRECISION": "fp8"})


def test_a_run_on_another_device_than_accelerate_was_told_is_refused():
    require_cpu_as_told("cpu", ACCELERATE)
    require_cpu_as_told("cuda", {"ACCELERATE_USE_CPU": "False"})
    with pytest.raises(EnvironmentMismatch, match="add --device cpu"):
        require_cpu_as_told("cuda", ACCELERATE)


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
