"""Arguments and rows of the scripts that compare ways to compress a text classifier."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from compressor.data import Dataset, DataSettings, SplitSource, load_splits
from compressor.models.torch_model import TorchModel
from compressor.tasks.columns import TextColumns

_ERRORS = 1.96  # standard errors on each side, 95%


def quieten() -> None:
    """Compute on one thread, and print nothing but what the script prints."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()


def new_parser(description: str | None, *, train: str) -> argparse.ArgumentParser:
    """Return a parser of a checkpoint and its rows; `train` says what those rows are for."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--train", required=True, help=train)
    parser.add_argument("--search", required=True, help="labelled rows to measure accuracy on")
    parser.add_argument("--text", required=True, help="column of the text")
    parser.add_argument("--search-text", help="column of the text in --search, where it differs")
    parser.add_argument("--label", default="label", help="column of the label")
    return parser


def read_splits(
    arguments: argparse.Namespace,
    model: TorchModel,
    needed: tuple[str, ...],
    *,
    max_rows: int | None = None,
    seed: int = 0,
) -> dict[str, Dataset]:
    """Read the `needed` splits; the rows of --train are `train`, or `calibration` without one."""
    train = SplitSource(path=arguments.train, max_rows=max_rows)
    settings = DataSettings(
        text=arguments.text,
        label=arguments.label,
        search=SplitSource(path=arguments.search, text=arguments.search_text),
        train=train if "train" in needed else None,
        calibration=None if "train" in needed else train,
    )
    return load_splits(
        settings, label_names=model.labels, columns=TextColumns(), needed=needed, seed=seed
    )


def points_lost(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> dict[str, float]:
    """Return the points of accuracy lost, by which rows were right, and what the rows can tell.

    `within` is 1.96 standard errors of the difference.
    """
    lost = 100 * (before.astype(float) - after)
    within = _ERRORS * float(lost.std(ddof=1)) / len(lost) ** 0.5
    return {"points_lost": float(lost.mean()), "within": within}


def set_aside(texts: Sequence[str], count: int) -> tuple[list[int], list[int]]:
    """Return rows to judge by and the rows that have nothing to do with them.

    The first are `count` rows of five words or more that no other row repeats, the same in every
    run; the second leave out what is a part of one of them, as many rows of SST-2 are.
    """
    stripped = [text.strip() for text in texts]
    everything = "\n".join(stripped)
    held: list[int] = []
    for row in np.random.RandomState(12345).permutation(len(texts)).tolist():
        if len(held) == count:
            break
        if len(stripped[row].split()) >= 5 and everything.count(stripped[row]) == 1:
            held.append(row)
    inside = "".join(f" \n {stripped[row]} \n " for row in held)
    rest = [row for row, text in enumerate(stripped) if f" {text} " not in inside]
    return held, rest
