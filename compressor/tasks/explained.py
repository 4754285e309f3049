"""What a task says of explanations: the number that is explained, and what is hidden for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.tasks.examples import Batch, Example
from compressor.tasks.hiding import Hiding, Part, ReadText
from compressor.tasks.outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor


class Explained:
    """A part of the interface of a task, which most of what a task does never asks for."""

    name: ClassVar[str]
    # What attributions are parts of: the number of a prediction that moves as pieces of an example
    # are hidden, in words; "" where there is none, and then `unexplained` says why.
    explains: ClassVar[str] = ""
    unexplained: ClassVar[str] = "no number of its predictions is chosen to be explained"
    # Whether that number can be differentiated, for attributions by gradients.
    explains_by_gradients: ClassVar[bool] = False

    def hidings(self, preprocessor: Any) -> tuple[Hiding, ...]:  # noqa: ARG002 - most hide nothing
        """Return the ways in which pieces can be hidden, the best first; none where none can."""
        return ()

    def pieces(self, preprocessor: Any, example: Example, most: int) -> tuple[Part, ...]:
        """Return the pieces of an example that are hidden in turn, at most `most` of them.

        Only asked where `hidings` names a way.
        """
        raise NotImplementedError(f"{self.name} hides no pieces")

    def read_text(self, preprocessor: Any, example: Example) -> ReadText:
        """Return the tokens of an example as a model reads them, for tasks on texts."""
        raise NotImplementedError(f"{self.name} reads no texts")

    def with_hidden(
        self, preprocessor: Any, example: Example, pieces: Sequence[Part], hiding: Hiding
    ) -> Iterator[Batch]:
        """Yield batches of an example: first as it is, then with each of `pieces` hidden alone."""
        raise NotImplementedError(f"{self.name} hides no pieces")

    def explained(self, original: Outputs, outputs: Outputs) -> NDArray[np.float64]:
        """Return the number that `explains` names of each of `outputs`, shape `(num_outputs,)`.

        All are of one example, the first without anything hidden. `original` is what the untouched
        checkpoint gives for it, whose prediction is explained for every model.
        """
        raise NotImplementedError(f"{self.name} explains nothing")

    def explained_tensor(self, original: Outputs, whole: Outputs, array: Tensor) -> Tensor:
        """Return the same, shape `(num_rows,)`, of a model's array in PyTorch, differentiable.

        `whole` is what the model itself gives for the example.
        """
        raise NotImplementedError(f"{self.name} explains nothing by gradients")

    def in_words(self, outputs: Outputs, labels: Sequence[str]) -> str:  # noqa: ARG002 - most are long
        """Return the one prediction of `outputs` in words, "" where that is long."""
        return ""
