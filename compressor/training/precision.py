"""In which arithmetic student and teacher compute while training."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from compressor.training.settings import TrainingSettings


def computes_in_bfloat16(settings: TrainingSettings, device: torch.device) -> bool:
    """Return whether matrix products are bfloat16: as asked for, or where the hardware has it."""
    if settings.precision == "auto":
        return has_bfloat16(device)
    return settings.precision == "bfloat16"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware, faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def autocast(device: torch.device, *, bfloat16: bool) -> AbstractContextManager[object]:
    """Return the block in which matrix products are bfloat16, or one that changes nothing.

    bfloat16 has the exponent of float32, so that gradients need no scaling.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)
