"""A few predictions of the finished artifact beside the original's: what a person tries first.

They are made through `load_artifact`, as a user of the artifact makes them, on rows of the search
split: the certification rows are for the proof alone. The rows are chosen by the original's
predictions, so that nothing about the artifact decides what is shown of it.
"""

from __future__ import annotations

from compressor.artifact import Artifact
from compressor.data import Dataset
from compressor.measurements import PredictionRecord, Score
from compressor.pipeline.flips import asked, named, thumbnail

NUM_SHOWN = 3


def sample_predictions(
    artifact: Artifact,
    split: Dataset,
    baseline: Score,
    final: Score,
    *,
    with_examples: bool,
) -> tuple[PredictionRecord, ...]:
    """Return what `artifact` and the original say of a few rows of `split`, the task's `samples`.

    `baseline` and `final` are the scores of both on the split; `with_examples` decides whether
    texts and images are shown.
    """
    found = artifact.task.samples(
        baseline, final, split.truth(), artifact.manifest["labels"], artifact, NUM_SHOWN
    )
    return tuple(
        PredictionRecord(
            row=int(split.rows[item.position]),
            text=asked(split, item) if with_examples else None,
            before=named(split, item, item.before, with_examples=with_examples),
            after=named(split, item, item.after, with_examples=with_examples),
            before_score=_rounded(item.before_score),
            after_score=_rounded(item.after_score),
            label=item.label,
            image=thumbnail(split.examples[item.position]) if with_examples else None,
        )
        for item in found
    )


def _rounded(value: float | None) -> float | None:
    # Four digits are what anyone reads, and they do not change with how many rows go in a batch.
    return None if value is None else round(float(value), 4)
