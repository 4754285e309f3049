"""The work of `factorize_embeddings`; apart from its settings because it needs torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.models.low_rank import LowRankTable, factor_table
from compressor.models.structure import input_embeddings
from compressor.models.torch_model import TorchModel
from compressor.passes.base import Ahead, NothingToRemove, PassContext
from compressor.passes.factorize_embeddings.settings import FactorizeEmbeddings
from compressor.tasks import texts_of

_TEXTS_AT_ONCE = 1024
_ROWS_AT_ONCE = 65_536


def look_ahead(settings: FactorizeEmbeddings, model: TorchModel, ahead: Ahead) -> TorchModel:  # noqa: ARG001
    """Look whether the table can be factorized; return a copy with a table of that shape."""
    _table_of(settings, model)
    changed = model.clone()
    factor_table(changed.module, settings.rank)
    return changed


def apply(settings: FactorizeEmbeddings, model: TorchModel, context: PassContext) -> TorchModel:
    """Return the model with a factorized table; it is changed in place.

    Raises `StepFailed` where the table is shared with a head or factorized already, and
    `NothingToRemove` where the product would be no smaller.
    """
    table = _table_of(settings, model)
    whole = table.weight.detach()
    texts = [
        text
        for name in settings.count_in
        for example in context.splits[name].examples
        for text in texts_of(example)
    ]
    weights = _occurrences(model, texts, len(whole)).to(whole.device) + 1
    basis, kept = _best_basis(whole, weights, settings.rank)
    made = factor_table(model.module, settings.rank)
    with torch.no_grad():
        made.table.weight.copy_(whole @ basis)
        made.projection.weight.copy_(basis)
    before, after = whole.numel(), made.table.weight.numel() + basis.numel()
    context.record("kept_squares", round(kept, 6))
    context.note(
        f"the table of {len(whole):,} x {whole.shape[1]:,} is {len(whole):,} x {settings.rank:,} "
        f"times {settings.rank:,} x {whole.shape[1]:,} now, {after / before:.0%} of its numbers; "
        f"the product has {kept:.1%} of the squares of its rows, weighted by how often pieces "
        f"occur in {len(texts):,} texts"
    )
    return model


def _table_of(settings: FactorizeEmbeddings, model: TorchModel) -> nn.Embedding:
    """Return the table of words; raises `StepFailed` where it cannot be factorized."""
    table, head = input_embeddings(model.module), model.module.get_output_embeddings()
    if isinstance(table, LowRankTable):
        raise StepFailed(
            f"the table of words is a product of rank {table.rank} already; remove one of the "
            f"passes factorize_embeddings"
        )
    if table is None:
        raise StepFailed(
            f"transformers names no table of words in a model of type "
            f"'{model.module.config.model_type}'; remove this pass"
        )
    if type(table) is not nn.Embedding:
        raise StepFailed(
            f"the table of words is a {type(table).__name__}, which does more than to look up "
            f"rows; remove this pass"
        )
    if isinstance(head, nn.Linear) and head.weight is table.weight:
        raise StepFailed(
            "the table of words is the weight of the head too, which needs it whole; remove this "
            "pass"
        )
    rows, width = table.weight.shape
    if settings.rank * (rows + width) >= rows * width:
        raise NothingToRemove(
            f"rank is {settings.rank:,}, and a table of {rows:,} x {width:,} is smaller than a "
            f"product of that rank; set {(rows * width - 1) // (rows + width):,} or less"
        )
    return table


def _occurrences(model: TorchModel, texts: list[str], rows: int) -> Tensor:
    """Return how often each piece occurs, shape `(rows,)`, special tokens included."""
    counts = torch.zeros(rows, dtype=torch.float64)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        chunk = texts[start : start + _TEXTS_AT_ONCE]
        encoded = model.preprocessor(chunk, truncation=False, verbose=False)["input_ids"]
        ids = torch.tensor([index for row in encoded for index in row], dtype=torch.long)
        counts += torch.bincount(ids, minlength=rows)
    return counts


def _best_basis(whole: Tensor, weights: Tensor, rank: int) -> tuple[Tensor, float]:
    """Return the directions that keep most of the weighted squares of rows, and their share.

    The directions, shape `(width, rank)`, are orthonormal: the first eigenvectors of
    `sum_i w_i x_i x_i^T`. For them `x_i V` are the best rows, whatever their weights.
    """
    width = whole.shape[1]
    moments = torch.zeros(width, width, dtype=torch.float64, device=whole.device)
    for start in range(0, len(whole), _ROWS_AT_ONCE):
        rows = whole[start : start + _ROWS_AT_ONCE].double()
        moments += rows.T @ (weights[start : start + _ROWS_AT_ONCE, None] * rows)
    values, vectors = torch.linalg.eigh(moments)  # ascending
    kept = float(values[-rank:].sum() / values.sum().clamp_min(torch.finfo(torch.float64).tiny))
    return vectors[:, -rank:].flip(1).to(whole.dtype).contiguous(), kept
