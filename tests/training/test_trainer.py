import dataclasses
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch, StepFailed
from compressor.models.torch_model import TorchModel
from compressor.progress import SILENT
from compressor.training.batches import TrainingBatch
from compressor.training.schedules import total_steps
from compressor.training.settings import TrainingSettings
from compressor.training.trainer import train
from compressor.training.training_run import Objective, StepHook, TrainingDiverged, TrainingRun

FACTS = {"loss": "of this test"}
FAST = TrainingSettings(epochs=20, batch_size=8, learning_rate=2e-3)


def cross_entropy(module: nn.Module, batch: TrainingBatch) -> Tensor:
    return functional.cross_entropy(module(**batch.inputs).logits, batch.targets)


ON_LABELS = Objective(cross_entropy, FACTS)


def in_folder(run: TrainingRun, name: str) -> TrainingRun:
    return dataclasses.replace(run, work_dir=run.work_dir / name)


def weights_of(model: TorchModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def accuracy(model: TorchModel, dataset: Dataset) -> float:
    logits = model.predict(model.task.encode(model.preprocessor, dataset.examples))
    return float((logits.argmax(-1) == dataset.labels).mean())


def switch_off_dropout(model: TorchModel) -> None:
    # Heads of width 8 learn little under dropout.
    for child in model.module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0


def test_training_on_labels_learns_them(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    switch_off_dropout(tiny_bert)

    train(tiny_bert, text_dataset, FAST, training_run, ON_LABELS)

    assert accuracy(tiny_bert, text_dataset) >= 0.95


def test_images_are_trained_on_too(
    tiny_vit: TorchModel, image_dataset: Dataset, training_run: TrainingRun
):
    train(tiny_vit, image_dataset, FAST, training_run, ON_LABELS)

    assert accuracy(tiny_vit, image_dataset) >= 0.95


def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    start = weights_of(tiny_bert)
    settings = TrainingSettings(batch_size=8)

    run = in_folder(training_run, "first")
    train(tiny_bert, text_dataset, settings, run, ON_LABELS)
    first = weights_of(tiny_bert)
    tiny_bert.module.load_state_dict(start)
    torch.rand(7)  # what happened to the global generator before does not matter
    run = in_folder(training_run, "second")
    train(tiny_bert, text_dataset, settings, run, ON_LABELS)

    second = weights_of(tiny_bert)
    assert all(torch.equal(second[name], first[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], start["classifier.weight"])


def test_another_seed_gives_other_weights(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    start = weights_of(tiny_bert)
    settings = TrainingSettings(batch_size=8)

    train(tiny_bert, text_dataset, settings, training_run, ON_LABELS)
    first = weights_of(tiny_bert)
    tiny_bert.module.load_state_dict(start)
    other = dataclasses.replace(training_run, seed=1)
    train(tiny_bert, text_dataset, settings, other, ON_LABELS)

    assert not torch.equal(weights_of(tiny_bert)["classifier.weight"], first["classifier.weight"])


@pytest.mark.parametrize("dropout", [True, False])
def test_without_dropout_a_model_predicts_the_same_twice(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun, dropout: bool
):
    same = []

    def asks_twice(module: nn.Module, batch: TrainingBatch) -> torch.Tensor:
        first, second = (module(**batch.inputs).logits for _ in range(2))
        same.append(torch.equal(first, second))
        return cross_entropy(module, batch)

    settings = TrainingSettings(max_steps=2, dropout=dropout)
    train(tiny_bert, text_dataset, settings, training_run, Objective(asks_twice, FACTS))
    assert same == [not dropout, not dropout]


def test_global_random_states_are_as_before(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state()

    train(
        tiny_bert,
        text_dataset,
        TrainingSettings(max_steps=2),
        training_run,
        ON_LABELS,
    )

    assert random.getstate() == python_state
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_nothing_but_the_weights_changes(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    config = tiny_bert.module.config.to_dict()
    frozen = tiny_bert.module.bert.pooler.dense.weight.requires_grad_(False)
    before = frozen.clone()

    train(
        tiny_bert,
        text_dataset,
        TrainingSettings(max_steps=3),
        training_run,
        ON_LABELS,
    )

    assert tiny_bert.module.config.to_dict() == config
    assert not tiny_bert.module.training
    assert torch.equal(frozen, before)
    trained = {name for name, value in tiny_bert.module.named_parameters() if value.requires_grad}
    everything = {name for name, _ in tiny_bert.module.named_parameters()}
    assert everything - trained == {"bert.pooler.dense.weight"}
    assert all(value.grad is None for value in tiny_bert.module.parameters())


def test_training_prints_nothing_and_leaves_its_result_alone(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    capfd: pytest.CaptureFixture[str],
):
    train(
        tiny_bert,
        text_dataset,
        TrainingSettings(max_steps=3),
        training_run,
        ON_LABELS,
    )

    assert capfd.readouterr() == ("", "")
    left = [path.name for path in training_run.work_dir.rglob("*") if path.is_file()]
    assert left == ["trained.safetensors"]


def test_every_step_is_reported_with_its_loss(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun, progress: Any
):
    settings = TrainingSettings(batch_size=10)

    summary = train(tiny_bert, text_dataset, settings, training_run, ON_LABELS)

    assert summary.steps == 5
    assert progress.bars == [("training", 5)]
    assert len(progress.details) == 5
    assert all(re.fullmatch(r"loss \d+\.\d{4}", detail) for detail in progress.details)


def test_final_loss_is_the_mean_of_the_last_tenth_of_the_steps(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    losses = iter(range(1, 21))

    def counting(module: nn.Module, batch: TrainingBatch) -> Tensor:
        return cross_entropy(module, batch) * 0 + next(losses)

    settings = TrainingSettings(epochs=100, max_steps=20)
    summary = train(tiny_bert, text_dataset, settings, training_run, Objective(counting, FACTS))

    assert summary.final_loss == (19 + 20) / 2
    assert summary.sentence().startswith("20 steps in ")


def test_after_step_sees_each_step_and_the_total(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    seen: list[tuple[int, int]] = []

    train(
        tiny_bert,
        text_dataset,
        TrainingSettings(max_steps=3, batch_size=8),
        training_run,
        ON_LABELS,
        StepHook(lambda step, total: seen.append((step, total))),
    )

    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (TrainingSettings(batch_size=32), 2),
        (TrainingSettings(batch_size=48), 1),
        (TrainingSettings(batch_size=1000), 1),
        (TrainingSettings(batch_size=8, epochs=0.5), 3),
        (TrainingSettings(batch_size=8, epochs=2, max_steps=5), 5),
        (TrainingSettings(batch_size=8, epochs=0.5, max_steps=5), 3),
    ],
)
def test_steps_follow_from_epochs_batch_size_and_max_steps(settings: TrainingSettings, steps: int):
    assert total_steps(48, settings) == steps


def test_a_single_step_already_learns(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    before = weights_of(tiny_bert)

    train(
        tiny_bert,
        text_dataset,
        TrainingSettings(max_steps=1),
        training_run,
        ON_LABELS,
    )

    after = weights_of(tiny_bert)
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])


def test_frozen_embeddings_stay_and_the_rest_learns(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    before = weights_of(tiny_bert)
    settings = TrainingSettings(max_steps=3, freeze_embeddings=True)

    train(tiny_bert, text_dataset, settings, training_run, ON_LABELS)

    after = weights_of(tiny_bert)
    table = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(after[table], before[table])
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])
    assert tiny_bert.module.get_parameter(table).requires_grad


def test_freezing_embeddings_that_a_model_does_not_have_is_refused(
    tiny_vit: TorchModel, image_dataset: Dataset, training_run: TrainingRun
):
    settings = TrainingSettings(freeze_embeddings=True)

    with pytest.raises(ValueError, match="'vit' has no embedding tables"):
        train(tiny_vit, image_dataset, settings, training_run, ON_LABELS)


def test_an_empty_split_is_refused(tiny_bert: TorchModel, training_run: TrainingRun):
    empty = Dataset("train", (), np.array([], dtype=np.int64), np.arange(0), "empty.tsv")

    with pytest.raises(ValueError, match=r"empty\.tsv: the split 'train' is empty"):
        train(tiny_bert, empty, FAST, training_run, ON_LABELS)


def test_a_split_of_one_example_is_trained_on(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    one = Dataset(
        "train", text_dataset.examples[:1], np.array([0]), np.arange(1), text_dataset.source
    )

    assert train(tiny_bert, one, FAST, training_run, ON_LABELS).steps == 20


def test_a_loss_that_is_not_finite_stops_training_at_once(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    calls: list[int] = []

    def breaking(module: nn.Module, batch: TrainingBatch) -> Tensor:
        calls.append(1)
        return cross_entropy(module, batch) * (float("nan") if len(calls) == 3 else 1.0)

    settings = TrainingSettings(batch_size=8, learning_rate=1e-3, schedule="constant")
    with pytest.raises(TrainingDiverged) as caught:
        train(tiny_bert, text_dataset, settings, training_run, Objective(breaking, FACTS))

    assert caught.value.step == 3
    assert np.isnan(caught.value.loss)
    assert caught.value.learning_rate == pytest.approx(1e-3)
    assert len(calls) == 3
    assert not tiny_bert.module.training


def test_gradients_that_are_not_finite_are_noticed_after_the_last_step(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    def steep(module: nn.Module, batch: TrainingBatch) -> Tensor:
        # The square root of 0 is 0, its slope is infinite.
        return (module(**batch.inputs).logits * 0).sum().sqrt()

    settings = TrainingSettings(max_steps=1)
    with pytest.raises(TrainingDiverged, match="the weights are not finite at step 1") as caught:
        train(tiny_bert, text_dataset, settings, training_run, Objective(steep, FACTS))

    assert caught.value.step == 1
    assert caught.value.loss == 0.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    run = dataclasses.replace(training_run, device=torch.device("cuda"))

    with pytest.raises(
        EnvironmentMismatch, match="asked for on 'cuda', but accelerate chose 'cpu'"
    ):
        train(tiny_bert, text_dataset, FAST, run, ON_LABELS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_training_on_a_gpu_leaves_the_model_where_it_was(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    run = dataclasses.replace(training_run, device=torch.device("cuda"), progress=SILENT)
    switch_off_dropout(tiny_bert)

    train(tiny_bert, text_dataset, FAST, run, ON_LABELS)

    assert tiny_bert.device == torch.device("cpu")
    assert accuracy(tiny_bert, text_dataset) >= 0.95


def test_weights_that_are_not_finite_are_told_before_they_are_ranked(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    query = tiny_bert.module.bert.encoder.layer[0].attention.self.query.weight

    def loss(module: nn.Module, batch: TrainingBatch) -> Tensor:
        # Of a finite value with gradients that are not: the slope of a root at 0.
        return cross_entropy(module, batch) + (query - query.detach()).square().sum().sqrt()

    def rank(step: int, total: int) -> None:
        raise StepFailed("what is not finite cannot be ranked")

    settings = TrainingSettings(max_steps=3, batch_size=8, warmup_ratio=0)
    with pytest.raises(TrainingDiverged, match="the weights are not finite at step 1") as caught:
        train(
            tiny_bert,
            text_dataset,
            settings,
            training_run,
            Objective(loss, FACTS),
            StepHook(rank),
        )
    assert caught.value.step == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_TORCH_DEVICE", "meta"),
        ("LOCAL_RANK", "0"),
    ],
)
def test_weights_do_not_depend_on_what_accelerate_is_told(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun, name: str, value: str,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    settings = TrainingSettings(epochs=1, batch_size=8, learning_rate=2e-3)
    other = tiny_bert.clone()
    arguments = (text_dataset, settings)
    train(tiny_bert, *arguments, in_folder(training_run, "plain"), ON_LABELS)
    monkeypatch.setenv(name, value)
    train(other, *arguments, in_folder(training_run, "told"), ON_LABELS)
    found, expected = weights_of(other), weights_of(tiny_bert)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
