"""Scores do not depend on how examples were batched, and broken logits never become a score."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from compressor.data import Dataset
from compressor.errors import RecipeError
from compressor.measurements import LengthRecord
from compressor.models.torch_model import TorchModel
from compressor.progress import Advance, Silent
from compressor.tasks import Batch
from compressor.verify.evaluation import (
    evaluate,
    mean_length,
    measured_lengths,
    parity_probes,
    predict_outputs,
)


class Broken:
    def predict(self, batch: Batch) -> np.ndarray:
        return np.full((len(batch["input_ids"]), 2), np.nan, dtype=np.float32)


def test_logits_come_back_in_the_order_of_the_split(tiny_bert: TorchModel, text_dataset: Dataset):
    logits = predict_outputs(
        tiny_bert, tiny_bert.task, tiny_bert.preprocessor, text_dataset
    ).numbers
    one_by_one = [
        tiny_bert.predict(tiny_bert.task.encode(tiny_bert.preprocessor, [text]))[0]
        for text in text_dataset.examples
    ]
    assert logits == pytest.approx(np.stack(one_by_one), abs=1e-5)


def test_accuracy_is_the_share_of_right_predictions(tiny_bert: TorchModel, text_dataset: Dataset):
    score = evaluate(tiny_bert, tiny_bert.task, tiny_bert.preprocessor, text_dataset, "accuracy")
    assert text_dataset.labels is not None
    assert score.value == np.mean(score.outcomes == text_dataset.labels)
    assert score.num_examples == 48


class Recorder(Silent):
    """Keeps the details that a bar showed."""

    def __init__(self) -> None:
        self.details: list[str] = []

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        yield lambda amount=1, detail="": self.details.append(detail)


def test_progress_says_how_many_predictions_were_right_so_far(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    progress = Recorder()
    common = (tiny_bert.task, tiny_bert.preprocessor, text_dataset, "accuracy")
    score = evaluate(tiny_bert, *common, progress=progress)
    assert len(progress.details) == 2  # batches of 32 and 16
    assert progress.details[-1] == f"{score.value:.1%} right so far"


def test_logits_that_are_not_finite_are_no_score(tiny_bert: TorchModel, text_dataset: Dataset):
    with pytest.raises(FloatingPointError, match="row 0 of the train split"):
        evaluate(Broken(), tiny_bert.task, tiny_bert.preprocessor, text_dataset, "accuracy")


def test_a_split_without_labels_cannot_be_scored(tiny_bert: TorchModel, text_dataset: Dataset):
    bare = dataclasses.replace(text_dataset, labels=None)
    with pytest.raises(RecipeError, match=r"data\.train: has no labels"):
        evaluate(tiny_bert, tiny_bert.task, tiny_bert.preprocessor, bare, "accuracy")


def test_agreement_compares_with_the_untouched_model_and_needs_no_labels(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    bare = dataclasses.replace(text_dataset, labels=None)
    common = (tiny_bert.task, tiny_bert.preprocessor, bare, "agreement")
    untouched = evaluate(tiny_bert, *common)
    assert untouched.value == 1.0
    predictions = untouched.outcomes.copy()
    predictions[:12] = 1 - predictions[:12]
    reference = dataclasses.replace(untouched, outcomes=predictions)
    assert evaluate(tiny_bert, *common, reference=reference).value == 0.75  # 36 of 48


def test_probabilities_are_the_softmax_of_the_logits(tiny_bert: TorchModel, text_dataset: Dataset):
    common = (tiny_bert.task, tiny_bert.preprocessor, text_dataset)
    logits = predict_outputs(tiny_bert, *common).numbers.astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert evaluate(tiny_bert, *common, "accuracy").kept["probabilities"] == pytest.approx(
        expected, abs=1e-6
    )


def test_the_mean_length_counts_tokens_and_no_padding(
    tiny_bert: TorchModel, text_dataset: Dataset, tiny_vit: TorchModel, image_dataset: Dataset
):
    words = [len(text.split()) + 2 for text in text_dataset.examples]  # every word is one token
    own = tiny_bert.task, tiny_bert.preprocessor
    assert mean_length(*own, text_dataset) == round(sum(words) / 48)
    assert mean_length(tiny_vit.task, tiny_vit.preprocessor, image_dataset) is None


def test_rows_are_read_alone_and_together_the_longest_first(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    probes = parity_probes(tiny_bert.task, tiny_bert.preprocessor, text_dataset, longest=64)
    counts = sorted(len(text.split()) + 2 for text in text_dataset.examples)
    shapes = [probe.inputs["input_ids"].shape for probe in probes]
    assert shapes[:4] == [(1, 64), (1, counts[-1]), (1, counts[24]), (1, counts[0])]
    assert shapes[4:6] == [(4, 64), (4, 64)]
    assert [probe.other_side for probe in probes[4:6]] == [False, True]
    assert shapes[-1] == (1, 64)
    assert probes[0].inputs["attention_mask"].all()  # no padding makes it so long
    assert probes[4].rows == tuple(row for probe in probes[:4] for row in probe.rows)


def test_the_longest_row_is_cut_where_the_artifact_cuts_and_not_where_scores_did(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    task = dataclasses.replace(tiny_bert.task, max_length=4)
    probes = parity_probes(task, tiny_bert.preprocessor, text_dataset, longest=10)
    assert max(probe.inputs["input_ids"].shape[1] for probe in probes) == 10


def test_pairs_are_made_as_long_as_the_artifact_reads(tiny_bert: TorchModel, text_dataset: Dataset):
    pairs = tuple(zip(text_dataset.examples, text_dataset.examples[::-1], strict=True))
    dataset = dataclasses.replace(text_dataset, examples=pairs)
    probes = parity_probes(tiny_bert.task, tiny_bert.preprocessor, dataset, longest=64)
    assert probes[0].inputs["input_ids"].shape == (1, 64)
    assert set(probes[0].inputs["token_type_ids"][0]) == {0, 1}


def test_long_texts_are_read_two_at_a_time(tiny_bert: TorchModel, text_dataset: Dataset):
    tiny_bert.preprocessor.model_max_length = 129
    probes = parity_probes(tiny_bert.task, tiny_bert.preprocessor, text_dataset, longest=129)
    long = [item for item in probes if item.inputs["input_ids"].shape[1] == 129]
    assert [len(item.rows) for item in long] == [1, 2, 2, 1]
    # The shortest of all, of which little but padding is read.
    shortest = min(len(text.split()) + 2 for text in text_dataset.examples)
    assert long[1].inputs["attention_mask"].sum(axis=1).tolist() == [129, shortest]


def test_images_are_read_alone_and_together(tiny_vit: TorchModel, image_dataset: Dataset):
    probes = parity_probes(tiny_vit.task, tiny_vit.preprocessor, image_dataset)
    assert {len(probe.rows) for probe in probes} == {1, 3, 8, 4}


def test_the_longest_measured_text_and_those_that_were_cut_are_counted(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    task = dataclasses.replace(tiny_bert.task, max_length=8)
    tokens = [len(text.split()) + 2 for text in text_dataset.examples]
    own = (tiny_bert.preprocessor, [text_dataset, text_dataset])
    found = measured_lengths(task, *own, checkpoint=64, artifact=32)
    cut = 2 * sum(count > 8 for count in tokens)
    assert found == LengthRecord(64, 32, 8, 8, 96, cut)
    whole = measured_lengths(tiny_bert.task, *own, checkpoint=64, artifact=32)
    assert whole == LengthRecord(64, 32, 32, max(tokens), 96, 0)
