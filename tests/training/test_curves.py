import dataclasses
import re
from pathlib import Path

import pytest

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.passes.prune_magnitude.settings import PruneMagnitude
from compressor.training import settings as settings_module
from compressor.training.recovery import finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import TrainingRun


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Return what TensorBoard itself would draw."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.fixture
def settings(tmp_path: Path) -> FinetuneSettings:
    pytest.importorskip("tensorboard")
    return FinetuneSettings(
        tensorboard=tmp_path / "curves",
        max_steps=4,
        batch_size=8,
        learning_rate=1e-3,
        warmup_ratio=0.5,
    )


def test_loss_and_learning_rate_of_every_step_are_written(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    settings: FinetuneSettings,
    tmp_path: Path,
):
    run = dataclasses.replace(training_run, description="recovery after step 1 of 3")

    summary = finetune(tiny_bert, text_dataset, settings, run)

    [folder] = (tmp_path / "curves").iterdir()
    assert re.fullmatch("recovery-after-step-1-of-3-[0-9a-f]{8}", folder.name)
    losses = curve(folder, "loss")
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    assert losses[-1][1] == pytest.approx(summary.final_loss)
    # Two of four steps warm up; then it falls to zero.
    rates = [value for _, value in curve(folder, "learning_rate")]
    assert rates == pytest.approx([0.0, 0.5e-3, 1e-3, 0.5e-3])


def test_a_run_that_goes_on_draws_each_step_once(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    settings: FinetuneSettings,
    tmp_path: Path,
):
    class Stopped(BaseException):
        pass

    def stop(step: int, total: int) -> None:
        if step == 3:
            raise Stopped

    start = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}
    run = dataclasses.replace(training_run, checkpoint_seconds=0.0)
    with pytest.raises(Stopped):
        finetune(tiny_bert, text_dataset, settings, run, after_step=stop)
    tiny_bert.module.load_state_dict(start)

    finetune(tiny_bert, text_dataset, settings, run)

    [folder] = (tmp_path / "curves").iterdir()
    assert [step for step, _ in curve(folder, "loss")] == [1, 2, 3, 4]


def test_two_trainings_of_one_name_have_curves_of_their_own(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    settings: FinetuneSettings,
    tmp_path: Path,
):
    finetune(tiny_bert, text_dataset, settings, training_run)

    finetune(tiny_bert, text_dataset, settings, training_run)  # begins from other weights

    assert len(list((tmp_path / "curves").iterdir())) == 2


def test_curves_do_not_make_it_another_training(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    settings: FinetuneSettings,
):
    start = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}
    without = settings.model_copy(update={"tensorboard": None})
    first = finetune(tiny_bert, text_dataset, without, training_run)
    tiny_bert.module.load_state_dict(start)

    assert finetune(tiny_bert, text_dataset, settings, training_run) == first


def test_a_missing_package_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(settings_module, "find_spec", lambda name: None)
    training = FinetuneSettings(tensorboard=Path("curves"))
    step = PruneMagnitude(on_failure=None, sparsity=0.5, finetune=training)

    [(setting, why)] = step.missing_packages()

    assert setting == "finetune.tensorboard"
    assert "needs the package tensorboard" in why


def test_the_folder_is_relative_to_the_recipe(tmp_path: Path):
    pytest.importorskip("tensorboard")
    found = FinetuneSettings.model_validate(
        {"tensorboard": "curves"}, context={"base_dir": tmp_path}
    )

    assert found.tensorboard == tmp_path / "curves"
