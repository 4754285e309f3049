"""SpecAugment of encoders of sound, where a batch is too short for it.

While they train, Wav2Vec2, HuBERT and WavLM replace spans of frames by a learnt state
(`mask_time_prob` of config.json, Park et al. 2019, arXiv:1904.08779). transformers draws no shorter
spans than `mask_time_length` frames, and raises for a batch that has fewer: a fifth of a second of
sound, as single words often have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def time_masks_that_fit(module: nn.Module) -> Iterator[None]:
    """Leave time masks out, in this block, of batches with fewer frames than one mask has."""
    with ExitStack() as undone:
        for child in module.modules():
            if hasattr(child, "_mask_hidden_states"):  # as encoders that mask call it
                hook = child.register_forward_pre_hook(_without_masks_if_short, with_kwargs=True)
                undone.callback(hook.remove)
        yield


def _without_masks_if_short(
    encoder: Any, positional: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Hand an encoder masks that mask nothing, so that it draws none; None changes nothing."""
    config = encoder.config
    if not encoder.training or config.mask_time_prob <= 0:
        return None
    samples = positional[0] if positional else named["input_values"]  # (batch, samples)
    frames = _frames(config, samples.shape[1])
    if frames >= config.mask_time_length:
        return None
    nothing = torch.zeros(len(samples), frames, dtype=torch.bool, device=samples.device)
    return positional, {**named, "mask_time_indices": nothing}


def _frames(config: Any, samples: int) -> int:
    """Return how many frames the convolutions before an encoder make of so many samples."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples
