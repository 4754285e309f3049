"""A task with one label for each token goes through all that trains or scores by its losses.

Rows have as many outputs as tokens, batches are padded, and no pass knows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.models.torch_model import TorchModel
from compressor.passes.prune_structured.compensated_scores import compensated_scores
from compressor.passes.prune_structured.fisher import fisher_scores
from compressor.passes.prune_structured.importance import layer_losses, taylor_scores
from compressor.progress import SILENT
from compressor.tasks import UNLABELLED, Batch, Rows, load_task
from compressor.tasks.examples import Words
from compressor.tasks.losses import Losses, SummedLoss, random_signs
from compressor.tasks.text_classification import TextClassification
from compressor.training.distill_settings import DistillSettings
from compressor.training.recovery import distill, finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.teacher import TeacherOutputs
from compressor.training.trainer import TrainingRun


class TokenLosses(Losses):
    """Cross-entropy of every token's class; outputs have shape `(batch, tokens, labels)`."""

    def on_labels(self, outputs: Tensor, targets: Tensor) -> SummedLoss:
        total = functional.cross_entropy(outputs.mT, targets, reduction="sum")
        return SummedLoss(total, (targets != UNLABELLED).sum())

    def distance(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float
    ) -> SummedLoss:
        assert mask is not None
        own = functional.log_softmax(student / temperature, dim=-1)
        other = functional.log_softmax(teacher / temperature, dim=-1)
        divergence = functional.kl_div(own, other, log_target=True, reduction="none").sum(dim=-1)
        return SummedLoss((divergence * mask).sum(), mask.sum(), least=None, scale=temperature**2)

    def own_targets(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        assert mask is not None
        return outputs.argmax(dim=-1).masked_fill(mask == 0, UNLABELLED)

    def fisher_probes(
        self, outputs: Tensor, mask: Tensor | None, generator: torch.Generator
    ) -> Iterator[Tensor]:
        assert mask is not None
        p = torch.softmax(outputs.detach() / 2.0, dim=-1) * mask[:, :, None]
        centred = outputs - (p * outputs).sum(dim=-1, keepdim=True)
        for _ in range(4):
            yield (p.sqrt() * random_signs(p, generator) * centred).sum() / 2


class TokenClassification(TextClassification):
    """Labels are one array of class ids for each text, one for each token."""

    name: ClassVar[str] = "token-classification"
    head: ClassVar[str] = "ForTokenClassification"
    per_token: ClassVar[bool] = True

    @property
    def losses(self) -> TokenLosses:  # type: ignore[override]  # in the place of classes
        return TokenLosses()

    def without_padding(self, array: NDArray[np.float32], batch: Batch) -> Rows:
        masks = batch["attention_mask"] != 0
        return [row[mask] for row, mask in zip(array, masks, strict=True)]

    def targets(self, batch: Batch, labels: NDArray[Any]) -> NDArray[np.int64]:
        found = np.full(batch["input_ids"].shape, UNLABELLED)
        for row, mask, tags in zip(found, batch["attention_mask"], labels, strict=True):
            row[mask != 0] = tags
        return found

    def labels_of_changed(self, labels: NDArray[Any], partners: NDArray[Any]) -> None:
        """Return None: words that are gone leave tags."""


@pytest.fixture
def tagger(tiny_bert: TorchModel) -> TorchModel:
    return tagger_like(tiny_bert)


@pytest.fixture
def teacher(tiny_bert: TorchModel) -> TorchModel:
    """Return another model, whose labels are the other way round."""
    found = tagger_like(tiny_bert, seed=1)
    found.module.config.id2label = {0: "positive", 1: "negative"}
    return found


def tagger_like(model: TorchModel, seed: int = 0) -> TorchModel:
    torch.manual_seed(seed)
    module = transformers.BertForTokenClassification(
        model.module.config.__class__.from_dict(model.module.config.to_dict())
    )
    return TorchModel(module.eval(), model.preprocessor, TokenClassification())


@pytest.fixture
def tagged(tagger: TorchModel, text_dataset: Dataset) -> Dataset:
    """Return the texts with a label for each token: whether its id is even."""
    tags = np.empty(len(text_dataset), dtype=object)
    for row, text in enumerate(text_dataset.examples):
        tags[row] = np.array(tagger.preprocessor(text)["input_ids"]) % 2
    return dataclasses.replace(text_dataset, labels=tags)


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    return TrainingRun(torch.device("cpu"), 0, tmp_path, SILENT, "training")


def inputs_of(model: TorchModel, texts: Sequence[str]) -> dict[str, Tensor]:
    encoded = model.task.encode(model.preprocessor, texts)
    return {name: torch.from_numpy(value) for name, value in encoded.items()}


def accuracy(model: TorchModel, tagged: Dataset) -> float:
    """Return the share of tokens that get their label, text by text, without padding."""
    assert tagged.labels is not None
    met = []
    for text, tags in zip(tagged.examples, tagged.labels, strict=True):
        logits = model.predict(model.task.encode(model.preprocessor, [text]))
        met.append(np.mean(logits[0].argmax(axis=-1) == tags))
    return float(np.mean(met))


def distance(student: TorchModel, teacher: TorchModel, texts: Sequence[str]) -> float:
    """Return the mean squared difference of probabilities, text by text, without padding."""
    found = []
    for text in texts:
        rows = [
            torch.softmax(model.module(**inputs_of(model, [text])).logits[0], dim=-1)
            for model in (student, teacher)
        ]
        found.append(float((rows[0] - rows[1].flip(-1)).square().mean().detach()))
    return float(np.mean(found))


def test_labels_of_tokens_are_learnt(tagger: TorchModel, tagged: Dataset, run: TrainingRun):
    settings = FinetuneSettings(epochs=10, batch_size=8, learning_rate=5e-3, dropout=False)

    finetune(tagger, tagged, settings, run)

    assert accuracy(tagger, tagged) > 0.9


@pytest.mark.parametrize(
    "settings",
    [
        {"label_weight": 0.0},
        {"label_weight": 0.0, "hidden_weight": 0.1},
    ],
)
def test_a_teacher_is_met_token_by_token(
    settings: dict[str, float],
    tagger: TorchModel,
    teacher: TorchModel,
    text_dataset: Dataset,
    run: TrainingRun,
):
    before = distance(tagger, teacher, text_dataset.examples)

    distill(
        tagger,
        teacher,
        dataclasses.replace(text_dataset, labels=None),
        DistillSettings(epochs=8, batch_size=8, learning_rate=2e-3, **settings),
        run,
    )

    assert distance(tagger, teacher, text_dataset.examples) < before / 4


def test_labels_and_a_teacher_are_learnt_together(
    tagger: TorchModel, teacher: TorchModel, tagged: Dataset, run: TrainingRun
):
    settings = DistillSettings(max_steps=2, batch_size=8, label_weight=1.0)

    assert distill(tagger, teacher, tagged, settings, run).final_loss > 0


def test_a_teacher_of_other_tokens_is_refused_before_training(
    tagger: TorchModel, teacher: TorchModel, tagged: Dataset, run: TrainingRun
):
    other = transformers.PreTrainedTokenizerFast(
        tokenizer_object=teacher.preprocessor.backend_tokenizer,
        model_max_length=5,
        pad_token="[PAD]",
    )
    short = dataclasses.replace(teacher, preprocessor=other)

    with pytest.raises(ValueError, match=r"tokens of some examples and the teacher .*token by"):
        distill(tagger, short, tagged, DistillSettings(max_steps=1), run)


def test_labels_of_changed_texts_are_not_guessed(
    tagger: TorchModel, teacher: TorchModel, tagged: Dataset, run: TrainingRun
):
    settings = DistillSettings(max_steps=1, label_weight=0.5, drop_probability=0.2)

    with pytest.raises(ValueError, match="token-classification cannot tell the labels of changed"):
        distill(tagger, teacher, tagged, settings, run)


def test_padding_adds_nothing_to_scores(tagger: TorchModel):
    """Every score is a mean over texts, so that of two is that of each alone, without padding."""
    task, texts = tagger.task, ["good", "a very very dull film and a great story"]
    both, alone = inputs_of(tagger, texts), [inputs_of(tagger, [text]) for text in texts]

    padded, single = [(both, None)], [(inputs, None) for inputs in alone]

    close = {"atol": 1e-6, "rtol": 1e-3}
    torch.testing.assert_close(
        taylor_scores(find_encoder(tagger.module), padded, task).neurons,
        taylor_scores(find_encoder(tagger.module), single, task).neurons,
        **close,
    )
    torch.testing.assert_close(
        layer_losses(find_encoder(tagger.module), padded, task),
        layer_losses(find_encoder(tagger.module), single, task),
        **close,
    )


def test_fisher_scores_of_tokens_are_variances_of_slopes(tagger: TorchModel):
    module, inputs = tagger.module, inputs_of(tagger, ["good", "a very dull film"])
    linear = encoder_layers(module)[1].feed_forward.ffn_out
    original = linear.weight.data.clone()

    @torch.no_grad()
    def logits(neuron: int, factor: float) -> Tensor:
        linear.weight.data[:, neuron] = original[:, neuron] * factor
        found = module(**inputs).logits
        linear.weight.data.copy_(original)
        return found

    p = torch.softmax(logits(0, 1.0) / 2.0, dim=-1)
    expected = []
    for neuron in range(64):
        slope = (logits(neuron, 1.01) - logits(neuron, 0.99)) / 0.02
        variance = (p * slope.square()).sum(dim=-1) - (p * slope).sum(dim=-1).square()
        expected.append(float((variance * inputs["attention_mask"]).sum() / 2))
    draws = [
        fisher_scores(find_encoder(module), [inputs], tagger.task, seed=seed).neurons[1]
        for seed in range(60)
    ]

    scores = torch.stack(draws).mean(dim=0)
    assert np.corrcoef(scores.numpy(), expected)[0, 1] > 0.98
    assert float(scores.sum()) == pytest.approx(sum(expected), rel=0.1)
    assert all(
        bool(layer.isfinite().all())
        for layer in compensated_scores(find_encoder(module), [inputs], tagger.task).neurons
    )


def test_a_teacher_predicts_every_row_of_a_long_document(tagger: TorchModel):
    task = load_task("token-classification", max_length=8).for_labels(tagger.labels)
    teacher = TorchModel(tagger.module, tagger.preprocessor, task)
    examples = (Words(("good",) * 20), Words(("a", "film")))
    dataset = Dataset("train", examples, None, np.arange(2), "documents")
    batch = task.encode(teacher.preprocessor, examples)
    mask = torch.from_numpy(batch["attention_mask"])
    rows, order = torch.tensor([0, 1]), [1, 0]
    found = TeacherOutputs(teacher, dataset, order)(rows, mask)
    expected = torch.from_numpy(teacher.predict(batch)[..., order])
    assert len(batch.rows) > 3
    assert torch.allclose(found[mask > 0], expected[mask > 0], atol=1e-6)
    assert not found[mask == 0].any()
    other = mask.clone()
    other[0, -1], other[-1, -1] = 0, 1  # as many tokens in all
    with pytest.raises(StepFailed, match="take a teacher with the student's tokenizer"):
        TeacherOutputs(teacher, dataset, order)(rows, other)
