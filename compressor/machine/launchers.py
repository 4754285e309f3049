"""Detects launchers of distributed training, which is refused.

Training is not distributed: each of several processes would do all of the work, and into one output
directory they would stop each other. So a launcher that starts several is refused before anything
is read, and what one asks of a single process is left unread while training, see `alone`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from compressor.errors import EnvironmentMismatch

# What each launcher tells a process about the number of all of them. `SLURM_NTASKS` is not here:
# a batch script has it too, where Python was started once; a step of `srun` has its own.
_COUNTS = {
    "WORLD_SIZE": "torchrun, accelerate or DeepSpeed",
    "OMPI_COMM_WORLD_SIZE": "mpirun of Open MPI",
    "PMI_SIZE": "mpirun of MPICH or Intel MPI",
    "MV2_COMM_WORLD_SIZE": "mpirun of MVAPICH",
    "HOROVOD_SIZE": "horovodrun",
    "SLURM_STEP_NUM_TASKS": "srun",
    "JSM_NAMESPACE_SIZE": "jsrun",
    "FLUX_JOB_SIZE": "flux run",
}
# A number from 0, so that one above 0 says that there are others where the count is not told.
_RANKS = {
    "RANK": "torchrun, accelerate or DeepSpeed",
    "LOCAL_RANK": "torchrun, accelerate or DeepSpeed",
    "OMPI_COMM_WORLD_RANK": "mpirun of Open MPI",
    "PMI_RANK": "mpirun of MPICH or Intel MPI",
    "MV2_COMM_WORLD_RANK": "mpirun of MVAPICH",
    "HOROVOD_RANK": "horovodrun",
    "PMIX_RANK": "a launcher with PMIx",
    "PALS_RANKID": "mpiexec of HPE Cray",
    "JSM_NAMESPACE_RANK": "jsrun",
    "FLUX_TASK_RANK": "flux run",
}
# Ways to train that accelerate takes from the environment, and what they are called.
_WAYS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker's data parallelism",
}
_TRUE = frozenset({"1", "true", "yes", "y", "t", "on"})
# What asks for another arithmetic than a recipe, with the values that ask for none.
_ARITHMETIC = {
    "ACCELERATE_MIXED_PRECISION": frozenset({"", "no"}),
    "ACCELERATE_DYNAMO_BACKEND": frozenset({"", "no"}),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": frozenset({"", "1"}),
}
# What accelerate and transformers' Trainer configure themselves by.
_PREFIXES = (
    "ACCELERATE_", "FSDP_", "FP8_", "PARALLELISM_CONFIG_", "MEGATRON_LM_", "TORCHELASTIC_",
    "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "HOROVOD_", "SMDATAPARALLEL_", "SM_HP_MP_",
)  # fmt: skip
_NAMES = frozenset(
    {
        "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK",
        "NODE_RANK", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT", "FORK_LAUNCHED",
        "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "SM_FRAMEWORK_PARAMS",
        "XLA_USE_BF16", "XLA_DOWNCAST_BF16",
    }
)  # fmt: skip
_NEXT_STEP = (
    "training is not distributed, so each process would do the whole run and they would stop each "
    "other; start compress once, without a launcher or with one process"
)


def require_one_process(environment: Mapping[str, str] = os.environ) -> None:
    """Raise `EnvironmentMismatch` where a launcher asks for what a run would ignore.

    One that starts a single process and asks for nothing else is as good as none.
    """
    for name, launcher in _COUNTS.items():
        if (count := _number(environment.get(name))) > 1:
            raise EnvironmentMismatch(
                f"{launcher} started {count} processes ({name}={count}): {_NEXT_STEP}"
            )
    for name, launcher in _RANKS.items():
        if (rank := _number(environment.get(name))) > 0:
            raise EnvironmentMismatch(
                f"{launcher} started this process as number {rank} of several ({name}={rank}): "
                f"{_NEXT_STEP}"
            )
    for name, way in _WAYS.items():
        if environment.get(name, "").lower() in _TRUE:
            raise EnvironmentMismatch(
                f"accelerate was told to train with {way} ({name}={environment[name]}), and "
                f"{_NEXT_STEP}"
            )
    if (count := _processes_of_torch()) > 1:
        raise EnvironmentMismatch(
            f"torch.distributed is initialized with {count} processes: {_NEXT_STEP}"
        )
    # With --cpu, accelerate starts one process however many it was asked for; this is all it says.
    told = environment.keys() & {"ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION"}
    if told and "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment:
        raise EnvironmentMismatch(
            f"accelerate launch was asked for several processes and started one (MASTER_ADDR="
            f"{environment['MASTER_ADDR']}, and no WORLD_SIZE): {_NEXT_STEP}"
        )


def unread_settings(environment: Mapping[str, str] = os.environ) -> str | None:
    """Name what accelerate was told about arithmetic, which a run does not read; None for nothing.

    The precision of a training is the recipe's, and so is the size of a batch.
    """
    told = [
        f"{name}={environment[name]}"
        for name, plain in _ARITHMETIC.items()
        if environment.get(name, "").lower() not in plain
    ]
    if not told:
        return None
    return f"{' and '.join(told)} {'is' if len(told) == 1 else 'are'} not read: the recipe decides"


@contextmanager
def alone() -> Iterator[None]:
    """Hide from accelerate, in this block, all that the environment says about how to train.

    It would change weights without a word, for one by computing in bfloat16.
    """
    hidden = {name: os.environ[name] for name in list(os.environ) if _is_read_by_accelerate(name)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        for name in list(os.environ):
            if _is_read_by_accelerate(name):
                del os.environ[name]  # accelerate writes some of them itself
        os.environ.update(hidden)


def _is_read_by_accelerate(name: str) -> bool:
    return name in _NAMES or name.startswith(_PREFIXES)


def _processes_of_torch() -> int:
    """Return how many processes torch.distributed has joined here; torch is not loaded for it."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 1
    return int(distributed.get_world_size())


def _number(text: str | None) -> int:
    """Return a count or a rank; 0 for one that is not told, or not as a number."""
    return int(text) if text is not None and text.strip().isdecimal() else 0
