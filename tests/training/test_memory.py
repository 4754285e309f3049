"""A step in parts, and layers that are computed again, give the weights of the whole."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.tasks.losses import SpanLosses
from compressor.training.batches import TrainingBatch, training_loader
from compressor.training.distill_settings import DistillSettings
from compressor.training.recovery import check_finetuning, distill, finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import TrainingRun

STEEP: dict[str, Any] = {
    "max_steps": 3, "batch_size": 10, "optimizer": "sgd", "learning_rate": 0.1, "dropout": False,
}  # fmt: skip


def weights_of(model: TorchModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def elsewhere(run: TrainingRun) -> TrainingRun:
    return dataclasses.replace(run, work_dir=run.work_dir.with_name("elsewhere"))


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.fixture
def half_labelled(text_dataset: Dataset) -> Dataset:
    """Return rows of which every third has no label, so that parts have different numbers."""
    labels = text_dataset.labels
    assert labels is not None
    labels = labels.copy()
    labels[::3] = -100
    return dataclasses.replace(text_dataset, labels=labels)


@pytest.mark.parametrize("parts", [3, 10])
def test_parts_of_a_step_add_up_to_the_whole(
    tiny_bert: TorchModel, half_labelled: Dataset, training_run: TrainingRun, parts: int
):
    whole = tiny_bert.clone()
    expected = finetune(whole, half_labelled, FinetuneSettings(**STEEP), training_run)

    settings = FinetuneSettings(**STEEP, accumulation_steps=parts)
    found = finetune(tiny_bert, half_labelled, settings, elsewhere(training_run))

    assert_alike(weights_of(tiny_bert), weights_of(whole))
    assert found.steps == expected.steps == 3
    assert found.final_loss == pytest.approx(expected.final_loss, rel=1e-4)


def test_parts_of_a_distillation_add_up_to_the_whole(
    tiny_bert: TorchModel, tiny_bert_dir: Path, half_labelled: Dataset, training_run: TrainingRun
):
    teacher = load_checkpoint(tiny_bert_dir)
    with torch.no_grad():
        teacher.module.classifier.weight.mul_(-1.5)
    whole = tiny_bert.clone()
    own = {**STEEP, "label_weight": 0.5}
    distill(whole, teacher, half_labelled, DistillSettings(**own), training_run)

    settings = DistillSettings(**own, accumulation_steps=4)
    distill(tiny_bert, teacher, half_labelled, settings, elsewhere(training_run))

    assert_alike(weights_of(tiny_bert), weights_of(whole))


@pytest.mark.parametrize(
    ("weight", "near"),
    [
        ("attention_weight", 1e-4),
        ("relation_weight", 1e-4),
        # Relative to the size of the teacher's states, which is taken for as large in each part.
        ("hidden_weight", 1e-2),
        ("sublayer_weight", 5e-2),
    ],
)
def test_parts_of_losses_on_layers_add_up_by_their_tokens(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    training_run: TrainingRun,
    weight: str,
    near: float,
):
    teacher = load_checkpoint(tiny_bert_dir)
    with torch.no_grad():
        for parameter in teacher.module.bert.encoder.parameters():
            if parameter.dim() == 2:
                parameter.mul_(2)
    # Of very different lengths, so that parts with as many rows have not as many tokens.
    uneven = tuple(
        " ".join([text] * (1 + 5 * (place % 3))) for place, text in enumerate(text_dataset.examples)
    )
    rows = dataclasses.replace(text_dataset, examples=uneven)
    before, whole = weights_of(tiny_bert), tiny_bert.clone()
    own = {**STEEP, "max_steps": 1, "batch_size": 48, "logits_weight": 0, weight: 1.0}
    distill(whole, teacher, rows, DistillSettings(**own), training_run)
    settings = DistillSettings(**own, accumulation_steps=5)
    distill(tiny_bert, teacher, rows, settings, elsewhere(training_run))

    found, expected = weights_of(tiny_bert), weights_of(whole)
    apart = distance(found, expected)
    assert apart <= near * distance(before, expected)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return sum(float((one[name] - other[name]).float().square().sum()) for name in one) ** 0.5


def test_each_part_says_how_much_of_the_step_it_is(tiny_bert: TorchModel, half_labelled: Dataset):
    [parts] = training_loader(tiny_bert, half_labelled, batch_size=48, seed=0, parts=5)
    steps: Any = parts
    rows = [len(part["rows"]) for part in steps]
    tokens = [int(part["inputs"]["attention_mask"].sum()) for part in steps]
    labels = [int((part["targets"] != -100).sum()) for part in steps]
    for name, counts in (("row_share", rows), ("token_share", tokens), ("label_share", labels)):
        assert [part[name] for part in steps] == pytest.approx([it / sum(counts) for it in counts])


def test_what_spans_are_compared_by_counts_windows_and_not_tokens():
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 9, 2, generator=draw) for _ in range(2))
    mask = (torch.arange(9) < torch.tensor([2, 9, 3, 9, 4, 2])[:, None]).long()
    whole = SpanLosses().distance(student, teacher, mask, 2.0).mean
    parts = []
    for place in (slice(0, 1), slice(1, 4), slice(4, 6)):
        loss = SpanLosses().distance(student[place], teacher[place], mask[place], 2.0)
        rows, tokens = len(student[place]) / 6, float(mask[place].sum() / mask.sum())
        batch = TrainingBatch({}, None, torch.arange(1), row_share=rows, token_share=tokens)
        parts.append(batch.part_of_mean(loss))
    torch.testing.assert_close(sum(parts), whole)


def test_a_step_has_no_more_parts_than_examples(tiny_bert: TorchModel, text_dataset: Dataset):
    # 48 rows are four steps of ten, and one of eight.
    loader: Any = training_loader(tiny_bert, text_dataset, batch_size=10, seed=0, parts=9)
    counts = sorted(len(parts) for parts in loader)

    assert counts == [8, 9, 9, 9, 9]


@pytest.mark.parametrize("name", ["mixup_alpha", "cutmix_alpha"])
def test_rows_that_are_mixed_have_to_be_two(name: str):
    with pytest.raises(ValidationError, match=f"{name} would do nothing .*batch_size is 1; set it"):
        FinetuneSettings.model_validate({name: 1.0, "batch_size": 1})
    own = {name: 1.0, "batch_size": 7, "accumulation_steps": 4}
    with pytest.raises(ValidationError, match=r"each part needs two.* is 7; set it to 8 or more"):
        FinetuneSettings.model_validate(own)
    FinetuneSettings.model_validate({**own, "batch_size": 8})


def test_candidates_that_are_compared_have_to_be_two():
    with pytest.raises(ValidationError, match="margin_weight would do nothing with one row"):
        DistillSettings.model_validate({"margin_weight": 1.0, "batch_size": 1})


def test_layers_that_are_computed_again_give_the_same_weights(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
):
    plain = tiny_bert.clone()
    settings = {"max_steps": 3, "learning_rate": 1e-3}
    finetune(plain, text_dataset, FinetuneSettings.model_validate(settings), training_run)
    calls: list[int] = []
    layer = tiny_bert.module.bert.encoder.layer[0].intermediate
    layer.register_forward_hook(lambda *_: calls.append(1))

    again = FinetuneSettings.model_validate({**settings, "gradient_checkpointing": True})
    finetune(tiny_bert, text_dataset, again, elsewhere(training_run))

    assert len(calls) == 4  # of two steps
    found, expected = weights_of(tiny_bert), weights_of(plain)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not tiny_bert.module.is_activation_checkpointing


def test_a_model_without_checkpointing_is_refused(
    tiny_bert: TorchModel, text_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(type(tiny_bert.module), "supports_gradient_checkpointing", False)

    with pytest.raises(StepFailed, match="none for a model of type 'bert'; take accumulation_st"):
        check_finetuning(tiny_bert, text_dataset, FinetuneSettings(gradient_checkpointing=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulation_steps": 64}, "accumulation_steps is 64 and batch_size 32"),
        ({"gradient_checkpointing": True, "dropout": False}, "works where dropout is on"),
        ({"gradient_checkpointing": True, "hidden_weight": 1.0}, "keeps nothing of what layers"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        DistillSettings.model_validate(settings)
