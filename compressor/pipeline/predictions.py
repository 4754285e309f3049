"""A few predictions of the finished artifact beside the original's: what a person tries first.

They are made through `load_artifact`, as a user of the artifact makes them, on rows of the search
split: the certification rows are for the proof alone. The rows are chosen by the original's
predictions, so that nothing about the artifact decides what is shown of it.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from compressor.artifact import Artifact
from compressor.data import Dataset
from compressor.measurements import PredictionRecord, Score
from compressor.pipeline.flips import shown_text, thumbnail
from compressor.tasks import candidates, cosines, nearest

NUM_SHOWN = 3
_EASY_TO_READ = 80  # characters; rows with more of them are shown where there are no others
_CANDIDATES = 2_000  # texts, at most, among which neighbors are looked for


def sample_predictions(
    artifact: Artifact,
    split: Dataset,
    baseline: Score,
    final: Score,
    *,
    with_examples: bool,
) -> tuple[PredictionRecord, ...]:
    """Return what `artifact` and the original say of a few rows of `split`.

    Of a classifier, one row of each class that the original predicts, in turn. Of an encoder, the
    texts whose nearest other text the original finds nearest, and what the artifact finds instead.
    `baseline` and `final` are the scores of both on the split; `with_examples` decides whether
    texts and images are shown.
    """
    if baseline.vectors is None or final.vectors is None:
        return _classes(artifact, split, baseline, with_examples=with_examples)
    return _neighbors(artifact, split, baseline.vectors, final.vectors, with_examples=with_examples)


def _classes(
    artifact: Artifact, split: Dataset, baseline: Score, *, with_examples: bool
) -> tuple[PredictionRecord, ...]:
    labels = artifact.manifest["labels"]
    rows = _one_of_each_class(split, baseline.outcomes)
    found = artifact([split.examples[row] for row in rows])
    return tuple(
        PredictionRecord(
            row=int(split.rows[row]),
            text=shown_text(split.examples[row]) if with_examples else None,
            before=labels[before := int(baseline.outcomes[row])],
            after=after["label"],
            before_score=None
            if baseline.probabilities is None
            else _rounded(baseline.probabilities[row, before]),
            after_score=_rounded(after["score"]),
            label=None if split.labels is None else labels[int(split.labels[row])],
            image=thumbnail(split.examples[row]) if with_examples else None,
        )
        for row, after in zip(rows, found, strict=True)
    )


def _one_of_each_class(split: Dataset, predicted: NDArray[np.int64]) -> list[int]:
    """Return positions: the first short row of each class, then the second, up to `NUM_SHOWN`."""
    queues: dict[int, list[int]] = defaultdict(list)
    for row in sorted(range(len(split)), key=lambda row: _is_long(split, row)):
        queues[int(predicted[row])].append(row)
    in_turn = [(turn, kind, row) for kind in queues for turn, row in enumerate(queues[kind])]
    return [row for _, _, row in heapq.nsmallest(NUM_SHOWN, in_turn)]


def _neighbors(
    artifact: Artifact,
    split: Dataset,
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    *,
    with_examples: bool,
) -> tuple[PredictionRecord, ...]:
    texts = [str(example) for example in split.examples]
    places = candidates(texts)[:_CANDIDATES]
    pairs = _nearest_of_each(before, texts, places)
    rows = list(_apart(split, pairs))
    queries = artifact([texts[row] for row in rows])

    def named(row: int) -> str:
        text = shown_text(texts[row]) if with_examples else None
        return f"row {split.rows[row]}" if text is None else text

    return tuple(
        PredictionRecord(
            row=int(split.rows[row]),
            text=shown_text(texts[row]) if with_examples else None,
            before=named(pairs[row][0]),
            after=named(now),
            before_score=_rounded(pairs[row][1]),
            after_score=_rounded(similarity),
        )
        for row, query in zip(rows, queries, strict=True)
        for now, similarity in [_nearest(query, after, texts, row, places)]
    )


def _nearest_of_each(
    vectors: NDArray[np.float32], texts: Sequence[str], places: NDArray[np.int64]
) -> dict[int, tuple[int, float]]:
    """Return what `_nearest` does for each of `places`, by their rows, in products of matrices."""
    others = places[nearest(vectors[places], [texts[place] for place in places.tolist()], 1)[:, 0]]
    similarities = cosines(vectors[places], vectors[others])
    rows = zip(places.tolist(), others.tolist(), similarities.tolist(), strict=True)
    return {row: (other, similarity) for row, other, similarity in rows}


def _nearest(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    texts: Sequence[str],
    row: int,
    places: NDArray[np.int64],
) -> tuple[int, float]:
    """Return the nearest other text to that of `row`, and its cosine similarity to `query`."""
    similarities = cosines(np.broadcast_to(query, (len(places), len(query))), vectors[places])
    others = np.array([texts[place] != texts[row] for place in places.tolist()])
    best = int(np.where(others, similarities, -np.inf).argmax())
    return int(places[best]), float(similarities[best])


def _apart(split: Dataset, pairs: dict[int, tuple[int, float]]) -> Iterator[int]:
    """Yield the rows to show, the nearest pairs first; no text stands in two of them."""
    seen: set[int] = set()
    order = sorted(pairs, key=lambda row: (_is_long(split, row), -pairs[row][1], row))
    for row in order:
        if row in seen or pairs[row][0] in seen:
            continue
        seen.update((row, pairs[row][0]))
        yield row
        if len(seen) == 2 * NUM_SHOWN:
            return


def _is_long(split: Dataset, row: int) -> bool:
    example = split.examples[row]
    if isinstance(example, np.ndarray):
        return False
    return len(example if isinstance(example, str) else "".join(example)) > _EASY_TO_READ


def _rounded(value: float) -> float:
    # Four digits are what anyone reads, and they do not change with how many rows go in a batch.
    return round(float(value), 4)
