"""Reads what a launcher of several processes says in the environment, and refuses the rest.

torchrun and accelerate say which of how many processes this is, and where the first one listens.
Whatever else a launcher asks for and a run does not do is refused by name before anything is read,
and what accelerate would make of the environment itself is hidden from it, see `alone`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from compressor.errors import EnvironmentMismatch
from compressor.measurements import Processes

# What launchers that say no WORLD_SIZE tell a process about the number of all of them.
# `SLURM_NTASKS` is not here: a batch script has it too, where Python was started once; a step of
# `srun` has its own.
_COUNTS = {
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
# Ways to train that accelerate takes from the environment, what they are called, what to do.
_WAYS = {
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", "take FSDP, version 2, which divides as much"),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", "take FSDP, version 2"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("a parallelism configuration", "leave it out"),
    "ACCELERATE_USE_SAGEMAKER": ("SageMaker's data parallelism", "start torchrun there"),
}
_USE = "ACCELERATE_USE_"
_SHARDED = "ACCELERATE_USE_FSDP"
_KNOWN_USES = frozenset({_SHARDED, "ACCELERATE_USE_CPU"})
_TRUE = frozenset({"1", "true", "yes", "y", "t", "on"})
# What asks for another arithmetic than a recipe, with the values that ask for none.
_ARITHMETIC = {
    "ACCELERATE_DYNAMO_BACKEND": (frozenset({"", "no"}), "nothing is compiled"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        frozenset({"", "1"}),
        "accumulation_steps in the recipe says it",
    ),
}
_MIXED = "ACCELERATE_MIXED_PRECISION"
_PRECISIONS = {"bf16": "bfloat16", "fp16": "float16"}
# What FSDP, version 2, can be told, with what it is told where a run does that.
_FSDP = {
    "FSDP_OFFLOAD_PARAMS": (frozenset({"", "false"}), "parameters stay on their device"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        frozenset({"", "false"}),
        "gradient_checkpointing in the recipe says it",
    ),
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": (
        frozenset({"", "false"}),
        "activations stay on their device",
    ),
    "FSDP_AUTO_WRAP_POLICY": (
        frozenset({"", "transformer_based_wrap", "none"}),
        "layers are divided one by one",
    ),
    "FSDP_TRANSFORMER_CLS_TO_WRAP": (
        frozenset({"", "none"}),
        "layers are found by the checkpoint's architecture",
    ),
    "FSDP_IGNORED_MODULES": (frozenset({"", "none"}), "all parameters are divided"),
}
_RESHARD = "FSDP_RESHARD_AFTER_FORWARD"
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
_NEXT_STEP = "start compress with torchrun or accelerate launch, or once without a launcher"


@dataclass(frozen=True)
class Launch:
    """Which of how many processes this is, and how they train.

    `sharded` says that parameters and optimizer state are divided among them (FSDP2), and
    `reshards` that layers which were gathered going forward are let go again until the way back.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0
    sharded: bool = False
    reshards: bool = True

    def facts(self) -> Processes | None:
        """Return what the record of a run says about it; None for a single process."""
        return {"count": self.size, "sharded": self.sharded} if self.size > 1 else None


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return which of how many processes this is.

    Raises `EnvironmentMismatch` where a launcher asks for what a run would ignore.
    """
    size = max(1, _number(environment.get("WORLD_SIZE")))
    for name, launcher in _COUNTS.items():
        if (count := _number(environment.get(name))) > size:
            raise EnvironmentMismatch(
                f"{launcher} started {count} processes ({name}={count}), and no RANK and "
                f"WORLD_SIZE tell them apart; {_NEXT_STEP}, such as torchrun once on each host "
                f"with --nnodes"
            )
    if size == 1:
        _require_first(environment)
    _require_known(environment)
    if (count := _processes_of_torch()) > 1:
        raise EnvironmentMismatch(
            f"torch.distributed is initialized with {count} processes, which a run does itself; "
            f"{_NEXT_STEP}"
        )
    # With --cpu, accelerate starts one process however many it was asked for; this is all it says.
    told = environment.keys() & {"ACCELERATE_USE_CPU", _MIXED}
    if told and "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment:
        raise EnvironmentMismatch(
            f"accelerate launch was asked for several processes and started one (MASTER_ADDR="
            f"{environment['MASTER_ADDR']}, and no WORLD_SIZE); start compress with torchrun, "
            f"accelerate launch --multi_gpu, or once without a launcher"
        )
    sharded = _is_true(environment.get(_SHARDED))
    if sharded:
        _require_fsdp(environment, size)
    if size == 1:
        return Launch()
    rank, port = (_number(environment.get(name), -1) for name in ("RANK", "MASTER_PORT"))
    address = environment.get("MASTER_ADDR", "")
    if not 0 <= rank < size or port <= 0 or not address:
        found = {
            name: environment.get(name, "")
            for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        }
        raise EnvironmentMismatch(
            f"several processes need RANK from 0 to {size - 1}, MASTER_ADDR and MASTER_PORT, got "
            f"{', '.join(f'{name}={value}' for name, value in found.items())}; {_NEXT_STEP}"
        )
    return Launch(
        rank,
        size,
        _number(environment.get("LOCAL_RANK")),
        address,
        port,
        sharded,
        environment.get(_RESHARD, "true").lower() in _TRUE,
    )


def require_one_process(environment: Mapping[str, str] = os.environ) -> None:
    """Raise `EnvironmentMismatch` where a launcher started several processes for one sweep."""
    launch = read_launch(environment)
    if launch.size > 1:
        raise EnvironmentMismatch(
            f"a launcher started {launch.size} processes of one training (WORLD_SIZE="
            f"{launch.size}), and each worker of a sweep does whole trials; start compress sweep "
            f"once for each worker, without a launcher"
        )


def asked_precision(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the precision that accelerate was told to train with, by the recipe's name for it.

    None where it was told none. Raises `EnvironmentMismatch` for one that no recipe can ask for.
    """
    told = environment.get(_MIXED, "").lower()
    if told in ("", "no"):
        return None
    if told not in _PRECISIONS:
        raise EnvironmentMismatch(
            f"{_MIXED}={environment[_MIXED]}: training computes in float32, bfloat16 or float16; "
            f"leave it out, and set precision in the recipe"
        )
    return _PRECISIONS[told]


def require_cpu_as_told(device: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `EnvironmentMismatch` where accelerate was told the CPU and the run is elsewhere."""
    if device != "cpu" and _is_true(environment.get("ACCELERATE_USE_CPU")):
        raise EnvironmentMismatch(
            f"ACCELERATE_USE_CPU={environment['ACCELERATE_USE_CPU']}, and this run is on "
            f"'{device}'; add --device cpu, or do not ask accelerate for the CPU"
        )


def _require_first(environment: Mapping[str, str]) -> None:
    """Raise `EnvironmentMismatch` for one of several processes that does not know how many."""
    for name, launcher in _RANKS.items():
        if (rank := _number(environment.get(name))) > 0:
            raise EnvironmentMismatch(
                f"{launcher} started this process as number {rank} of several ({name}={rank}), and "
                f"no WORLD_SIZE says of how many; {_NEXT_STEP}"
            )


def _require_known(environment: Mapping[str, str]) -> None:
    """Raise `EnvironmentMismatch` for a way to train or an arithmetic that a run does not have."""
    for name, (way, advice) in _WAYS.items():
        if _is_true(environment.get(name)):
            raise EnvironmentMismatch(
                f"accelerate was told to train with {way} ({name}={environment[name]}), which a "
                f"run does not; {advice}, or {_NEXT_STEP}"
            )
    for name, value in environment.items():
        if name.startswith(_USE) and name not in _KNOWN_USES and _is_true(value):
            raise EnvironmentMismatch(
                f"accelerate was told {name}={value}, which a run does not know; leave it out"
            )
    _require_values(environment, _ARITHMETIC)


def _require_fsdp(environment: Mapping[str, str], size: int) -> None:
    """Raise `EnvironmentMismatch` unless this is FSDP as a run does it."""
    if size == 1:
        raise EnvironmentMismatch(
            f"accelerate was told to train with FSDP ({_SHARDED}={environment[_SHARDED]}), and "
            f"there is one process, which has nobody to divide a model with; start several, or "
            f"leave it out"
        )
    if (version := environment.get("FSDP_VERSION", "1")) != "2":
        raise EnvironmentMismatch(
            f"accelerate was told to train with FSDP, version {version}; take version 2 "
            f"(FSDP_VERSION=2, or accelerate launch --fsdp_version 2)"
        )
    _require_values(environment, _FSDP)


def _require_values(
    environment: Mapping[str, str], known: Mapping[str, tuple[frozenset[str], str]]
) -> None:
    for name, (plain, why) in known.items():
        if (value := environment.get(name, "")).lower() not in plain:
            raise EnvironmentMismatch(f"{name}={value} is not done by a run: {why}; leave it out")


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


def _number(text: str | None, otherwise: int = 0) -> int:
    """Return a count or a rank; `otherwise` for one that is not told, or not as a number."""
    return int(text) if text is not None and text.strip().isdecimal() else otherwise


def _is_true(text: str | None) -> bool:
    return text is not None and text.lower() in _TRUE
