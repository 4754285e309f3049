"""Upper bounds of what a pass can save on a checkpoint.

An upper bound, not a promise: accuracy decides how much of it can really go. A pass says it in
`Pass.most_saved` of plain facts about the model, so that settings stay free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressor.tasks import Task


@dataclass(frozen=True)
class Saving:
    """What a pass could save at most; `reason` says what the figures leave out, or why not."""

    bytes_saved: int | None  # None where the pass changes no sizes by itself
    flops_share: float | None  # of the whole model's FLOPs; None: not its business
    reason: str
    supported: bool = True


def unsupported(reason: str) -> Saving:
    """Return that a pass cannot work on a model."""
    return Saving(None, None, reason, supported=False)


@dataclass(frozen=True)
class ModelParts:
    """What a model consists of, with weights in float32; a `no_` is why it has no such part."""

    task: Task
    total_bytes: int
    layer_bytes: int  # of all layers of the encoder
    attention_bytes: int  # of those, attention's
    feed_forward_bytes: int
    word_table_bytes: int | None  # None: words are not looked up in one table
    tokenizer: str | None  # how words are split, such as WordPiece
    scripts: tuple[tuple[str, float], ...]  # what shares of pieces are of, the largest first
    layers_flops_share: float  # of the model's FLOPs
    feed_forward_flops_share: float
    # Numbers of elements, each weight once, of those that are large enough to store as integers.
    matrices: tuple[int, ...]
    tables: tuple[int, ...]
    no_layers: str | None
    no_prunable_heads: str | None
    filters: tuple[int, ...] = ()  # of convolutions

    def saved_by_bits(self, *, matrix: int, table: int) -> int:
        """Return the bytes that go where weights have so many bits instead of 32; scales aside."""
        kinds = ((self.matrices, matrix), (self.tables, table))
        return sum((32 - bits) * size // 8 for sizes, bits in kinds for size in sizes)


def int8_on_cpu(parts: ModelParts) -> Saving:
    """Return what int8 matrices and int4 embedding tables save."""
    saved = parts.saved_by_bits(matrix=8, table=4)
    return Saving(saved, None, "int8 weights and int4 tables, on the CPU; scales aside")
