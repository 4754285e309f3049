"""Whether a model reads one token of its encoder only, as most classifiers do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressor.models.families.layers import layer_list
from compressor.models.outputs import first_output


def reads_one_token(module: Any, inputs: Mapping[str, Tensor]) -> bool:
    """Return whether answers depend on the first token of the last layer's output alone.

    The export then computes that layer for no other (`export/unread_positions.py`), and most of it
    costs next to nothing. Found by the gradient of a random sum of the logits, so it holds for any
    head; `inputs` are those of some rows of two tokens or more.
    """
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        leaf = states.detach().requires_grad_()
        seen.append(leaf)
        return (leaf, *output[1:]) if isinstance(output, tuple) else leaf

    handle = layer_list(module)[-1].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = first_output(module(**inputs))
            random = torch.Generator().manual_seed(0)
            probe = torch.randn(logits.shape, generator=random).to(logits)
            [gradient] = torch.autograd.grad((logits * probe).sum(), [seen[0]])
    finally:
        handle.remove()
    is_read = gradient.abs().sum(dim=(0, 2)) > 0  # (tokens,)
    return bool(is_read[0]) and not bool(is_read[1:].any())
