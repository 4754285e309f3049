"""Finds which linear layers read what a GELU or ReLU gave, by running a module once.

The int8 file reads it off the graph. In PyTorch an activation may be a module or a function, and
what lies between it and the layer differs from family to family, so the tensor itself is followed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compressor.models.example_sound import OF_SOUND, example_sound
from compressor.models.low_rank import LowRankTable
from compressor.onnx_graph.quantized_activations import (
    AFTER_GELU,
    AFTER_RELU,
    SYMMETRIC,
    TokenScale,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Only what is one operator in the file: the export leaves others, such as `gelu_new`, in parts.
_MODULES = (
    ((transformers.activations.GELUActivation, nn.GELU), AFTER_GELU),
    ((nn.ReLU,), AFTER_RELU),
)
_FUNCTIONS: dict[Callable[..., object], TokenScale] = {
    nn.functional.gelu: AFTER_GELU,
    nn.functional.relu: AFTER_RELU,
    torch.relu: AFTER_RELU,
}


def token_scale_after_module(activation: nn.Module) -> TokenScale:
    """Return the scale for what an activation module gives."""
    return next(
        (token_scale for types, token_scale in _MODULES if isinstance(activation, types)), SYMMETRIC
    )


class Probe(TorchFunctionMode):
    """What activations gave while a module ran, and how often each linear layer was called."""

    def __init__(self) -> None:
        super().__init__()
        # The tensors are kept, so that no other one takes their place in memory meanwhile.
        self._given: dict[int, tuple[Tensor, TokenScale]] = {}
        self.scales: dict[nn.Module, TokenScale] = {}
        self.calls: Counter[nn.Module] = Counter()

    def __torch_function__(
        self, func: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in _FUNCTIONS:
            self.remember(found, _FUNCTIONS[func])
        return found

    def remember(self, given: Tensor, token_scale: TokenScale) -> None:
        """Keep what an activation gave."""
        self._given[given.data_ptr()] = (given, token_scale)

    def read(self, linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Note what a linear layer reads; where it is called again, all calls must agree."""
        self.calls[linear] += 1
        kept = self._given.get(inputs[0].data_ptr())
        is_same = kept is not None and kept[0].numel() == inputs[0].numel()
        token_scale = kept[1] if kept is not None and is_same else SYMMETRIC
        before = self.scales.setdefault(linear, token_scale)
        if before != token_scale:
            self.scales[linear] = SYMMETRIC


@torch.no_grad()
def probe(module: PreTrainedModel) -> Probe:
    """Run a transformers module on one made-up example, and return what its layers read.

    Raises `ValueError` when it does not run on one.
    """
    found, hooks = Probe(), []
    for part in module.modules():
        if isinstance(part, nn.Linear):
            hooks.append(part.register_forward_pre_hook(found.read))
        elif (token_scale := token_scale_after_module(part)) != SYMMETRIC:
            hooks.append(part.register_forward_hook(_remembering(found, token_scale)))
    was_training = module.training
    module.eval()
    try:
        with found:
            module(**_example(module))
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


def _remembering(
    found: Probe, token_scale: TokenScale
) -> Callable[[nn.Module, object, Tensor], None]:
    return lambda module, inputs, output: found.remember(output, token_scale)  # noqa: ARG005


def _example(module: PreTrainedModel) -> dict[str, Tensor]:
    device = next(module.parameters()).device
    if module.main_input_name in OF_SOUND:
        return example_sound(module, 1)
    if module.main_input_name == "pixel_values":
        config = getattr(module.config, "vision_config", module.config)  # of a pair of towers
        size = config.image_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        shape = (1, config.num_channels, height, width)
        return {"pixel_values": torch.zeros(shape, device=device)}
    table = module.get_input_embeddings()
    assert isinstance(table, nn.Embedding | LowRankTable), "it has a row for each token"
    ids = torch.arange(1, 9, device=device)[None] % table.num_embeddings
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
