"""A table of words as the product of two matrices, for tables that are most of a file."""

from __future__ import annotations

from torch import Tensor, nn


class LowRankTable(nn.Module):
    """Rows of `rank` numbers, and one projection of all of them to the width of the model."""

    def __init__(self, rows: int, rank: int, width: int, padding: int | None) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, rank, padding_idx=padding)
        self.projection = nn.Linear(rank, width, bias=False)

    @property
    def num_embeddings(self) -> int:
        """Return how many rows there are, one for each piece."""
        return self.table.num_embeddings

    @property
    def rank(self) -> int:
        """Return how many numbers a row has."""
        return self.table.embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of tokens: `(batch, tokens)` to `(batch, tokens, width)`."""
        projected: Tensor = self.projection(self.table(ids))
        return projected


def factor_table(module: nn.Module, rank: int) -> LowRankTable:
    """Put a product of `rank` in place of a model's table of words, with weights to be overwritten.

    `module` is a model of transformers whose table is an `nn.Embedding`.
    """
    whole = module.get_input_embeddings()  # type: ignore[operator]  # of transformers
    assert isinstance(whole, nn.Embedding), "the caller has looked"
    made = LowRankTable(whole.num_embeddings, rank, whole.embedding_dim, whole.padding_idx)
    made.to(whole.weight)
    made.train(whole.training)
    module.set_input_embeddings(made)  # type: ignore[operator]
    return made
