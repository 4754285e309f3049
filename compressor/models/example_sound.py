"""Made-up sounds that an encoder of sound reads, where only what it computes matters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OF_SOUND = frozenset(("input_features", "input_values"))
_SAMPLES = 4000  # a quarter of a second, of which a stack of convolutions makes several frames


def example_sound(module: PreTrainedModel, rows: int) -> dict[str, Tensor]:
    """Return `rows` different sounds: samples, or a spectrogram where the model reads one.

    Shapes are `(rows, samples)`, `(rows, bins, frames)` for Whisper and `(rows, frames, bins)` for
    an audio spectrogram transformer.
    """
    name, config = module.main_input_name, module.config
    if name == "input_features":
        shape: tuple[int, ...] = (rows, config.num_mel_bins, 2 * config.max_source_positions)
    elif hasattr(config, "num_mel_bins"):
        shape = (rows, config.max_length, config.num_mel_bins)
    else:
        shape = (rows, _SAMPLES)
    sound = torch.linspace(0, 300, math.prod(shape)).sin()
    return {name: sound.view(shape).to(module.device, module.dtype)}
