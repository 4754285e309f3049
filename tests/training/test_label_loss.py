"""Labels that are smoothed, and classes that weigh more than others."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.passes import PASSES, Pass
from compressor.passes.distill.settings import Distill
from compressor.passes.finetune.settings import Finetune
from compressor.tasks import load_task
from compressor.tasks.losses import TokenLosses
from compressor.training.distill_settings import DistillSettings
from compressor.training.label_loss import LabelLoss, label_loss
from compressor.training.recovery import check_finetuning, distill, finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import TrainingRun

WEIGHTS = {"negative": 3.0}


def settings_of(given: dict[str, Any]) -> Pass:
    return PASSES[given["kind"]].settings.of(given)


@pytest.fixture
def rare(text_dataset: Dataset) -> Dataset:
    """Return 48 rows: 36 of class 0, 6 of class 1 and 6 without a label."""
    labels = np.zeros(48, dtype=np.int64)
    labels[:6], labels[6:12] = 1, -100
    return dataclasses.replace(text_dataset, labels=labels)


@pytest.mark.parametrize(
    "settings",
    [
        {"label_smoothing": 0.1},
        {"class_weights": WEIGHTS},
        {"label_smoothing": 0.2, "class_weights": WEIGHTS},
    ],
)
def test_the_loss_is_that_of_pytorch(tiny_bert: TorchModel, rare: Dataset, settings: Any):
    own = FinetuneSettings.model_validate(settings)
    loss = label_loss(tiny_bert, rare, own)
    outputs = torch.randn(48, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.from_numpy(rare.labels)

    weight = torch.tensor([3.0, 1.0]) if "class_weights" in settings else None
    oracle = nn.CrossEntropyLoss(weight, label_smoothing=own.label_smoothing)
    assert float(loss(outputs, targets)) == pytest.approx(float(oracle(outputs, targets)))
    assert float(loss(outputs, torch.full((48,), -100))) == 0


@pytest.mark.parametrize("weight", [0.01, 1e-20])
def test_a_batch_of_little_weight_is_a_mean_all_the_same(weight: float):
    loss = LabelLoss(TokenLosses(), 0.0, torch.tensor([weight, 2 * weight]))
    outputs = torch.zeros(1, 2, 2)

    assert float(loss(outputs, torch.tensor([[1, -100]]))) == pytest.approx(np.log(2))


def test_balanced_weights_are_those_of_scikit_learn(tiny_bert: TorchModel, rare: Dataset):
    loss = label_loss(tiny_bert, rare, FinetuneSettings(class_weights="balanced"))

    labels = rare.labels[rare.labels >= 0]
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    assert loss.weights.tolist() == pytest.approx(expected)
    assert expected == pytest.approx([42 / 72, 42 / 12])
    assert loss.words(tiny_bert.labels) == "classes weigh negative 0.583, positive 3.5"


def test_weights_change_what_is_learnt_and_are_told(
    tiny_bert: TorchModel, rare: Dataset, training_run: TrainingRun
):
    start = tiny_bert.clone()
    steep: dict[str, Any] = {"epochs": 8, "batch_size": 12, "learning_rate": 3e-3, "dropout": False}

    def recall_of_the_rare(model: TorchModel, **settings: Any) -> tuple[float, str]:
        run = dataclasses.replace(training_run, work_dir=training_run.work_dir / str(settings))
        summary = finetune(model, rare, FinetuneSettings(**steep, **settings), run)
        batch = model.task.encode(model.preprocessor, rare.examples[:6])
        logits = model.predict(batch)
        return float((logits[:, 1] - logits[:, 0]).mean()), summary.sentence()

    plain, _ = recall_of_the_rare(start)
    balanced, sentence = recall_of_the_rare(tiny_bert, class_weights="balanced")

    assert balanced > plain + 0.5
    assert sentence.endswith("; classes weigh negative 0.583, positive 3.5")


def test_parts_of_a_step_add_up_with_weights(
    tiny_bert: TorchModel, rare: Dataset, training_run: TrainingRun
):
    settings: dict[str, Any] = {
        "max_steps": 2, "batch_size": 24, "optimizer": "sgd", "learning_rate": 0.1,
        "dropout": False, "class_weights": "balanced", "label_smoothing": 0.1,
    }  # fmt: skip
    whole = tiny_bert.clone()
    finetune(whole, rare, FinetuneSettings(**settings), training_run)

    run = dataclasses.replace(training_run, work_dir=training_run.work_dir / "parts")
    finetune(tiny_bert, rare, FinetuneSettings(**settings, accumulation_steps=5), run)

    found, expected = tiny_bert.module.state_dict(), whole.module.state_dict()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_labels_of_a_distillation_are_smoothed_too(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    plain, teacher = tiny_bert.clone(), tiny_bert.clone()
    settings = {"max_steps": 1, "label_weight": 0.5, "learning_rate": 1e-3, "warmup_ratio": 0}
    run = dataclasses.replace(training_run, work_dir=training_run.work_dir / "plain")
    distill(plain, teacher, text_dataset, DistillSettings.model_validate(settings), run)

    smoothed = DistillSettings.model_validate({**settings, "label_smoothing": 0.5})
    distill(tiny_bert, teacher, text_dataset, smoothed, training_run)

    assert not torch.equal(plain.module.classifier.weight, tiny_bert.module.classifier.weight)


def test_weights_of_classes_that_are_not_there_are_refused(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    settings = FinetuneSettings(class_weights={"negative": 2.0, "yes": 3.0})

    with pytest.raises(StepFailed, match="the model has no label 'yes'; its labels are"):
        check_finetuning(tiny_bert, text_dataset, settings)


@pytest.mark.parametrize("settings", [{"label_smoothing": 0.1}, {"class_weights": "balanced"}])
def test_settings_of_labels_that_are_not_learnt_are_refused(settings: dict[str, Any]):
    with pytest.raises(ValidationError, match="would do nothing without a loss on labels"):
        DistillSettings.model_validate(settings)
    DistillSettings.model_validate({**settings, "label_weight": 0.5})


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("text-classification", ["cutmix_alpha"]),
        ("image-classification", []),
        ("token-classification", ["mixup_alpha", "cutmix_alpha"]),
        (
            "multi-label-classification",
            ["label_smoothing", "class_weights", "mixup_alpha", "cutmix_alpha"],
        ),
        (
            "question-answering",
            ["label_smoothing", "class_weights", "mixup_alpha", "cutmix_alpha"],
        ),
    ],
)
def test_settings_that_make_no_sense_for_a_task_are_named(task: str, keys: list[str]):
    step = Finetune(
        label_smoothing=0.1, class_weights="balanced", mixup_alpha=0.2, cutmix_alpha=1.0
    )
    assert [key for key, _ in step.unfit_for(load_task(task))] == keys


def test_vectors_have_no_classes():
    step = Distill(label_weight=0.5, label_smoothing=0.1)

    keys = [key for key, _ in step.unfit_for(load_task("sentence-embedding"))]

    assert keys == ["label_smoothing", "label_weight"]


def test_classes_that_are_not_there_are_named_before_anything_is_loaded():
    recovery = {"kind": "finetune", "class_weights": {"yes": 2.0, "no": 1.0}}
    step = settings_of({"kind": "prune_structured", "ratio": 0.5, "recovery": recovery})

    assert list(step.unfit_labels(["no", "yes"])) == []
    assert list(step.unfit_labels(["no", "maybe"])) == [
        (
            "recovery.class_weights",
            "the model has no label 'yes'; its labels are ['no', 'maybe']",
        )
    ]
