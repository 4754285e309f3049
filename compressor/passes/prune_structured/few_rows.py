"""Calibration rows of passes that solve least squares, and what is done where they are few.

The squared error of a layer on the rows that were read always falls; on other rows it may rise.
What helps, in this order: rows of the train split, which nothing is judged by; a firmer ridge, as
firm as rows that were left out of the fit say; and no fit where those come out best without one. So
a number of rows that is too small for anything is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compressor.data import Dataset
from compressor.data.sampling import drawn_by_length
from compressor.errors import StepFailed
from compressor.models.families.layers import Encoder
from compressor.models.torch_model import TorchModel
from compressor.passes.base import PassContext
from compressor.passes.prune_structured.fisher import token_mask
from compressor.passes.prune_structured.layerwise import TensorFiles, run_layer
from compressor.passes.prune_structured.least_squares import FEWEST_ROWS, RidgeChoice
from compressor.passes.prune_structured.reconstruct import CalibrationInputs
from compressor.tasks import length_of
from compressor.words import counted, verb_for

TOKENS_FOR_EACH_UNKNOWN = 4  # from where on a ridge that is chosen gains nothing
_ROWS_PER_BATCH = 32


@dataclass(frozen=True)
class RowsRead:
    """The rows that a pass reads, and how many it would need."""

    inputs: CalibrationInputs
    own_rows: int  # of the calibration split; the others are of the train split
    own_tokens: int  # that differ, of those rows
    tokens_needed: int

    @property
    def are_few(self) -> bool:
        """Return whether least squares on tokens needs a firmer ridge than the settings say."""
        return self.inputs.num_distinct_tokens < self.tokens_needed

    @property
    def borrowed(self) -> int:
        """Return how many rows of the train split are among them."""
        return self.inputs.num_rows - self.own_rows

    @property
    def summary(self) -> str:
        """Return what was read, in words."""
        rows = counted(self.inputs.num_rows, "calibration row")
        return (
            f"{'measured' if self.are_few else 'least squares'} on {rows} without labels, "
            f"{self.inputs.mean_length:.1f} tokens each on average"
        )

    def tell(self, context: PassContext) -> None:
        """Note that rows of the train split are read."""
        if self.borrowed:
            _say(
                context,
                f"the calibration split has {self.own_tokens:,} tokens that differ, and least "
                f"squares wants {self.tokens_needed:,}: {counted(self.borrowed, 'row')} of the "
                f"train split {verb_for(self.borrowed, 'was', 'were')} read too, without labels "
                f"({self.inputs.num_distinct_tokens:,} tokens in all)",
            )

    def record(
        self, ridge: float, choices: Mapping[str, RidgeChoice], context: PassContext
    ) -> None:
        """Record what least squares read and chose, and note it where rows are few."""
        method, reason = self._method(choices)
        if self.are_few:
            _say(context, reason)
        fits = {
            place: {"ridge": choice.ridge, "error_on_rows_left_out": choice.held_out}
            for place, choice in choices.items()
        }
        context.record(
            "reconstruction",
            {
                "method": method,
                "reason": reason,
                "rows": self.inputs.num_rows,
                "rows_of_train": self.borrowed,
                "rows_that_differ": self.inputs.num_distinct_rows,
                "tokens_that_differ": self.inputs.num_distinct_tokens,
                "tokens_needed": self.tokens_needed,
                "ridge": ridge,
                "fits": fits,
            },
        )

    def _method(self, choices: Mapping[str, RidgeChoice]) -> tuple[str, str]:
        """Return what was done and why, in words."""
        tokens, needed = self.inputs.num_distinct_tokens, self.tokens_needed
        if not choices:
            return "least squares", f"{tokens:,} tokens that differ, {needed:,} are enough"
        rows = self.inputs.num_distinct_rows
        few = (
            f"few rows for least squares ({counted(rows, 'row')} and {tokens:,} tokens that "
            f"differ; {needed:,} tokens would be plenty)"
        )
        ridges = [choice.ridge for choice in choices.values() if choice.ridge is not None]
        if ridges:
            unfitted = len(choices) - len(ridges)
            error = float(np.mean([choice.held_out for choice in choices.values()]))
            return "least squares, each ridge chosen on rows left out", (
                f"{few}: the ridge of each fit is the one with the least error on rows left out, "
                f"{min(ridges):.2g} to {max(ridges):.2g}; {unfitted} of {len(choices)} fits gain "
                f"nothing there and were not made; on average that error is {error:.0%} of the "
                f"error without a fit"
            )
        if rows < FEWEST_ROWS:
            return "no least squares", (
                f"{few}: whether a fit helps on other rows takes {FEWEST_ROWS} rows to tell, so "
                f"the weights that stay are as they were; give more calibration rows that differ"
            )
        return "no least squares", (
            f"{few}: no fit lowers the error on rows left out, so the weights that stay are as "
            f"they were"
        )


def read_rows(
    model: TorchModel, encoder: Encoder, context: PassContext, max_rows: int, *, unknowns: int
) -> RowsRead:
    """Encode at most `max_rows` of the calibration split, and of the train split if they are few.

    `unknowns` are those of the largest fit.

    Raises `StepFailed` when there is no row.
    """
    directory, own = context.work_dir / "calibration", context.calibration
    inputs = store_inputs(model, encoder, own, max_rows, context.seed, directory)
    needed = TOKENS_FOR_EACH_UNKNOWN * unknowns
    rows = RowsRead(inputs, inputs.num_rows, inputs.num_distinct_tokens, needed)
    room = max_rows - len(own)
    if not rows.are_few or own.spare is None or room <= 0:
        return rows
    more = store_inputs(model, encoder, own.joined(room), max_rows, context.seed, directory)
    return replace(rows, inputs=more)


def store_inputs(
    model: TorchModel,
    encoder: Encoder,
    dataset: Dataset,
    max_rows: int,
    seed: int,
    directory: Path,
) -> CalibrationInputs:
    """Encode some rows of `dataset`, drawn by the seed, of similar length in each batch.

    The chance of a row grows with its length: sums over tokens are what is measured, and short rows
    tell little of how tokens act in long ones. Batches are in random order, so that the first ones
    stand for all.

    Raises `StepFailed` when there are none.
    """
    random = np.random.default_rng(seed)
    chosen = drawn_by_length(dataset.examples, max_rows, random)
    if len(chosen) == 0:
        raise StepFailed(
            f"{dataset.source}: measuring the model needs calibration rows, got none; give "
            f"data.calibration at least one row"
        )
    order = sorted(chosen.tolist(), key=lambda row: length_of(dataset.examples[row]))
    files = TensorFiles(directory, model.device)
    seen: dict[bytes, int] = {}
    numbers = []
    num_tokens = num_distinct = 0
    starts = random.permutation(range(0, len(order), _ROWS_PER_BATCH))
    for batch, start in enumerate(starts):
        examples = [dataset.examples[row] for row in order[start : start + _ROWS_PER_BATCH]]
        encoded = model.task.encode(model.preprocessor, examples)
        inputs = {name: torch.from_numpy(value).to(model.device) for name, value in encoded.items()}
        files.put("inputs", batch, inputs)
        of_batch = []
        for content, length in _rows(encoder, inputs):
            num_tokens += length
            num_distinct += 0 if content in seen else length
            of_batch.append(seen.setdefault(content, len(seen)))
        numbers.append(tuple(of_batch))
    return CalibrationInputs(
        files,
        num_batches=len(starts),
        num_rows=len(order),
        num_distinct_rows=len(seen),
        num_tokens=num_tokens,
        num_distinct_tokens=num_distinct,
        numbers=tuple(numbers),
    )


def _rows(encoder: Encoder, inputs: Mapping[str, Tensor]) -> Iterator[tuple[bytes, int]]:
    """Yield what tells a row from others, and its number of tokens without padding."""
    if "attention_mask" in inputs and "input_ids" in inputs:
        ids = inputs["input_ids"].cpu()
        mask = token_mask(inputs, *ids.shape).cpu()
        for row, kept in zip(ids, mask, strict=True):
            yield sha256(row[kept].numpy().tobytes()).digest(), int(kept.sum())
    else:
        first = {name: value[:1] for name, value in inputs.items()}
        trace = run_layer(encoder, 0, first, None, attention_only=True)
        for row in inputs[encoder.module.main_input_name].cpu():
            yield sha256(row.numpy().tobytes()).digest(), trace.attention.output.shape[1]


def each_batch(
    calibration: CalibrationInputs, advance: Callable[[], object]
) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of `calibration`, and call `advance` when one has been used."""
    for batch in range(len(calibration)):
        yield calibration[batch]
        advance()


def _say(context: PassContext, text: str) -> None:
    context.note(text)
    context.progress.result(f"{text}.")
