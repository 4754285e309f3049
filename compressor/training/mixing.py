"""Mixes examples of a batch, two and two, so that a model learns what lies between them.

Ref: mixup: Zhang et al. 2018, arXiv:1710.09412; of the embeddings of words: Guo et al. 2019,
arXiv:1905.08941; CutMix: Yun et al. 2019, arXiv:1905.04899; a teacher that is asked about the
mixed example: Beyer et al. 2022, arXiv:2106.05237.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.errors import StepFailed

# Keeps these draws apart from the order of batches and from those of augmentation.
_STREAM = 0x6D6978


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed: `share` stays of each example, the rest comes from its `partners`.

    `box` is the rows and columns that are pasted whole; None where everything is mixed.
    """

    share: float
    partners: Tensor  # (batch,)
    box: tuple[slice, slice] | None = None

    def of(self, values: Tensor) -> Tensor:
        """Return `values`, shape `(batch, ...)`, mixed."""
        others = values[self.partners]
        if self.box is None:
            return self.share * values + (1 - self.share) * others
        mixed = values.clone()
        mixed[..., self.box[0], self.box[1]] = others[..., self.box[0], self.box[1]]
        return mixed


class Mixer:
    """Draws how batches are mixed; how many it has mixed is its state for checkpoints."""

    def __init__(self, seed: int, *, mixup_alpha: float, cutmix_alpha: float = 0.0) -> None:
        self._alphas = mixup_alpha, cutmix_alpha
        self._seed = seed
        self._count = 0

    def draw(self, values: Tensor) -> Mix:
        """Return how to mix the next batch, whose inputs are `values` of shape `(batch, ...)`."""
        random = np.random.default_rng([self._seed, _STREAM, self._count])
        self._count += 1
        mixup, cutmix = self._alphas
        pastes = cutmix > 0 and (mixup == 0 or random.random() < 0.5)
        share = float(random.beta(*(2 * (cutmix if pastes else mixup,))))
        partners = torch.from_numpy(random.permutation(len(values))).to(values.device)
        if not pastes:
            return Mix(share, partners)
        height, width = values.shape[-2:]
        rows, columns = _box(height, width, share, random)
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return Mix(1 - area / (height * width), partners, (rows, columns))

    def state_dict(self) -> dict[str, Tensor]:
        """Return how many batches were mixed."""
        return {"count": torch.tensor(self._count)}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        self._count = int(state_dict["count"])


def mixed_mask(inputs: Mapping[str, Tensor], mix: Mix) -> dict[str, Tensor]:
    """Return the attention mask of a mixed batch by its name; none where a model reads none."""
    mask = inputs.get("attention_mask")
    return {} if mask is None else {"attention_mask": mask | mask[mix.partners]}


def run_mixed(module: Any, inputs: Mapping[str, Tensor], mix: Mix, own: slice = slice(None)) -> Any:
    """Return what a transformers model gives for its `own` rows of a mixed batch of `inputs`.

    Pixels, sounds and spectrograms are mixed as they are, texts by the embeddings of their tokens.
    A token or a sample counts where either of the two has one; where an example has none, what is
    said of its partner's token is read, because models count positions, or look for the last token,
    by what is padding. Raises `StepFailed` for a model that
    does not look its tokens up in its table of input embeddings, once.
    """
    values = inputs[module.main_input_name]
    if values.is_floating_point():
        inputs = {**inputs, **mixed_mask(inputs, mix), module.main_input_name: mix.of(values)}
    else:
        inputs = {**_with_partners_tokens(inputs, mix), **mixed_mask(inputs, mix)}
    inputs = {name: value[own] for name, value in inputs.items()}
    if values.is_floating_point():
        return module(**inputs)
    calls = 0

    def mixed(table: nn.Module, _args: Any, _output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        # Rows of other processes are among them; `forward` calls no hook, such as this one.
        first: Tensor = table.forward(values[own])
        other: Tensor = table.forward(values[mix.partners][own])
        return mix.share * first + (1 - mix.share) * other

    handle = module.get_input_embeddings().register_forward_hook(mixed)
    try:
        outputs = module(**inputs)
    finally:
        handle.remove()
    if calls != 1:
        raise StepFailed(
            f"mixup_alpha: a model of type '{module.config.model_type}' read its table of input "
            f"embeddings {calls} times for a batch, so its texts cannot be mixed; set it to 0"
        )
    return outputs


def _with_partners_tokens(inputs: Mapping[str, Tensor], mix: Mix) -> dict[str, Tensor]:
    """Return inputs of texts that say of a partner's token what they lack where they are padded."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return dict(inputs)
    lacks = (mask == 0) & (mask[mix.partners] != 0)  # (batch, tokens)
    return {
        name: torch.where(lacks, value[mix.partners], value) if value.shape == mask.shape else value
        for name, value in inputs.items()
    }


def _box(height: int, width: int, share: float, random: np.random.Generator) -> tuple[slice, slice]:
    """Return a box of 1 - `share` of an image, around a point that is drawn, cut at its edges."""
    cut = math.sqrt(1 - share)
    found = []
    for size in (height, width):
        half, centre = int(size * cut) // 2, int(random.integers(size))
        found.append(slice(max(0, centre - half), min(size, centre + half)))
    return found[0], found[1]


LabelledLoss = Callable[[Tensor, Tensor], Tensor]  # of outputs and targets to a scalar


def mixed_loss(
    loss: LabelledLoss, outputs: Tensor, targets: Tensor, mix: Mix, own: slice = slice(None)
) -> Tensor:
    """Return the loss on both labels, each by its share; `outputs` are of the `own` rows."""
    first, other = loss(outputs, targets[own]), loss(outputs, targets[mix.partners][own])
    return mix.share * first + (1 - mix.share) * other
