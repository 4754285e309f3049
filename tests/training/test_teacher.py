import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import word_piece_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.tasks.examples import Words
from compressor.tasks.token_classification import TokenClassification
from compressor.training.distill_settings import DistillSettings
from compressor.training.recovery import distill
from compressor.training.teacher import (
    TeacherOutputs,
    attention_maps_in,
    check_layers,
    teacher_order,
)
from compressor.training.trainer import TrainingRun
from compressor.verify.evaluation import predict_outputs

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
    logits = TeacherOutputs(teacher, text_dataset, [0, 1])
    everything = teacher.predict(teacher.task.encode(teacher.preprocessor, text_dataset.examples))

    first = logits(torch.tensor([3, 40, 7]))
    second = logits(torch.tensor([7, 1]))

    np.testing.assert_allclose(first.numpy(), everything[[3, 40, 7]], atol=1e-5)
    np.testing.assert_allclose(second.numpy(), everything[[7, 1]], atol=1e-5)


def test_a_teacher_that_predicts_nan_is_refused(teacher: TorchModel, text_dataset: Dataset):
    with torch.no_grad():
        teacher.module.classifier.bias[0] = float("nan")

    with pytest.raises(ValueError, match=r"teacher's predictions are not finite .* \[3, 40\]"):
        TeacherOutputs(teacher, text_dataset, [0, 1])(torch.tensor([3, 40]))


def test_labels_are_matched_by_their_names(teacher: TorchModel, tiny_bert: TorchModel):
    teacher.module.config.id2label = {0: "positive", 1: "negative"}

    assert teacher_order(tiny_bert, tiny_bert, ["good"]) == [0, 1]
    assert teacher_order(tiny_bert, teacher, ["good"]) == [1, 0]


@pytest.mark.parametrize("settings", [LOGITS, HIDDEN])
def test_a_teacher_with_labels_in_another_order_teaches_the_same(
    settings: DistillSettings,
    tiny_bert: TorchModel,
    teacher: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
):
    for child in tiny_bert.module.modules():
        if isinstance(child, torch.nn.Dropout):
            child.p = 0.0
    head = teacher.module.classifier
    with torch.no_grad():
        head.weight.copy_(head.weight.flip(0))
        head.bias.copy_(head.bias.flip(0))
    teacher.module.config.id2label = {0: "positive", 1: "negative"}

    summary = distill(tiny_bert, teacher, text_dataset, settings, training_run)

    assert summary.final_loss == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({0: "no", 1: "yes"}, r"teacher's labels are \['no', 'yes'\], the student's"),
        ({0: "negative"}, r"teacher's labels are \['negative'\], the student's"),
    ],
)
def test_other_labels_are_refused(
    labels: dict[int, str],
    message: str,
    tiny_bert: TorchModel,
    teacher: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
):
    teacher.module.config.id2label = labels

    with pytest.raises(ValueError, match=message):
        distill(tiny_bert, teacher, text_dataset, LOGITS, training_run)


def test_labels_of_one_name_cannot_be_matched(tiny_bert: TorchModel, teacher: TorchModel):
    tiny_bert.module.config.id2label = {0: "same", 1: "same"}
    teacher.module.config.id2label = {0: "same", 1: "same"}

    with pytest.raises(ValueError, match="not told apart by their names"):
        teacher_order(tiny_bert, teacher, ["good"])


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


def test_another_tokenizer_with_the_same_vocabulary_is_noticed(
    tiny_bert: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    teacher.preprocessor.padding_side = "left"

    with pytest.raises(ValueError, match=r"reads examples in another way .*it makes"):
        distill(tiny_bert, teacher, text_dataset, HIDDEN, training_run)


def test_a_teacher_that_cuts_long_texts_shorter_is_noticed(
    tiny_bert: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    longest = max(len(str(text).split()) for text in text_dataset.examples)
    assert all(len(str(text).split()) < longest for text in text_dataset.examples[:8])
    teacher.preprocessor.model_max_length = longest + 1  # one less, with [CLS] and [SEP]

    with pytest.raises(ValueError, match="reads examples in another way"):
        distill(tiny_bert, teacher, text_dataset, HIDDEN, training_run)


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

    assert default == ((32, 48), ((0, 1), (1, 3)))
    assert given == ((32, 48), [(1, 0)])


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


def test_vocabularies_of_one_size_are_told_by_what_they_share(
    tiny_bert: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    size = len(teacher.preprocessor)
    add_word(teacher)
    tiny_bert.preprocessor.add_tokens(["another"])
    with pytest.raises(ValueError, match=f"of {size + 1} entries in both, {size} are the same"):
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
    teacher.preprocessor.processor.size = {"height": 16, "width": 16}

    with pytest.raises(ValueError, match=r"reads examples in another way .*\(16, 1, 16, 16\)"):
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


def test_only_predictions_that_are_known_are_kept(tiny_bert: TorchModel, text_dataset: Dataset):
    predictions = TeacherOutputs(tiny_bert, text_dataset, [0, 1])
    asked = torch.tensor([5, 3, 40])
    expected = predictions(asked)

    state = predictions.state_dict()
    other = TeacherOutputs(tiny_bert, text_dataset, [0, 1])
    other.load_state_dict(state)

    assert state["values"].shape == (3 * 2,)
    assert state["rows"].tolist() == [3, 5, 40]
    with torch.no_grad():  # what it would compute now is something else
        tiny_bert.module.classifier.weight.zero_()
    assert torch.equal(other(asked), expected)


def test_images_cut_into_other_patches_are_refused(
    tiny_vit: TorchModel, image_dataset: Dataset, training_run: TrainingRun
):
    config = tiny_vit.module.config.__class__(
        **{**tiny_vit.module.config.to_dict(), "patch_size": 4}
    )
    teacher = dataclasses.replace(tiny_vit, module=type(tiny_vit.module)(config).eval())
    settings = DistillSettings(max_steps=1, hidden_weight=1)

    with pytest.raises(ValueError, match="makes 17 tokens of an example and the teacher 5"):
        distill(tiny_vit, teacher, image_dataset, settings, training_run)


def test_hidden_states_of_a_convolution_are_compared(
    tiny_vit: TorchModel, image_dataset: Dataset, training_run: TrainingRun
):
    """They have no tokens, and width is their last axis as it is that of any state."""
    config = transformers.ResNetConfig(
        num_channels=1,
        embedding_size=8,
        hidden_sizes=[8, 8],
        depths=[1, 1],
        layer_type="basic",
        num_labels=3,
    )
    models = [
        dataclasses.replace(
            tiny_vit, module=transformers.ResNetForImageClassification(config).eval()
        )
        for _ in range(2)
    ]
    for model in models:
        model.module.config.id2label = tiny_vit.module.config.id2label
    settings = DistillSettings(max_steps=1, batch_size=8, hidden_weight=1)

    assert distill(*models, image_dataset, settings, training_run).steps == 1


@pytest.mark.parametrize("logits_loss", ["kl", "mse"])
def test_a_tagger_learns_from_one_that_splits_words_otherwise(
    logits_loss: str, training_run: TrainingRun, tmp_path: Path
):
    tags = ("O", "B-place", "I-place")
    teacher = tagger(word_piece_tokenizer(), tags)
    words = {word: place for place, word in enumerate(("[PAD]", "[UNK]", "[X]", *WORDS))}
    whole = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    other: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_object=whole, unk_token="[UNK]", pad_token="[PAD]", model_max_length=64
    )
    random = np.random.default_rng(0)
    examples = tuple(Words(tuple(random.choice(WORDS, size=5))) for _ in range(48))
    dataset = Dataset("train", examples, None, np.arange(48), "generated")
    student = tagger(other, tags[::-1])

    def agreement() -> float:
        found = [
            np.concatenate([[each.labels[tag] for tag in row.argmax(axis=1)] for row in rows])
            for each in (student, teacher)
            for rows in [predict_outputs(each, each.task, each.preprocessor, dataset).per_example()]
        ]
        return float(np.mean(found[0] == found[1]))

    assert agreement() < 0.5  # by chance a third
    for folder in (None, tmp_path / "cache"):
        settings = DistillSettings(
            epochs=15,
            batch_size=8,
            learning_rate=3e-3,
            logits_loss=logits_loss,
            teacher_cache=folder,
        )
        distill(student, teacher, dataset, settings, training_run)
    assert agreement() > 0.7
    with pytest.raises(StepFailed, match="reads examples in another way"):
        distill(student, teacher, dataset, HIDDEN, training_run)


WORDS = ("films", "good", "unlovely", "bad", "film", "funny", "story")


def tagger(tokenizer: Any, tags: tuple[str, ...]) -> TorchModel:
    """Return a random tagger, of words whose tags differ."""
    torch.manual_seed(len(tokenizer))
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
        id2label=dict(enumerate(tags)),
        label2id={tag: place for place, tag in enumerate(tags)},
    )
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    module = transformers.BertForTokenClassification(config).eval()
    return TorchModel(module, tokenizer, TokenClassification().for_labels(tags))
