"""In which arithmetic student and teacher compute while training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from compressor.errors import EnvironmentMismatch
from compressor.training.settings import TrainingSettings

Precision = Literal["float32", "bfloat16", "float16"]
# Where float16 is computed in hardware and faster than float32.
_FLOAT16_DEVICES = frozenset({"cuda"})
_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def precision_on(settings: TrainingSettings, device: torch.device) -> Precision:
    """Return what matmuls are computed in: as asked for, or what the hardware is fast with."""
    if settings.precision != "auto":
        return settings.precision
    if has_bfloat16(device):
        return "bfloat16"
    return "float16" if device.type in _FLOAT16_DEVICES else "float32"


def require_precision(settings: TrainingSettings, device: torch.device) -> None:
    """Raise `EnvironmentMismatch` for float16 on a device that is no faster with it."""
    if settings.precision == "float16" and device.type not in _FLOAT16_DEVICES:
        raise EnvironmentMismatch(
            f"precision: float16 is computed on CUDA devices, and training runs on "
            f"'{device.type}'; set it to auto, bfloat16 or float32"
        )


class LossScaler:
    """Scales the loss up so that small gradients do not vanish in float16; state for checkpoints.

    A step whose gradients overflow is left out, and the scale is halved.

    Ref: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """

    def __init__(self, device: torch.device) -> None:
        self.scaler = torch.amp.GradScaler(device.type)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the scale, and for how many steps it has been right."""
        state = self.scaler.state_dict()
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in state.items()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Go on with the scale that `state_dict` returned."""
        self.scaler.load_state_dict(
            {
                name: int(value) if name in ("growth_interval", "_growth_tracker") else float(value)
                for name, value in state_dict.items()
            }
        )


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware, faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute matmuls in `precision` in this block; float32 changes nothing.

    bfloat16 has the exponent of float32, so that gradients need no scaling. Attention stays in
    float32 on a CPU: PyTorch's bfloat16 kernel takes four times as long there to go backward, for
    32 sentences of 30 tokens, and a step of MiniLM's distillation 1.2 times as long in all.
    """
    with torch.autocast(device.type, dtype=_TYPES.get(precision), enabled=precision != "float32"):
        if precision == "bfloat16" and device.type == "cpu":
            with _Float32Attention():
                yield
        else:
            yield


class _Float32Attention(TorchFunctionMode):
    """Computes `scaled_dot_product_attention` in float32, whatever autocast would do."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is not functional.scaled_dot_product_attention:
            return function(*args, **kwargs)
        query = args[0] if args else kwargs["query"]
        with torch.autocast("cpu", enabled=False):
            precise = {name: _float32(value) for name, value in kwargs.items()}
            return function(*map(_float32, args), **precise).to(query.dtype)


def _float32(value: object) -> object:
    if isinstance(value, Tensor) and value.dtype == torch.bfloat16:
        return value.float()
    return value
