"""A training run that is stopped at any moment ends as if nothing had happened."""

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes.prune_magnitude.masks import MaskedParameters, magnitude_mask
from compressor.progress import Advance
from compressor.training.distill_settings import DistillSettings
from compressor.training.recovery import distill, finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import StepHook, TrainingRun

# 48 rows in batches of 7 are 7 steps an epoch; dropout is on in every model here.
STEPS = 7
FINETUNE = FinetuneSettings(epochs=2, batch_size=7, schedule="cosine")
DISTILL = DistillSettings(epochs=2, batch_size=7, label_weight=0.5)
MakeModel = Callable[[], TorchModel]


class Stopped(BaseException):
    """Ends a run like Ctrl-C, which nothing may catch."""


class StoppingProgress:
    """Stops a run from outside when it tells of a certain step."""

    def __init__(self, step: int) -> None:
        self.left = step

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        def advance(amount: int = 1, detail: str = "") -> None:
            self.left -= amount
            if self.left <= 0:
                raise Stopped

        yield advance


@pytest.fixture
def run(training_run: TrainingRun) -> TrainingRun:
    return dataclasses.replace(training_run, checkpoint_seconds=0.0)


@pytest.fixture
def model(tiny_bert_dir: Path) -> MakeModel:
    return lambda: load_checkpoint(tiny_bert_dir)


@pytest.fixture
def teacher(tiny_bert_dir: Path) -> TorchModel:
    """Return a teacher whose predictions are not the student's."""
    teacher = load_checkpoint(tiny_bert_dir)
    with torch.no_grad():
        teacher.module.classifier.weight.mul_(-1.5)
    return teacher


def weights_of(model: TorchModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(value, expected[name]) for name, value in found.items()
    )


def elsewhere(run: TrainingRun) -> TrainingRun:
    return dataclasses.replace(run, work_dir=run.work_dir.with_name("undisturbed"))


def stop_at(step: int) -> Callable[[int, int], None]:
    def after_step(now: int, total: int) -> None:
        if now == step:
            raise Stopped

    return after_step


@pytest.mark.parametrize("step", [1, 3, STEPS, STEPS + 1, 2 * STEPS])
def test_a_run_that_is_stopped_at_a_step_ends_with_the_same_weights_and_loss(
    step: int, model: MakeModel, text_dataset: Dataset, run: TrainingRun
):
    undisturbed, stopped, resumed = model(), model(), model()
    expected = finetune(undisturbed, text_dataset, FINETUNE, elsewhere(run))

    with pytest.raises(Stopped):
        finetune(stopped, text_dataset, FINETUNE, run, hook=StepHook(stop_at(step)))
    found = finetune(resumed, text_dataset, FINETUNE, run)

    assert equal(weights_of(resumed), weights_of(undisturbed))
    assert not equal(weights_of(resumed), weights_of(model()))
    assert (found.steps, found.final_loss) == (expected.steps, expected.final_loss)


def test_a_run_that_is_stopped_twice_repeats_no_step_before_its_checkpoint(
    model: MakeModel, text_dataset: Dataset, run: TrainingRun, progress: Any
):
    seen: list[int] = []

    def stopping(step: int, total: int) -> None:
        seen.append(step)
        if step in (4, 9) and seen.count(step) == 1:
            raise Stopped

    for _ in range(2):
        with pytest.raises(Stopped):
            finetune(model(), text_dataset, FINETUNE, run, hook=StepHook(stopping))
    finetune(model(), text_dataset, FINETUNE, run, hook=StepHook(stopping))

    assert seen == [*range(1, 5), *range(4, 10), *range(9, 2 * STEPS + 1)]
    assert len(progress.details) == 3 + 3 + 5 + 8 + 6


def test_what_was_finished_is_not_trained_again(
    model: MakeModel, text_dataset: Dataset, run: TrainingRun, progress: Any
):
    first, second = model(), model()
    expected = finetune(first, text_dataset, FINETUNE, run)

    found = finetune(second, text_dataset, FINETUNE, run, hook=StepHook(stop_at(1)))

    assert equal(weights_of(second), weights_of(first))
    assert found == expected
    assert progress.details[-1] == "finished before"
    assert not second.module.training


@pytest.mark.parametrize("stop", [3, STEPS, STEPS + 2])
def test_distillation_goes_on_with_the_predictions_that_the_teacher_gave(
    stop: int,
    model: MakeModel,
    teacher: TorchModel,
    text_dataset: Dataset,
    run: TrainingRun,
):
    undisturbed, resumed = model(), model()
    distill(undisturbed, teacher, text_dataset, DISTILL, elsewhere(run))

    stopping = dataclasses.replace(run, progress=StoppingProgress(stop))
    with pytest.raises(Stopped):
        distill(model(), teacher, text_dataset, DISTILL, stopping)
    distill(resumed, teacher, text_dataset, DISTILL, run)

    assert equal(weights_of(resumed), weights_of(undisturbed))


def test_masks_are_held_from_where_they_were(
    model: MakeModel, text_dataset: Dataset, run: TrainingRun
):
    def train(
        run: TrainingRun, stop: int | None = None
    ) -> tuple[dict[str, Tensor], tuple[int, int]]:
        trained = model()
        name = "bert.encoder.layer.0.output.dense.weight"
        held = MaskedParameters({name: trained.module.get_parameter(name)})

        def after_step(step: int, total: int) -> None:
            if step == 3:
                weight = held.parameters[name]
                held.set_masks({name: magnitude_mask(weight, sparsity=0.5)})
            held.hold()
            if step == stop:
                raise Stopped

        hook = StepHook(after_step, kept={"masks": held})
        finetune(trained, text_dataset, FINETUNE, run, hook=hook)
        return weights_of(trained), held.zeros()

    expected, zeros = train(elsewhere(run))
    with pytest.raises(Stopped):
        train(run, stop=9)
    found, zeros_found = train(run)

    assert equal(found, expected)
    assert zeros_found == zeros == (32 * 64 // 2, 32 * 64)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-4},
        {"epochs": 3},
        {"schedule": "linear"},
        {"freeze_embeddings": True},
    ],
)
def test_other_settings_start_from_the_beginning(
    change: dict[str, Any], model: MakeModel, text_dataset: Dataset, run: TrainingRun
):
    other = FINETUNE.model_copy(update=change)
    undisturbed, found = model(), model()
    finetune(undisturbed, text_dataset, other, elsewhere(run))
    with pytest.raises(Stopped):
        finetune(model(), text_dataset, FINETUNE, run, hook=StepHook(stop_at(5)))

    finetune(found, text_dataset, other, run)

    assert equal(weights_of(found), weights_of(undisturbed))


def test_other_weights_seeds_rows_and_goals_start_from_the_beginning(
    model: MakeModel, text_dataset: Dataset, run: TrainingRun
):
    other = model()
    with torch.no_grad():
        other.module.classifier.bias.add_(1e-3)
    reversed_rows = dataclasses.replace(
        text_dataset, examples=text_dataset.examples[::-1], labels=text_dataset.labels[::-1].copy()
    )
    first_steps: list[int] = []

    def note(step: int, total: int) -> None:
        first_steps.append(step)
        if len(first_steps) % 3 == 0:
            raise Stopped

    def attempt(trained: TorchModel, data: Dataset, run: TrainingRun, goal: str) -> None:
        hook = StepHook(note, {"goal": goal})
        with pytest.raises(Stopped):
            finetune(trained, data, FINETUNE, run, hook=hook)

    attempt(model(), text_dataset, run, "a")
    attempt(other, text_dataset, run, "a")
    attempt(model(), text_dataset, dataclasses.replace(run, seed=1), "a")
    attempt(model(), reversed_rows, run, "a")
    attempt(model(), text_dataset, run, "b")

    assert first_steps == [1, 2, 3] * 5


def test_a_damaged_checkpoint_starts_from_the_beginning(
    model: MakeModel, text_dataset: Dataset, run: TrainingRun
):
    undisturbed, found = model(), model()
    finetune(undisturbed, text_dataset, FINETUNE, elsewhere(run))
    with pytest.raises(Stopped):
        finetune(model(), text_dataset, FINETUNE, run, hook=StepHook(stop_at(5)))
    checkpoint = run.work_dir / "training.safetensors"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 255
    checkpoint.write_bytes(content)
    seen: list[int] = []

    finetune(found, text_dataset, FINETUNE, run, hook=StepHook(lambda step, _: seen.append(step)))

    assert seen == list(range(1, 2 * STEPS + 1))
    assert equal(weights_of(found), weights_of(undisturbed))


def test_without_enough_time_no_checkpoint_is_written(
    model: MakeModel, text_dataset: Dataset, training_run: TrainingRun
):
    run = dataclasses.replace(training_run, checkpoint_seconds=3600.0)

    with pytest.raises(Stopped):
        finetune(model(), text_dataset, FINETUNE, run, hook=StepHook(stop_at(5)))

    assert not (run.work_dir / "training.safetensors").exists()


KILLED_AT = 10
SCRIPT = f"""
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from compressor.data import Dataset
from compressor.models.torch_model import load_checkpoint
from compressor.training.recovery import distill
from compressor.training.training_run import TrainingRun
from compressor.training.distill_settings import DistillSettings

student, teacher = load_checkpoint(sys.argv[1]), load_checkpoint(sys.argv[1])
with torch.no_grad():
    teacher.module.classifier.weight.mul_(-1.5)
texts = tuple(Path(sys.argv[2]).read_text(encoding="utf-8").splitlines())
labels = np.arange(len(texts)) % 2
dataset = Dataset("train", texts, labels, np.arange(len(texts)), "generated")
settings = DistillSettings(epochs=2, batch_size=7, label_weight=0.5)
steps = []


class Killing:
    @contextmanager
    def bar(self, description, total):
        def advance(amount=1, detail=""):
            steps.append(detail)
            if len(steps) == {KILLED_AT}:
                os.kill(os.getpid(), signal.SIGKILL)
        yield advance


run = TrainingRun(torch.device("cpu"), 0, Path(sys.argv[3]), Killing(), "training", 0.0)
distill(student, teacher, dataset, settings, run)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_process_that_is_killed_goes_on_in_the_next(
    model: MakeModel,
    teacher: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    tmp_path: Path,
    run: TrainingRun,
    progress: Any,
):
    texts = tmp_path / "texts"
    texts.write_text("\n".join(map(str, text_dataset.examples)), encoding="utf-8")
    undisturbed, resumed = model(), model()

    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_bert_dir), str(texts), str(run.work_dir)],
        check=False,
    )
    distill(resumed, teacher, text_dataset, DISTILL, run)

    assert killed.returncode == -signal.SIGKILL
    assert len(set(progress.details[:KILLED_AT])) == 1  # told at once
    assert len(progress.details) == 2 * STEPS
    distill(undisturbed, teacher, text_dataset, DISTILL, elsewhere(run))
    assert equal(weights_of(resumed), weights_of(undisturbed))


def test_a_finished_distillation_keeps_no_predictions_of_the_teacher(
    model: MakeModel, teacher: TorchModel, text_dataset: Dataset, run: TrainingRun
):
    distill(model(), teacher, text_dataset, DISTILL, run)

    with safe_open(run.work_dir / "trained.safetensors", framework="pt") as content:
        names = list(content.keys())
    assert names
    assert not [name for name in names if "teacher" in name]
