"""Attributions by occlusion: how a number of a prediction falls when a piece is hidden.

They need predictions alone, so that a PyTorch model and an ONNX file with int8 in it are asked the
same way. Every model explains the prediction of the untouched checkpoint, about the pieces that the
untouched checkpoint reads: otherwise two attributions would answer two questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError, StepFailed
from compressor.models.predict import Predictor, predict_rows, rows_at_a_time
from compressor.progress import SILENT, Progress
from compressor.tasks import Batch, Example, Outputs, Task
from compressor.tasks.hiding import Hiding, Part

MOST_PIECES = 64  # of an example: each is one more row to read
_BATCH_SIZE = 32

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reader:
    """A model, with the preprocessor that examples are read by for it."""

    predictor: Predictor
    preprocessor: Any

    def outputs(self, task: Task, batches: Iterator[Batch]) -> Outputs:
        """Return what the model gives for the examples of batches; raises as `task.predicted`.

        Raises `StepFailed` where a number is not finite, of which no attribution could be taken.
        """
        found = task.predicted(
            lambda part: predict_rows(self.predictor, part, rows_at_a_time(part, _BATCH_SIZE)),
            list(batches),
        )
        if found.first_not_finite() is not None:
            raise StepFailed(f"the model's {task.output_words} are not finite with a piece hidden")
        return found


@dataclass(frozen=True)
class Question:
    """What every model is asked about one example: the pieces, and the original's prediction."""

    example: Example
    pieces: tuple[Part, ...]
    original: Outputs


def hiding_for(task: Task, *preprocessors: Any) -> Hiding:
    """Return the best way to hide pieces that all preprocessors have.

    Raises `RecipeError` where the task explains nothing, or they have none in common.
    """
    if not task.explains:
        raise RecipeError([f"attributions: {task.name} has none: {task.unexplained}"])
    ways = [task.hidings(preprocessor) for preprocessor in preprocessors]
    found = [way for way in ways[0] if all(way in others for others in ways)]
    if not found:
        raise RecipeError(
            [
                f"attributions: a piece of a text cannot be hidden from {task.name}: that takes a "
                f"fast tokenizer (tokenizer.json) with a mask token or an unknown token, the same "
                f"kind before and after; take a checkpoint that has one"
            ]
        )
    return found[0]


def ask(
    reader: Reader, task: Task, examples: Sequence[Example], *, most: int = MOST_PIECES
) -> list[Question]:
    """Return what the untouched checkpoint, which `reader` is, reads and predicts of examples."""
    return [
        Question(
            example,
            task.pieces(reader.preprocessor, example, most),
            reader.outputs(task, iter([task.encode(reader.preprocessor, [example])])),
        )
        for example in examples
    ]


def occlude(
    reader: Reader,
    task: Task,
    questions: Sequence[Question],
    hiding: Hiding,
    *,
    progress: Progress = SILENT,
) -> list[Floats]:
    """Return the attribution of each piece of each question, shape `(num_pieces,)`.

    It is what the explained number is without anything hidden, less what it is with this piece
    hidden: positive where the piece speaks for the prediction.
    """
    found = []
    with progress.bar("attributions by occlusion", len(questions)) as advance:
        for item in questions:
            if item.pieces:
                given = (reader.preprocessor, item.example, item.pieces, hiding)
                outputs = reader.outputs(task, task.with_hidden(*given))
                numbers = task.explained(item.original, outputs)
                found.append(numbers[0] - numbers[1:])
            else:
                found.append(np.zeros(0))
            advance(1, "")
    return found
