import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.training.recovery import distill
from compressor.training.settings import DistillSettings
from compressor.training.teacher import TeacherLogits, attention_maps_in, check_layers
from compressor.training.trainer import TrainingRun

LOGITS = DistillSettings(max_steps=1)
HIDDEN = DistillSettings(max_steps=1, hidden_weight=1.0)
ATTENTION = DistillSettings(max_steps=1, attention_weight=1.0)


@pytest.fixture
def teacher(tiny_bert_dir: Path) -> TorchModel:
    return load_checkpoint(tiny_bert_dir)


@pytest.fixture
def other_teacher(tiny_bert: TorchModel) -> TorchModel:
    """Return a wider and deeper teacher with the same labels and tokenizer."""
    config = transformers.BertConfig(
        vocab_size=tiny_bert.module.config.vocab_size,
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    module = transformers.BertForSequenceClassification(config).eval()
    return TorchModel(module, tiny_bert.preprocessor, tiny_bert.task)


def add_word(model: TorchModel) -> None:
    model.preprocessor.add_tokens(["zebra"])
    model.module.resize_token_embeddings(len(model.preprocessor))


def test_logits_are_those_of_the_teacher_in_the_order_asked_for(
    teacher: TorchModel, text_dataset: Dataset
):
    logits = TeacherLogits(teacher, text_dataset)
    everything = teacher.predict(teacher.task.encode(teacher.preprocessor, text_dataset.examples))

    first = logits(torch.tensor([3, 40, 7]))
    second = logits(torch.tensor([7, 1]))

    np.testing.assert_allclose(first.numpy(), everything[[3, 40, 7]], atol=1e-5)
    np.testing.assert_allclose(second.numpy(), everything[[7, 1]], atol=1e-5)


def test_a_teacher_that_answers_with_nan_is_refused(teacher: TorchModel, text_dataset: Dataset):
    with torch.no_grad():
        teacher.module.classifier.bias[0] = float("nan")

    with pytest.raises(ValueError, match=r"teacher's logits are not finite .* \[3, 40\]"):
        TeacherLogits(teacher, text_dataset)(torch.tensor([3, 40]))


def test_labels_in_another_order_are_refused(
    tiny_bert: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    teacher.module.config.id2label = {0: "positive", 1: "negative"}
    expected = (
        r"teacher's labels are \['positive', 'negative'\], the student's "
        r"\['negative', 'positive'\]"
    )

    with pytest.raises(ValueError, match=expected):
        distill(tiny_bert, teacher, text_dataset, LOGITS, training_run)


def test_label_weight_without_labels_is_refused(
    tiny_bert: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    unlabelled = dataclasses.replace(text_dataset, labels=None)
    settings = DistillSettings(label_weight=0.5)

    with pytest.raises(ValueError, match="label_weight above 0 needs labels"):
        distill(tiny_bert, teacher, unlabelled, settings, training_run)


def test_an_empty_split_is_refused(
    tiny_bert: TorchModel, teacher: TorchModel, training_run: TrainingRun
):
    empty = Dataset("train", (), None, np.arange(0), "empty.tsv")

    with pytest.raises(ValueError, match=r"empty\.tsv: the split 'train' is empty"):
        distill(tiny_bert, teacher, empty, HIDDEN, training_run)


def test_hidden_states_of_another_width_are_refused(
    tiny_bert: TorchModel,
    other_teacher: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
):
    with pytest.raises(ValueError, match="the student's have 32 and the teacher's 48"):
        distill(tiny_bert, other_teacher, text_dataset, HIDDEN, training_run)


def test_attention_of_another_width_and_number_of_heads_can_be_learnt(
    tiny_bert: TorchModel,
    other_teacher: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
):
    assert distill(tiny_bert, other_teacher, text_dataset, ATTENTION, training_run).steps == 1


def test_layers_are_spread_evenly_unless_a_map_is_given(
    tiny_bert: TorchModel, other_teacher: TorchModel, text_dataset: Dataset
):
    with attention_maps_in(tiny_bert, other_teacher, wanted=True):
        default = check_layers(tiny_bert, other_teacher, text_dataset, ATTENTION, None)
        given = check_layers(tiny_bert, other_teacher, text_dataset, ATTENTION, [(1, 0)])

    assert default == ((0, 1), (1, 3))
    assert given == [(1, 0)]


def test_a_layer_map_that_names_a_missing_layer_is_refused(
    tiny_bert: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    with pytest.raises(ValueError, match=r"\(0, 2\) is out of range; the student has 2 layers"):
        distill(tiny_bert, teacher, text_dataset, HIDDEN, training_run, layer_map=[(1, 1), (0, 2)])


def test_hidden_states_over_another_vocabulary_are_refused(
    tiny_bert: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    size = len(teacher.preprocessor)
    add_word(teacher)

    with pytest.raises(ValueError, match=f"{size + 1} entries, the student's {size}"):
        distill(tiny_bert, teacher, text_dataset, HIDDEN, training_run)


def test_logits_can_be_learnt_over_another_vocabulary(
    tiny_bert: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    add_word(teacher)

    assert distill(tiny_bert, teacher, text_dataset, LOGITS, training_run).steps == 1


def test_hidden_states_over_images_of_another_size_are_refused(
    tiny_vit: TorchModel, tiny_vit_dir: Path, image_dataset: Dataset, training_run: TrainingRun
):
    teacher = load_checkpoint(tiny_vit_dir)
    teacher.preprocessor.size = {"height": 16, "width": 16}

    with pytest.raises(ValueError, match=r"reads examples in another way .*\(8, 1, 16, 16\)"):
        distill(tiny_vit, teacher, image_dataset, HIDDEN, training_run)


def test_a_layer_without_attention_map_is_refused(
    tiny_bert: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    class NoAttention(torch.nn.Module):
        def forward(self, hidden_states, *args, **kwargs):
            return hidden_states, None

    tiny_bert.module.bert.encoder.layer[0].attention = NoAttention()

    with pytest.raises(ValueError, match="the student gives 1 from 2 layers"):
        distill(tiny_bert, teacher, text_dataset, ATTENTION, training_run)
