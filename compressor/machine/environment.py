"""What makes a number repeatable: seeds, library versions, CPU features, execution providers."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import random
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import torch

from compressor.errors import EnvironmentMismatch
from compressor.machine.team import team
from compressor.measurements import Cpu, Environment

Device = Literal["cpu", "cuda", "auto"]

_PACKAGES = (
    "compressor",
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "optimum",
    "torch-pruning",
    "tokenizers",
    "safetensors",
    "accelerate",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
)
# The parts of this package that show results, or what would be done, and compute nothing that a
# step stores: an edit of them leaves stored steps valid.
ONLY_SHOWS = (
    "cli.py",
    "commands/",
    "console.py",
    "events.py",
    "inspection/",
    "pipeline/estimate.py",
    "pipeline/plan.py",
    "pipeline/preflight.py",
    "pipeline/announce.py",
    "publish.py",
    "quickstart/",
    "report/",
    "serve/",
    "shadow.py",
    "starter/",
    "sweep/",
)
# Environment variables by which libraries choose kernels, precision or numbers of threads, so that
# the same computation gives other bits. What accelerate reads is hidden from it
# (`machine/launchers.py`).
_RESULT_VARIABLES = (
    "ATEN_", "BLIS_", "CUBLAS_", "CUBLASLT_", "CUDNN_", "DNNL_", "GLIBC_TUNABLES", "GOTO_",
    "KMP_DETERMINISTIC_REDUCTION", "MKL_", "NPY_", "NVIDIA_TF32_OVERRIDE", "OMP_DYNAMIC",
    "OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "ONEDNN_", "OPENBLAS_", "ORT_", "TORCH_ALLOW_",
    "TORCH_BLAS_", "TORCH_CUDNN_", "TORCH_LINALG_",
)  # fmt: skip
_CHANGES_NOTHING = ("VERBOSE", "TELEMETRY")  # in the name of one that says what is told of a run
# The features that decide which integer kernels ONNX Runtime picks.
_CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def select_device(device: Device) -> torch.device:
    """Return the device to train on; `auto` is CUDA where torch has it.

    Raises `EnvironmentMismatch` when CUDA is asked for and torch has none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentMismatch(
            f"device 'cuda': torch {torch.__version__} sees no CUDA device; install a CUDA build "
            f"of torch or use --device cpu"
        )
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def describe_environment(*, seed: int, device: torch.device, threads: int) -> Environment:
    """Return plain facts about this machine; a fact that cannot be read is None."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _describe_cpu(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "device": str(device),
        "threads": threads,
        "seed": seed,
        "packages": package_versions(),
        "onnxruntime_providers": list(onnxruntime.get_available_providers()),
        "variables": result_variables(),
        **({"processes": processes} if (processes := team().launch.facts()) else {}),
    }


def result_conditions() -> dict[str, object]:
    """Return what the same computation can give other bits for: code, versions, machine."""
    return {
        "code": code_digest(Path(__file__).parents[1]),
        "packages": package_versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_features": _cpu_features(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "variables": result_variables(),
        "torch": {
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "default_dtype": str(torch.get_default_dtype()),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
    }


def result_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment variables, of those that are set, that results can depend on."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.startswith(_RESULT_VARIABLES) and not any(part in name for part in _CHANGES_NOTHING)
    }


def timing_conditions(threads: int) -> dict[str, object]:
    """Return what a time depends on besides `result_conditions`; `threads` are ONNX Runtime's."""
    return {"threads": threads, "cpu": _describe_cpu()}


def _describe_cpu() -> Cpu:
    return {
        "model": _cpu_field("model name") or platform.processor() or None,
        "logical_cores": os.cpu_count(),
        "features": _cpu_features(),
    }


def code_digest(folder: Path) -> str:
    """Return the SHA-256 of the source in this package's `folder` that steps depend on.

    A version alone misses edits of a checkout.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(ONLY_SHOWS):
            digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on, of those installed."""
    versions: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # one of onnxruntime and onnxruntime-gpu is always absent
    return versions


def _cpu_field(name: str) -> str | None:
    path = Path("/proc/cpuinfo")
    if sys.platform != "linux" or not path.is_file():
        return None
    match = re.search(rf"^{name}\s*:\s*(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1].strip() if match else None


def _cpu_features() -> list[str] | None:
    flags = _cpu_field("flags") or _cpu_field("Features")
    if flags is None:
        return None
    present = set(flags.split())
    return [feature for feature in _CPU_FEATURES if feature in present]
