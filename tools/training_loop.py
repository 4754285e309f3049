"""The loop by which `train_sst2.py`, `train_reranker.py` and `train_ner.py` train a checkpoint.

Plain PyTorch, as a user of this package would have trained it elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

_SORTED_TOGETHER = 32  # batches whose rows are put together by length


def fit(
    model: Any,
    batches: Sequence[Sequence[int]],
    loss_of: Callable[[Sequence[int]], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    told_every: int,
    share_of_rate: Callable[[int], float] | None = None,
) -> None:
    """Train on the rows of each batch.

    `loss_of` gives what the model loses on rows, and the mean of it is printed every `told_every`
    steps. `share_of_rate` gives the share of the learning rate at a step, counted from 0; left out,
    it is 10% warm-up, then linearly to 0.
    """
    steps, warmup = len(batches), max(1, len(batches) // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        share_of_rate
        or (lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup + 1))),
    )
    model.train()
    total = 0.0
    for step, batch in enumerate(batches, start=1):
        loss = loss_of(batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        if step % told_every == 0:
            print(f"step {step} of {steps}: loss {total / told_every:.4f}", flush=True)
            total = 0.0
    model.eval()


def adamw(model: Any, learning_rate: float, *, fused: bool | None = None) -> torch.optim.AdamW:
    """Return AdamW over all weights of a model with a weight decay of 0.01; `fused` is as there."""
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, fused=fused)


def batches_by_length(
    lengths: Sequence[int], size: int, seed: tuple[int, int]
) -> Iterator[list[int]]:
    """Yield batches of rows of about one length, which waste little on padding, in any order."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(lengths))
    found: list[list[int]] = []
    for start in range(0, len(order), size * _SORTED_TOGETHER):
        part = order[start : start + size * _SORTED_TOGETHER].tolist()
        part.sort(key=lengths.__getitem__)
        found.extend(part[first : first + size] for first in range(0, len(part), size))
    yield from (found[place] for place in random.permutation(len(found)).tolist())
