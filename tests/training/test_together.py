"""A model that is sent to another process computes there what it computes here."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import word_piece_tokenizer

from compressor.data import Dataset
from compressor.models.families.layers import find_encoder
from compressor.models.structure import keep_layers, remove_attention
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.own_code import OwnFunction
from compressor.tasks.own_metric import with_own_metric
from compressor.training.activation_hooks import recording
from compressor.training.teacher import _look_inside
from compressor.training.together import _Sender

TEXTS = ("a very good film", "dull", "the plot was quite poor and the story terrible")


def sent(model: TorchModel) -> TorchModel:
    stream = io.BytesIO()
    _Sender(stream).dump(model)
    received = pickle.loads(stream.getvalue())  # noqa: S301 - what was just written
    assert isinstance(received, TorchModel)
    return received


def outputs(model: TorchModel) -> np.ndarray:
    return model.predict(model.task.encode(model.preprocessor, TEXTS))


def test_a_classifier_and_its_tokenizer_are_the_same(tiny_bert: TorchModel):
    received = sent(tiny_bert)
    assert (received.labels, received.task) == (tiny_bert.labels, tiny_bert.task)
    np.testing.assert_array_equal(outputs(received), outputs(tiny_bert))


def test_a_sentence_encoder_is_sent_with_its_pooling(tiny_encoder: TorchModel):
    np.testing.assert_array_equal(outputs(sent(tiny_encoder)), outputs(tiny_encoder))


def test_an_image_encoder_is_sent_with_its_vectors(tiny_vit_dir: Path, image_dataset: Dataset):
    model = load_checkpoint(tiny_vit_dir, task="image-features")
    batch = model.task.encode(model.preprocessor, image_dataset.examples[:3])
    np.testing.assert_array_equal(sent(model).predict(batch), model.predict(batch))


def test_a_model_that_answers_questions_is_sent_with_its_forward(
    tiny_bert_dir: Path, tmp_path: Path
):
    config = transformers.BertConfig.from_pretrained(tiny_bert_dir)
    transformers.BertForQuestionAnswering(config).save_pretrained(tmp_path)
    word_piece_tokenizer().save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path)
    batch = model.task.encode(model.preprocessor, [("what film is it", "the film was great")])
    np.testing.assert_array_equal(sent(model).predict(batch), model.predict(batch))


def test_a_pruned_model_keeps_its_shape(tiny_bert: TorchModel):
    encoder = find_encoder(tiny_bert.module)
    keep_layers(encoder, [1])
    remove_attention(find_encoder(tiny_bert.module).layers[0])
    np.testing.assert_array_equal(outputs(sent(tiny_bert)), outputs(tiny_bert))


def test_hooks_and_gradients_stay_behind(tiny_bert: TorchModel, text_dataset: object):
    tiny_bert.module.train()
    for value in tiny_bert.module.parameters():
        value.grad = torch.ones_like(value)
    linear = tiny_bert.module.classifier
    with recording([linear]):
        _look_inside(tiny_bert, text_dataset, maps=False)  # type: ignore[arg-type]  # a split
        received = sent(tiny_bert)
    assert not received.module.classifier._forward_hooks
    assert all(value.grad is None for value in received.module.parameters())


def test_code_of_the_users_own_is_not_sent(tiny_bert: TorchModel, tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("def score(given):\n    return [1.0] * given.num_units\n")
    function = OwnFunction("budget.metric", "budget.metric", path, "score", "", lambda given: [1.0])
    own = with_own_metric(tiny_bert.task, function, tiny_bert.labels)
    received = sent(replace(tiny_bert, task=own))
    assert received.task == tiny_bert.task
    assert type(received.task) is type(tiny_bert.task)


@pytest.mark.parametrize("teacher_is_student", [True, False])
def test_what_is_one_model_here_is_one_there(
    tiny_bert: TorchModel, tiny_bert_dir: Path, teacher_is_student: bool
):
    other = tiny_bert if teacher_is_student else load_checkpoint(tiny_bert_dir)
    stream = io.BytesIO()
    _Sender(stream).dump((tiny_bert, other))
    first, second = pickle.loads(stream.getvalue())  # noqa: S301 - what was just written
    assert (first is second) == teacher_is_student
