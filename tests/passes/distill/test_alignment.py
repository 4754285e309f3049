from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError
from sklearn.linear_model import Ridge

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass
from compressor.passes.base import Ahead
from compressor.passes.distill.alignment import aligned, fitted
from compressor.passes.distill.apply import look_ahead
from compressor.passes.distill.settings import Distill
from compressor.progress import SILENT
from compressor.tasks import load_task
from compressor.tasks.pooling import Pooling
from compressor.tasks.sentence_encoder import AutoSentenceEncoder, pooling_of
from compressor.training.losses import vector_distance

NARROW = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


@pytest.fixture
def texts(text_dataset: Dataset) -> Dataset:
    return dataclasses.replace(text_dataset, labels=None)


@pytest.fixture
def narrow_dir(tiny_encoder: TorchModel, tmp_path: Path) -> Path:
    """Return a saved random encoder of 16 numbers, which sentence-transformers does not scale."""
    torch.manual_seed(1)
    vocabulary = len(tiny_encoder.preprocessor)
    config = transformers.BertConfig(**NARROW, vocab_size=vocabulary)
    module = AutoSentenceEncoder(Pooling()).from_config(config, dtype=torch.float32)
    TorchModel(module, tiny_encoder.preprocessor, tiny_encoder.task).save(tmp_path / "narrow")
    return tmp_path / "narrow"


def vectors(model: TorchModel, texts: Dataset) -> np.ndarray:
    return model.predict(model.task.encode(model.preprocessor, list(texts.examples)))


def mean_cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(
        torch.nn.functional.cosine_similarity(*map(torch.from_numpy, (first, second))).mean()
    )


def test_the_map_begins_as_a_ridge_regression():
    random = np.random.default_rng(0)
    inputs = random.normal(size=(40, 3)).astype(np.float32) + 2
    outputs = random.normal(size=(40, 5)).astype(np.float32)
    centred = inputs - inputs.mean(axis=0)
    strength = 1e-3 * float(np.mean(np.sum(centred**2, axis=0)))

    weight, bias = fitted(inputs, outputs)

    expected = Ridge(alpha=strength).fit(inputs.astype(np.float64), outputs.astype(np.float64))
    np.testing.assert_allclose(weight, expected.coef_, atol=1e-5)
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-5)


def test_the_loss_is_the_plain_squared_distance():
    student = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0], [3.0, 4.0]])

    assert vector_distance(student, teacher).mean.item() == pytest.approx((4 + 25) / 2)


def test_a_narrow_student_answers_in_the_teachers_space_also_when_it_is_loaded_again(
    tiny_encoder: TorchModel,
    tiny_encoder_dir: Path,
    narrow_dir: Path,
    texts: Dataset,
    make_context: Callable[..., PassContext],
    notes: list[str],
    tmp_path: Path,
):
    wanted = vectors(tiny_encoder, texts)
    begun = load_checkpoint(narrow_dir)
    aligned(begun, tiny_encoder, texts, 0, SILENT)
    step = Distill(
        student=str(narrow_dir),
        alignment="leaf",
        max_steps=40,
        epochs=100,
        learning_rate=3e-3,
        dropout=False,
    )
    context = make_context(tiny_encoder_dir, train=texts)

    student = apply_pass(step, tiny_encoder, context)

    found = vectors(student, texts)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    start = mean_cosine(wanted, vectors(begun, texts))
    assert 1 - mean_cosine(wanted, found) < 0.7 * (1 - start)
    assert any("vectors of 16 numbers go through a matrix, which ships, to" in n for n in notes)
    facts = context.facts["alignment"]
    assert (facts["student_width"], facts["teacher_width"], facts["rows"]) == (16, 32, 48)
    student.save(tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved")
    np.testing.assert_allclose(vectors(again, texts), found, atol=1e-6)
    assert pooling_of(again.module).normalize
    assert [step.out_features for step in pooling_of(again.module).dense] == [32]


def test_without_a_map_nothing_is_put_behind_a_student_of_the_teachers_width(
    tiny_encoder: TorchModel,
    tiny_encoder_dir: Path,
    texts: Dataset,
    make_context: Callable[..., PassContext],
    notes: list[str],
):
    step = Distill(alignment="leaf", max_steps=1)

    student = apply_pass(step, tiny_encoder, make_context(tiny_encoder_dir, train=texts))

    assert pooling_of(student.module).dense == ()
    assert not any("matrix" in note for note in notes)


def test_a_run_looks_ahead_to_the_student_with_its_map(
    tiny_encoder: TorchModel, narrow_dir: Path, texts: Dataset
):
    step = Distill(student=str(narrow_dir), alignment="leaf")
    ahead = Ahead(tiny_encoder, {"train": texts}, seed=0)

    student = look_ahead(step, tiny_encoder, ahead)

    assert student.task.vector_width(student.module.config) == 32
    with pytest.raises(StepFailed, match="vectors have 16 numbers, the teacher's 32"):
        look_ahead(Distill(student=str(narrow_dir)), tiny_encoder, ahead)


def test_vectors_that_are_not_finite_are_refused(
    tiny_encoder: TorchModel, narrow_dir: Path, texts: Dataset
):
    student = load_checkpoint(narrow_dir)
    with torch.no_grad():
        student.module.base_model.embeddings.word_embeddings.weight[:] = torch.inf

    with pytest.raises(StepFailed, match=r"alignment: .* are not finite; check both checkpoints"):
        aligned(student, tiny_encoder, texts, 0, SILENT)


def test_alignment_is_for_vectors_and_for_a_loss_on_them():
    step = Distill(alignment="leaf")

    assert [key for key, _ in step.unfit_for(load_task("text-classification"))] == ["alignment"]
    assert list(step.unfit_for(load_task("sentence-embedding"))) == []
    assert "alignment" not in Distill().settings
    assert step.settings["alignment"] == "leaf"
    with pytest.raises(ValidationError, match="alignment would do nothing with logits_weight 0"):
        Distill(alignment="leaf", logits_weight=0, hidden_weight=1)


def test_another_teachers_space_cannot_be_compared_with_the_untouched_checkpoints(
    tiny_encoder_dir: Path,
):
    assert Distill(alignment="leaf").incomparable is None
    other = Distill(alignment="leaf", teacher=str(tiny_encoder_dir))
    assert other.incomparable == "puts vectors into the space of another checkpoint's"


def test_what_cannot_be_mapped_says_so():
    with pytest.raises(ValueError, match="no matrix can follow what image-features gives"):
        load_task("image-features").map_vectors(None, None, normalize=True)
