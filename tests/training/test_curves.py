import ast
import dataclasses
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.models.torch_model import TorchModel
from compressor.passes.prune_magnitude.settings import PruneMagnitude
from compressor.training import curves as curves_module
from compressor.training import settings as settings_module
from compressor.training.recovery import finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import Scorer, StepHook, TrainingRun


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
        finetune(tiny_bert, text_dataset, settings, run, hook=StepHook(stop))
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


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let both trackers write below a folder, without any network."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    return tmp_path


def tracked_settings(tracker: str, **more: object) -> FinetuneSettings:
    return FinetuneSettings.model_validate(
        {
            "track": [tracker],
            "track_project": "tries",
            "max_steps": 4,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "warmup_ratio": 0.5,
            **more,
        }
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mlflow_gets_settings_and_every_step_also_of_a_run_that_goes_on(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun, tracking: Path
):
    mlflow = pytest.importorskip("mlflow")
    settings = tracked_settings("mlflow", evaluations=2)
    scorer = Scorer(lambda model: 0.25, "fixed")
    run = dataclasses.replace(training_run, checkpoint_seconds=0.0, scorer=scorer)
    start = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}

    def stop(step: int, total: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_bert, text_dataset, settings, run, hook=StepHook(stop))
    client = mlflow.MlflowClient()
    [number] = [each.experiment_id for each in client.search_experiments() if each.name == "tries"]
    assert [each.info.status for each in client.search_runs([number])] == ["FAILED"]
    tiny_bert.module.load_state_dict(start)

    summary = finetune(tiny_bert, text_dataset, settings, run)

    [found] = client.search_runs([number])  # the same run
    assert found.info.status == "FINISHED"
    assert found.data.params["learning_rate"] == "0.001"
    assert "track" not in found.data.params
    losses = {
        item.step: item.value for item in client.get_metric_history(found.info.run_id, "loss")
    }
    assert sorted(losses) == [1, 2, 3, 4]
    assert losses[4] == pytest.approx(summary.final_loss)
    scores = client.get_metric_history(found.info.run_id, "score")
    assert {(item.step, item.value) for item in scores} == {(2, 0.25), (4, 0.25)}


def written_by_wandb(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file of an offline run, which has the form of LevelDB's log."""
    place, block, record = 7, 1 << 15, b""
    while place < len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_weights_and_biases_gets_settings_and_every_step(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun, tracking: Path
):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    summary = finetune(tiny_bert, text_dataset, tracked_settings("wandb"), training_run)

    [path] = tracking.glob("wandb/offline-run-*/*.wandb")
    losses, config, project = {}, {}, ""
    for content in written_by_wandb(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        items = {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        if "loss" in items:
            losses[items["_step"]] = items["loss"]
        project = record.run.project or project
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    assert sorted(losses) == [1, 2, 3, 4]
    assert losses[4] == pytest.approx(summary.final_loss)
    assert project == "tries"
    assert config["batch_size"] == 8


def test_a_tracker_that_does_not_answer_ends_the_training_with_what_to_do(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    tracking: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(EnvironmentMismatch, match="track: mlflow could not be written to"):
        finetune(tiny_bert, text_dataset, tracked_settings("mlflow"), training_run)


def test_trackers_are_no_part_of_what_is_trained(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun, tracking: Path
):
    pytest.importorskip("mlflow")
    start = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}
    settings = tracked_settings("mlflow")
    without = settings.model_copy(update={"track": (), "track_project": None})
    first = finetune(tiny_bert, text_dataset, without, training_run)
    tiny_bert.module.load_state_dict(start)

    assert finetune(tiny_bert, text_dataset, settings, training_run) == first


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tracker: str
):
    monkeypatch.setattr(settings_module, "find_spec", lambda name: None)
    step = PruneMagnitude(sparsity=0.5, finetune=tracked_settings(tracker))

    [(setting, why)] = step.missing_packages()

    assert setting == "finetune.track"
    assert f"install compressor with its extra '{tracker}'" in why


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"track_project": "x"}, "track_project would do nothing without track"),
        ({"track": ["mlflow", "mlflow"]}, "track: name each once"),
    ],
)
def test_what_says_nothing_of_a_tracker_is_refused(given: dict[str, object], said: str):
    with pytest.raises(ValidationError, match=said):
        FinetuneSettings.model_validate(given)


def test_no_tracker_is_imported_unless_it_is_asked_for():
    tree = ast.parse(Path(curves_module.__file__).read_text(encoding="utf-8"))
    at_the_top = {
        name.name.split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import)
        for name in node.names
    } | {str(node.module).split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}

    assert at_the_top & {"transformers", "mlflow", "wandb", "torch"} == {"transformers"}


def test_processes_that_follow_write_nothing():
    with curves_module.curves(None) as callbacks:
        assert callbacks == []
