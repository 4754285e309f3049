"""Rows without labels that a pass names itself, beside the splits of `data`."""

from __future__ import annotations

import numpy as np

from compressor.data.readers import read_table
from compressor.data.sampling import evenly_spread
from compressor.data.settings import DataSettings, SplitSource
from compressor.data.splits import Dataset
from compressor.errors import RecipeError
from compressor.tasks import Task


def read_further_rows(source: SplitSource, task: Task) -> Dataset:
    """Return the rows of `source` as `task` reads them; no label is read.

    Raises `RecipeError` for rows that cannot be read so, and where there are none.
    """
    # Whatever is scored: no label is read.
    columns = task.columns(task.metric_of_any_rows(labelled=False))
    own = DataSettings(train=source).input_columns(source, task.input_column)
    columns.require_columns(own, labelled=False)
    table = read_table(source, own, ())
    rows = np.arange(len(table))
    if source.max_rows is not None:
        rows = evenly_spread(len(table), source.max_rows)
    if len(rows) == 0:
        raise RecipeError(f"{table.name}: has no rows")
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    unfolded = columns.unfold(columns.examples(table, own, rows.data), None, whole=False)
    return Dataset("unlabelled", unfolded.examples, None, rows, table.name)
