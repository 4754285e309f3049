import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from masked_texts import save_masked_model
from torch import Tensor, nn

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.training.distill_settings import DistillSettings
from compressor.training.recovery import check_distillation, distill, finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.trainer import TrainingDiverged, TrainingRun

SHORT = FinetuneSettings(max_steps=3, batch_size=8)
LEARN = {"epochs": 25, "batch_size": 8, "learning_rate": 2e-3}


@pytest.fixture
def teacher(tiny_bert_dir: Path) -> TorchModel:
    """Return the weights of `tiny_bert`, trained towards nothing: a random function to imitate."""
    return load_checkpoint(tiny_bert_dir)


@pytest.fixture
def student(tiny_bert: TorchModel) -> TorchModel:
    """Return a model that predicts differently than the teacher."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in tiny_bert.module.named_parameters():
            if "encoder" in name or "classifier" in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise)
    for child in tiny_bert.module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
    return tiny_bert


def weights_of(model: TorchModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def inside(model: TorchModel, dataset: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, hidden states and head-averaged attention, computed with eager attention."""
    encoded = model.task.encode(model.preprocessor, dataset.examples)
    inputs = {name: torch.from_numpy(value) for name, value in encoded.items()}
    before = model.module.config._attn_implementation
    model.module.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model.module(**inputs, output_hidden_states=True, output_attentions=True)
    model.module.set_attn_implementation(before)
    mask = inputs["attention_mask"]
    states = torch.stack(outputs.hidden_states) * mask[:, :, None]
    maps = torch.stack(outputs.attentions).mean(dim=2) * mask[:, :, None]
    return outputs.logits, states, maps


def distances(student: TorchModel, teacher: TorchModel, dataset: Dataset) -> list[float]:
    pairs = zip(inside(student, dataset), inside(teacher, dataset), strict=True)
    return [float((own - other).square().mean()) for own, other in pairs]


def test_finetune_without_labels_is_refused(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    unlabelled = dataclasses.replace(text_dataset, labels=None)

    with pytest.raises(ValueError, match="generated: fine-tuning needs labels"):
        finetune(tiny_bert, unlabelled, SHORT, training_run)


def test_finetune_lowers_the_loss_on_the_labels(
    student: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    first = finetune(student, text_dataset, FinetuneSettings(max_steps=1), training_run)
    last = finetune(student, text_dataset, FinetuneSettings(**LEARN), training_run)

    assert last.final_loss < first.final_loss / 2


def test_finetune_tells_what_diverged(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    with torch.no_grad():
        tiny_bert.module.classifier.weight[0, 0] = float("nan")

    with pytest.raises(TrainingDiverged) as caught:
        finetune(tiny_bert, text_dataset, SHORT, training_run)

    assert caught.value.step == 1


def test_distilling_logits_without_labels_brings_the_student_closer(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    unlabelled = dataclasses.replace(text_dataset, labels=None)
    before = distances(student, teacher, text_dataset)
    teacher_weights = weights_of(teacher)

    distill(student, teacher, unlabelled, DistillSettings(**LEARN), training_run)

    after = distances(student, teacher, text_dataset)
    assert after[0] < before[0] / 2
    assert all(
        torch.equal(value, teacher_weights[name]) for name, value in weights_of(teacher).items()
    )


def test_distilling_hidden_states_brings_them_closer(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    before = distances(student, teacher, text_dataset)
    settings = DistillSettings(**LEARN, logits_weight=0.0, hidden_weight=1.0)

    summary = distill(student, teacher, text_dataset, settings, training_run)

    assert distances(student, teacher, text_dataset)[1] < before[1] / 4
    assert summary.final_loss < 0.1


def test_distilling_attention_brings_it_closer_and_restores_how_it_is_computed(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    before = distances(student, teacher, text_dataset)
    settings = DistillSettings(**LEARN, logits_weight=0.0, attention_weight=1.0)

    distill(student, teacher, text_dataset, settings, training_run)

    assert distances(student, teacher, text_dataset)[2] < before[2] / 2
    assert student.module.config._attn_implementation == "sdpa"
    assert teacher.module.config._attn_implementation == "sdpa"


def test_attention_is_restored_when_training_fails(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    settings = DistillSettings(attention_weight=1.0)

    with pytest.raises(ValueError, match="layer_map"):
        distill(student, teacher, text_dataset, settings, training_run, layer_map=[(0, 9)])

    assert student.module.config._attn_implementation == "sdpa"


def test_a_copy_of_the_teacher_has_no_loss_of_any_kind(
    teacher: TorchModel, tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    for child in tiny_bert.module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
    settings = DistillSettings(hidden_weight=1.0, attention_weight=1.0, max_steps=1)

    summary = distill(tiny_bert, teacher, text_dataset, settings, training_run)

    assert summary.final_loss == pytest.approx(0.0, abs=1e-5)


def test_images_are_distilled_too(
    tiny_vit: TorchModel, tiny_vit_dir: Path, image_dataset: Dataset, training_run: TrainingRun
):
    teacher = load_checkpoint(tiny_vit_dir)
    settings = DistillSettings(hidden_weight=1.0, attention_weight=1.0, max_steps=1)

    summary = distill(tiny_vit, teacher, image_dataset, settings, training_run)

    assert summary.final_loss == pytest.approx(0.0, abs=1e-5)


def test_dropout_on_attention_keeps_the_loss_finite(
    tiny_bert: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    for child in tiny_bert.module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.9
    settings = DistillSettings(attention_weight=1.0, max_steps=3, batch_size=8)

    summary = distill(tiny_bert, teacher, text_dataset, settings, training_run)

    assert np.isfinite(summary.final_loss)


def test_labels_and_teacher_are_learnt_together(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    both = DistillSettings(label_weight=2.0, max_steps=1, batch_size=48)
    teacher_alone = DistillSettings(max_steps=1, batch_size=48)
    start = weights_of(student)

    together = distill(student, teacher, text_dataset, both, training_run).final_loss
    student.module.load_state_dict(start)
    alone = distill(student, teacher, text_dataset, teacher_alone, training_run).final_loss
    student.module.load_state_dict(start)
    labels = finetune(
        student, text_dataset, FinetuneSettings(max_steps=1, batch_size=48), training_run
    ).final_loss

    assert together == pytest.approx(alone + 2.0 * labels, rel=1e-5)


def test_the_teacher_predicts_once_a_row_over_many_epochs(
    student: TorchModel,
    teacher: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
):
    asked: list[int] = []
    forward = TorchModel.predict

    def counting(model: TorchModel, batch: dict[str, np.ndarray]) -> np.ndarray:
        asked.append(len(batch["input_ids"]))
        return forward(model, batch)

    monkeypatch.setattr(TorchModel, "predict", counting)
    distill(student, teacher, text_dataset, DistillSettings(epochs=3, batch_size=7), training_run)

    assert sum(asked) == len(text_dataset)


def test_the_teacher_predicts_only_for_rows_that_are_trained_on(
    student: TorchModel,
    teacher: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
):
    asked: list[int] = []
    forward = TorchModel.predict

    def counting(model: TorchModel, batch: dict[str, np.ndarray]) -> np.ndarray:
        asked.append(len(batch["input_ids"]))
        return forward(model, batch)

    monkeypatch.setattr(TorchModel, "predict", counting)
    distill(
        student, teacher, text_dataset, DistillSettings(max_steps=2, batch_size=8), training_run
    )

    assert asked == [8, 8]


def test_two_distillations_with_one_seed_give_the_same_weights(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    start = weights_of(student)
    settings = DistillSettings(
        hidden_weight=1.0, attention_weight=1.0, label_weight=1.0, max_steps=5, batch_size=8
    )

    distill(student, teacher, text_dataset, settings, training_run)
    first = weights_of(student)
    student.module.load_state_dict(start)
    elsewhere = dataclasses.replace(training_run, work_dir=training_run.work_dir / "again")
    distill(student, teacher, text_dataset, settings, elsewhere)

    assert all(torch.equal(value, first[name]) for name, value in weights_of(student).items())


def test_a_student_learns_from_changed_texts(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    before = distances(student, teacher, text_dataset)
    as_they_are = student.clone()
    for model, chance in ((student, 0.5), (as_they_are, 0.0)):
        settings = DistillSettings(
            **LEARN, join_probability=chance, mask_probability=0.1, drop_probability=0.1
        )
        distill(model, teacher, text_dataset, settings, training_run)
    assert distances(student, teacher, text_dataset)[0] < 0.9 * before[0]
    own, other = weights_of(student), weights_of(as_they_are)
    assert any(not torch.equal(own[name], other[name]) for name in own)


def test_logits_are_learnt_by_squared_errors(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    before = distances(student, teacher, text_dataset)[0]
    settings = DistillSettings.model_validate({**LEARN, "logits_loss": "mse"})

    summary = distill(student, teacher, text_dataset, settings, training_run)

    after = distances(student, teacher, text_dataset)[0]
    assert after < before / 4
    # The loss is the very distance, of batches of eight.
    assert summary.final_loss == pytest.approx(after, rel=0.5)


@pytest.mark.parametrize(
    "settings", [{"temperature": 4.0}, {"logits_weight": 0, "hidden_weight": 1}]
)
def test_squared_errors_of_logits_are_refused_where_they_do_nothing(settings: dict[str, float]):
    with pytest.raises(ValueError, match="would do nothing with log"):
        DistillSettings.model_validate({**settings, "logits_loss": "mse"})


def shifted(model: TorchModel, by: float) -> TorchModel:
    """Return a teacher whose logits of the first class are higher by so much."""
    found = model.clone()
    with torch.no_grad():
        found.module.classifier.bias[0] += by
    return found


@pytest.mark.parametrize("more", [{}, {"hidden_weight": 0.1}])
def test_several_teachers_are_learnt_as_their_mean(
    student: TorchModel,
    teacher: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    more: dict[str, float],
):
    teachers = [shifted(teacher, 3.0), shifted(teacher, -1.0)]
    settings = DistillSettings.model_validate({**LEARN, "logits_loss": "mse", **more})

    distill(student, teachers[0], text_dataset, settings, training_run, more=teachers[1:])

    # Squared errors towards both are least at their mean.
    found = (inside(student, text_dataset)[0] - inside(teacher, text_dataset)[0]).mean(dim=0)
    assert found[0].item() == pytest.approx(1.0, abs=0.3)
    assert found[1].item() == pytest.approx(0.0, abs=0.3)


def test_a_loss_towards_two_teachers_is_the_mean_of_both(
    student: TorchModel, teacher: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    teachers = [shifted(teacher, 3.0), shifted(teacher, -1.0)]
    settings = DistillSettings(max_steps=1, batch_size=48)

    def loss(name: str, *wanted: TorchModel) -> float:
        run = dataclasses.replace(training_run, work_dir=training_run.work_dir / name)
        own = student.clone()
        own.module.eval()
        first, *more = wanted
        plain = settings.model_copy(update={"dropout": False})
        return distill(own, first, text_dataset, plain, run, more=more).final_loss

    each = [loss("one", teachers[0]), loss("other", teachers[1])]
    assert loss("both", *teachers) == pytest.approx(sum(each) / 2)


def test_every_teacher_of_hidden_words_reads_the_same_tokens(tmp_path: Path):
    model = load_checkpoint(save_masked_model(tmp_path / "model"))
    other = load_checkpoint(save_masked_model(tmp_path / "other"))
    written = tmp_path / "other" / "tokenizer.json"
    found = json.loads(written.read_text())
    words = found["model"]["vocab"]
    words["film"], words["plot"] = words["plot"], words["film"]
    written.write_text(json.dumps(found))
    renumbered = load_checkpoint(tmp_path / "other")
    rows = Dataset("train", ("a good film", "the plot"), None, np.arange(2), "generated")

    check_distillation(model, other, rows, DistillSettings(), more=[other])
    with pytest.raises(StepFailed, match="the teacher reads examples in another way"):
        check_distillation(model, other, rows, DistillSettings(), more=[renumbered])
