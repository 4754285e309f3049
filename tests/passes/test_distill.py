import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext
from compressor.passes.distill import Distill
from compressor.progress import SILENT

ContextMaker = Callable[[Dataset, Path], PassContext]


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def make_context(tmp_path: Path, notes: list[str]) -> ContextMaker:
    def make(train: Dataset, baseline: Path) -> PassContext:
        return PassContext(
            splits={"train": train},
            load_baseline=lambda: load_checkpoint(baseline),
            device=torch.device("cpu"),
            seed=0,
            work_dir=tmp_path,
            progress=SILENT,
            note=notes.append,
        )

    return make


@pytest.fixture
def other_teacher_dir(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoint that always answers `positive`."""
    directory = tmp_path / "teacher"
    teacher = load_checkpoint(tiny_bert_dir)
    with torch.no_grad():
        teacher.module.classifier.weight.zero_()
        teacher.module.classifier.bias.copy_(torch.tensor([-2.0, 2.0]))
    teacher.save(directory)
    return directory


def logits(model: TorchModel, dataset: Dataset) -> torch.Tensor:
    encoded = model.task.encode(model.preprocessor, dataset.examples)
    return torch.from_numpy(model.predict(encoded))


def test_a_student_learns_from_the_untouched_checkpoint(
    tiny_bert: TorchModel, tiny_bert_dir: Path, text_dataset: Dataset, make_context: ContextMaker
):
    goal = logits(tiny_bert, text_dataset)
    with torch.no_grad():
        tiny_bert.module.classifier.weight.mul_(-0.5)
    before = (logits(tiny_bert, text_dataset) - goal).square().mean()
    settings = Distill(epochs=10, batch_size=8, learning_rate=2e-3)

    student = settings.apply(tiny_bert, make_context(text_dataset, tiny_bert_dir))

    assert (logits(student, text_dataset) - goal).square().mean() < before / 2


def test_a_student_learns_from_another_checkpoint(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    other_teacher_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
):
    settings = Distill(teacher=str(other_teacher_dir), epochs=10, batch_size=8, learning_rate=2e-3)

    student = settings.apply(tiny_bert, make_context(text_dataset, tiny_bert_dir))

    assert (logits(student, text_dataset).argmax(-1) == 1).float().mean() > 0.95


def test_a_student_of_fewer_layers_starts_as_those_layers(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
):
    original = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}
    settings = Distill(student_layers=1, max_steps=1, learning_rate=1e-9, weight_decay=0)

    student = settings.apply(tiny_bert, make_context(text_dataset, tiny_bert_dir))

    state = student.module.state_dict()
    kept = "bert.encoder.layer.0.attention.self.query.weight"
    taken_from = "bert.encoder.layer.1.attention.self.query.weight"
    torch.testing.assert_close(state[kept], original[taken_from], atol=1e-6, rtol=0)
    assert not any(name.startswith("bert.encoder.layer.1.") for name in state)
    assert student.module.config.num_hidden_layers == 1
    assert notes[0] == "the student has layers 1 of 2"


def test_a_student_of_fewer_layers_saves_and_loads(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    tmp_path: Path,
):
    settings = Distill(student_layers=(0,), hidden_weight=1.0, attention_weight=1.0, max_steps=2)
    student = settings.apply(tiny_bert, make_context(text_dataset, tiny_bert_dir))

    student.save(tmp_path / "student")

    loaded = load_checkpoint(tmp_path / "student")
    torch.testing.assert_close(logits(loaded, text_dataset), logits(student, text_dataset))


def test_a_kept_layer_learns_from_the_teachers_layer_it_came_from(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    notes: list[str],
):
    for child in tiny_bert.module.modules():
        if isinstance(child, torch.nn.Dropout):
            child.p = 0.0
    settings = Distill(student_layers=(0,), logits_weight=0.0, hidden_weight=1.0, max_steps=1)

    settings.apply(tiny_bert, make_context(text_dataset, tiny_bert_dir))

    # The student's only layer gives exactly what the teacher's first gives.
    assert notes[1].endswith("loss 0.0000 at the end")


def test_as_many_layers_as_before_are_refused(
    tiny_bert: TorchModel, tiny_bert_dir: Path, text_dataset: Dataset, make_context: ContextMaker
):
    with pytest.raises(ValueError, match=r"student_layers: the model has 2 layers.*got 2"):
        Distill(student_layers=2).apply(tiny_bert, make_context(text_dataset, tiny_bert_dir))


def test_a_teacher_with_labels_in_another_order_is_refused(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    other_teacher_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
):
    config_file = other_teacher_dir / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["id2label"] = {"0": "positive", "1": "negative"}
    config["label2id"] = {"positive": 0, "negative": 1}
    config_file.write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(ValueError, match="the teacher's labels are"):
        Distill(teacher=str(other_teacher_dir)).apply(
            tiny_bert, make_context(text_dataset, tiny_bert_dir)
        )


def test_a_teacher_that_is_not_there_is_an_environment_mismatch(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    tmp_path: Path,
):
    missing = tmp_path / "nowhere"
    shutil.rmtree(missing, ignore_errors=True)

    with pytest.raises(EnvironmentMismatch, match="nowhere"):
        Distill(teacher=str(missing)).apply(tiny_bert, make_context(text_dataset, tiny_bert_dir))


def test_it_reads_the_training_split_alone():
    assert Distill().required_splits() == {"train"}


@pytest.mark.parametrize("layers", [0, -1, (), (1, 0), (0, 0), (-1,), "many"])
def test_student_layers_that_make_no_student_are_refused(layers: object):
    with pytest.raises(ValidationError) as caught:
        Distill.model_validate({"student_layers": layers})

    assert {error["loc"][0] for error in caught.value.errors()} == {"student_layers"}


def test_a_teachers_directory_is_relative_to_the_recipe(tmp_path: Path):
    (tmp_path / "teacher").mkdir()

    settings = Distill.model_validate({"teacher": "teacher"}, context={"base_dir": tmp_path})

    assert settings.teacher == str(tmp_path / "teacher")


def test_student_layers_are_read_from_a_list():
    assert Distill.model_validate({"student_layers": [0, 2]}).student_layers == (0, 2)


def test_a_distillation_that_learns_nothing_is_refused():
    with pytest.raises(ValidationError, match="there is nothing to learn"):
        Distill.model_validate({"logits_weight": 0})
