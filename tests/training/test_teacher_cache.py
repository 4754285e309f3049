"""The teacher's outputs on disk: computed once, read by the row, computed again when damaged."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.progress import SILENT
from compressor.training.distill_settings import DistillSettings
from compressor.training.recovery import distill
from compressor.training.teacher import TeacherOutputs
from compressor.training.teacher_cache import StoredTeacherOutputs
from compressor.training.training_run import StepHook, TrainingRun

ROWS = torch.tensor([41, 3, 7])


@pytest.fixture
def calls(tiny_bert: TorchModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many rows each forward pass of any model read."""
    found: list[int] = []
    predict = TorchModel.predict

    def counting(model: TorchModel, batch: Any) -> Any:
        found.append(len(batch["input_ids"]))
        return predict(model, batch)

    monkeypatch.setattr(TorchModel, "predict", counting)
    return found


def stored(model: TorchModel, dataset: Dataset, folder: Path) -> StoredTeacherOutputs:
    return StoredTeacherOutputs(model, dataset, [1, 0], folder, SILENT)


def test_outputs_are_those_of_the_teacher_and_computed_once(
    tiny_bert: TorchModel, text_dataset: Dataset, tmp_path: Path, calls: list[int]
):
    expected = TeacherOutputs(tiny_bert, text_dataset, [1, 0])(ROWS)
    calls.clear()

    first = stored(tiny_bert, text_dataset, tmp_path)(ROWS)
    second = stored(tiny_bert, text_dataset, tmp_path)(ROWS)

    torch.testing.assert_close(first, expected)
    assert torch.equal(second, first)
    assert calls == [32, 16]


def test_another_teacher_and_other_rows_have_outputs_of_their_own(
    tiny_bert: TorchModel, text_dataset: Dataset, tmp_path: Path, calls: list[int]
):
    stored(tiny_bert, text_dataset, tmp_path)
    with torch.no_grad():
        tiny_bert.module.classifier.bias.add_(1.0)
    stored(tiny_bert, text_dataset, tmp_path)
    fewer = dataclasses.replace(
        text_dataset, examples=text_dataset.examples[:5], labels=text_dataset.labels[:5]
    )
    stored(tiny_bert, fewer, tmp_path)

    assert calls == [32, 16, 32, 16, 5]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["values.f32", "table.npy", "about.json"])
def test_what_is_damaged_is_computed_again(
    tiny_bert: TorchModel, text_dataset: Dataset, tmp_path: Path, calls: list[int], name: str
):
    expected = stored(tiny_bert, text_dataset, tmp_path)(ROWS)
    [file] = tmp_path.rglob(name)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    found = stored(tiny_bert, text_dataset, tmp_path)(ROWS)

    assert torch.equal(found, expected)
    assert calls == [32, 16, 32, 16]


def test_what_a_kill_left_is_computed_again(
    tiny_bert: TorchModel, text_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    predict = TorchModel.predict
    seen: list[int] = []

    def dying(model: TorchModel, batch: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return predict(model, batch)

    monkeypatch.setattr(TorchModel, "predict", dying)
    with pytest.raises(KeyboardInterrupt):
        stored(tiny_bert, text_dataset, tmp_path)

    assert stored(tiny_bert, text_dataset, tmp_path)(ROWS).shape == (3, 2)
    assert len(seen) == 4


class Stopped(BaseException):
    """Ends a run like Ctrl-C, which nothing may catch."""


def test_a_distillation_reads_them_and_goes_on_with_the_same_bytes(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun, tmp_path: Path
):
    teacher = tiny_bert.clone()
    with torch.no_grad():
        teacher.module.classifier.weight.mul_(-1.5)
    plain, undisturbed, stopped = (tiny_bert.clone() for _ in range(3))
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    run = dataclasses.replace(training_run, checkpoint_seconds=0.0)

    def trained(model: TorchModel, place: str, hook: StepHook | None = None, **more: Any) -> None:
        own = dataclasses.replace(run, work_dir=run.work_dir / place)
        read = DistillSettings(**settings, **more)
        distill(model, teacher, text_dataset, read, own, hook=hook)

    def stop(step: int, total: int) -> None:
        if step == 4:
            raise Stopped

    trained(plain, "plain")
    trained(undisturbed, "undisturbed", teacher_cache=tmp_path / "one")
    with pytest.raises(Stopped):
        trained(stopped, "stopped", StepHook(stop), teacher_cache=tmp_path / "two")
    trained(tiny_bert, "stopped", teacher_cache=tmp_path / "two")

    found, expected = tiny_bert.module.state_dict(), undisturbed.module.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    head = plain.module.classifier.weight.detach()  # biases of keys have no gradient but noise
    torch.testing.assert_close(head, expected["classifier.weight"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_probability": 0.1}, "keeps outputs for the rows as they are"),
        ({"hidden_weight": 1.0}, "need the teacher's layers"),
        ({"logits_weight": 0.0, "label_weight": 1.0}, "no output of a teacher is learnt from"),
    ],
)
def test_a_cache_that_could_not_be_used_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        DistillSettings.model_validate({**settings, "teacher_cache": "teacher"})
