"""Factorizing of the table of words: a narrow table, and one matrix that widens its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from compressor.passes.base import About, TorchPass
from compressor.passes.effort import Effort

if TYPE_CHECKING:
    from compressor.tasks import Task


class FactorizeEmbeddings(TorchPass):
    """Store the table of words as a narrow table times a matrix: least squares, a rank.

    Of all products of that rank it is the one whose rows differ least from the table's, each square
    weighted by how often its piece occurs in your texts (and once more, so that pieces that do not
    occur count too). The exported graph looks up a narrow row and multiplies it: a Gather and a
    MatMul. Take it where the table is most of the file after `trim_vocabulary`, put it behind that
    and behind pruning, and train afterwards (`distill`): a trained table has no low rank, and what
    it loses has to be learned again.

    Measured on a 6-layer, 384-wide MiniLM (SST-2, accuracy on 872 dev rows, 89.68% before), without
    any training afterwards: rank 256 gives 88.88%, 192 and 128 both 87.73%, 64 gives 85.32%, with
    2.2%, 3.3%, 5.2% and 9.6% of the predictions changed.

    Ref: Lan et al. 2019, arXiv:1909.11942 (ALBERT), there for models that are trained that way.
    """

    kind: Literal["factorize_embeddings"] = "factorize_embeddings"
    factors_table: ClassVar[bool] = True
    needs_whole_table: ClassVar[bool] = True

    about: ClassVar[About] = About(
        group="vocabulary",
        summary="Store the table of words as a product of two",
        explanation=(
            "Replaces the table of words by a narrower one and a matrix that widens its rows. Take "
            "it where the table is most of the file even after trim_vocabulary."
        ),
        example="""\
passes:
  - kind: factorize_embeddings
    rank: 128
""",
    )

    rank: int = Field(gt=0, description="numbers of each row of the narrow table")
    count_in: tuple[Literal["train", "calibration"], ...] = Field(
        ("train",),
        min_length=1,
        description="splits whose texts say how often pieces occur; labels are not read",
    )

    def milder(self) -> Iterator[Self]:
        """Yield larger ranks, up to three times this one."""
        for times in (1.5, 2, 3):
            yield self.model_copy(update={"rank": int(self.rank * times)})

    def unfit_for(self, task: Task) -> Iterator[tuple[str, str]]:
        """Yield the pass itself for a task without texts."""
        if not task.reads_tokens:
            yield "kind", f"factorizes a table of words, and {task.name} has none; remove it"

    def required_splits(self) -> frozenset[str]:
        """Return the splits whose texts are counted."""
        return frozenset(self.count_in)

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return the counting of pieces and one decomposition, which no model reads."""
        rows = sum(num_rows.get(name, 0) for name in self.count_in)
        return Effort(seconds=5.0 + rows / 5000)
