"""Attributions by integrated gradients, of PyTorch models whose inputs are words.

The gradient of the explained number is taken all the way from a text with every piece hidden to the
text itself, and adds up to what the number rises by (completeness). What quantization does to the
ONNX file is not in it: that is a step function, whose gradient is 0 or undefined, so the models are
the untouched checkpoint and the compressed PyTorch checkpoint.

Ref: Sundararajan et al. 2017, arXiv:1703.01365. Computed with Captum, the extra `explain`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor.attribution.occlusion import Question
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.structure import input_embeddings
from compressor.models.torch_model import TorchModel
from compressor.tasks import Task
from compressor.tasks.hiding import Hiding, Piece, ReadText, hiding_id

STEPS = 50  # of the integral; the paper finds 20 to 300 enough
_ROWS_AT_ONCE = 25

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Gradients:
    """Attributions of pieces, shape `(num_pieces,)`, and what the completeness axiom misses.

    `rise` is the explained number, less what it is with every piece hidden. All attributions add up
    to it but for `error`.
    """

    values: Floats
    rise: float
    error: float


def require_captum() -> None:
    """Raise `EnvironmentMismatch` where Captum is not installed."""
    if find_spec("captum") is None:
        raise EnvironmentMismatch(
            "integrated gradients need the package captum, which is not installed; install "
            "compressor with its extra 'explain', or take --method occlusion, which needs nothing"
        )


def require_gradients(task: Task, hiding: Hiding) -> None:
    """Raise `RecipeError` where integrated gradients of a task mean nothing."""
    if not task.explains_by_gradients or not task.reads_tokens:
        raise RecipeError(
            [
                f"--method integrated-gradients: not for {task.name}, whose number is no plain "
                f"function of one row of words; take --method occlusion"
            ]
        )
    if hiding == "removal":
        raise RecipeError(
            [
                "--method integrated-gradients: goes from a text of mask or unknown tokens to the "
                "text, and the tokenizer has neither; take --method occlusion"
            ]
        )


def integrate(
    model: TorchModel, task: Task, question: Question, hiding: Hiding, *, steps: int = STEPS
) -> Gradients:
    """Return the attributions of the pieces of one example.

    A token that stands for characters of several pieces is shared out by its characters.
    """
    from captum.attr import LayerIntegratedGradients

    read = task.read_text(model.preprocessor, question.example)
    [batch] = task.with_hidden(model.preprocessor, question.example, (), hiding)
    inputs = {name: torch.from_numpy(value).to(model.device) for name, value in batch.items()}
    ids = inputs.pop("input_ids")
    whole = task.collect([model.predict(batch)], [batch])

    def number(given: Tensor) -> Tensor:
        rows = {name: value.expand(len(given), -1) for name, value in inputs.items()}
        array = task.output_of(model.module(input_ids=given, **rows))
        return task.explained_tensor(question.original, whole, array)

    table: Any = input_embeddings(model.module)
    method = LayerIntegratedGradients(number, table)
    start = ids.clone()
    hidden = torch.from_numpy(read.texts >= 0).to(ids.device)[None]
    start[hidden] = hiding_id(model.preprocessor, hiding)
    model.module.eval()
    with torch.enable_grad():
        found, error = method.attribute(
            ids,
            baselines=start,
            n_steps=steps,
            internal_batch_size=_ROWS_AT_ONCE,
            return_convergence_delta=True,
        )
    tokens = found.sum(dim=-1)[0].detach().double().cpu().numpy()  # (num_tokens,)
    pieces = [piece for piece in question.pieces if isinstance(piece, Piece)]
    return Gradients(_by_piece(read, pieces, tokens), _rise(number, ids, start), float(error[0]))


def _rise(number: Any, ids: Tensor, start: Tensor) -> float:
    with torch.no_grad():
        return float(number(ids)[0] - number(start)[0])


def _by_piece(read: ReadText, pieces: list[Piece], tokens: Floats) -> Floats:
    """Share the attributions of tokens out to pieces, by the characters in common."""
    found = np.zeros(len(pieces))
    start, end = read.offsets.T
    for place, piece in enumerate(pieces):
        common = np.minimum(end, piece.end) - np.maximum(start, piece.start)
        shares = np.clip(common, 0, None) / np.maximum(end - start, 1)
        found[place] = float((shares * (read.texts == piece.text)) @ tokens)
    return found
