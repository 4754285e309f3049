"""Rows without labels are learnt from the teacher alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressor.data import Dataset, describe_splits
from compressor.data.further_rows import read_further_rows
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.passes import PassContext, apply_pass
from compressor.passes.distill.settings import Distill
from compressor.passes.distill.unlabelled import with_unlabelled

ContextMaker = Callable[..., PassContext]


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "more.csv"
    path.write_text("content\n" + "".join(f"good film number {row}\n" for row in range(30)))
    return {"path": str(path), "text": "content"}


def distill(source: dict[str, Any] | None, **settings: Any) -> Distill:
    return Distill.model_validate({"unlabelled": source, "batch_size": 8, **settings})


def test_the_rows_come_after_those_of_the_split(
    tiny_bert: TorchModel, text_dataset: Dataset, source: dict[str, Any]
):
    settings = distill({**source, "max_rows": 4}, label_weight=0.5)
    found = with_unlabelled(settings, text_dataset, tiny_bert.task)
    assert found.examples[:48] == text_dataset.examples
    assert found.examples[48:] == tuple(f"good film number {row}" for row in (0, 10, 19, 29))
    assert found.labels is not None
    assert found.labels[:48].tolist() == text_dataset.labels.tolist()
    assert found.labels[48:].tolist() == [-100] * 4
    assert with_unlabelled(distill(source), text_dataset, tiny_bert.task).labels is None
    assert with_unlabelled(distill(None), text_dataset, tiny_bert.task) is text_dataset


def test_a_student_learns_from_them_what_the_teacher_says(
    tiny_bert: TorchModel,
    tiny_bert_dir: Path,
    text_dataset: Dataset,
    make_context: ContextMaker,
    source: dict[str, Any],
):
    texts = [f"good film number {row}" for row in range(30)]
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, texts)
    goal = tiny_bert.predict(batch)
    with torch.no_grad():
        tiny_bert.module.classifier.weight.mul_(-0.5)
    before = float(np.mean(np.square(tiny_bert.predict(batch) - goal)))
    one = Dataset("train", ("bad",), np.array([0]), np.arange(1), "one row")
    settings = distill(source, epochs=30, learning_rate=2e-3, label_weight=0.5)
    context = make_context(tiny_bert_dir, train=one)
    student = apply_pass(settings, tiny_bert, context)
    assert float(np.mean(np.square(student.predict(batch) - goal))) < before / 2


def test_rows_that_stand_in_a_split_too_are_counted(
    tiny_bert: TorchModel, text_dataset: Dataset, source: dict[str, Any]
):
    with Path(source["path"]).open("a") as stream:
        stream.write("".join(f'"{text}"\n' for text in text_dataset.examples[:3]))
    settings = distill(source)
    assert settings.further_rows == settings.unlabelled
    assert distill(None).further_rows is None
    further = read_further_rows(settings.unlabelled, tiny_bert.task)
    records = describe_splits({"certification": text_dataset, "passes[0]": further})
    assert records[0].shared_with == {"passes[0]": 3}
    assert (records[1].num_examples, records[1].shared_with) == (33, {"certification": 3})


def test_rows_that_do_not_fit_are_named(
    tiny_bert: TorchModel, text_dataset: Dataset, source: dict[str, Any], tmp_path: Path
):
    def told(given: dict[str, Any]) -> str:
        with pytest.raises(StepFailed) as caught:
            with_unlabelled(distill(given), text_dataset, tiny_bert.task)
        return str(caught.value)

    assert "unlabelled: " in told({"path": source["path"]})
    assert "no column 'text'" in told({"path": source["path"]})
    (tmp_path / "empty.csv").write_text("content\n")
    assert "has no rows" in told({**source, "path": str(tmp_path / "empty.csv")})
    pairs = {**source, "text": ["content", "content"]}
    assert "holds pairs of texts, and the split 'train' single texts" in told(pairs)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"unlabelled": {"hub": "org/name"}}, "give path"),
        ({"unlabelled": {"path": "a.csv", "label": "label"}}, "label is not read"),
        ({"unlabelled": {"path": "a.csv"}, "margin_weight": 0.5}, "candidates of a query"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, Any], why: str):
    with pytest.raises(ValidationError, match=why):
        Distill.model_validate(settings)


def test_the_file_is_a_part_of_the_key_and_its_absence_of_other_recipes(source: dict[str, Any]):
    settings = distill(source)
    assert settings.required_files() == {"unlabelled.path": Path(source["path"])}
    assert settings.settings["unlabelled"]["text"] == "content"
    assert "unlabelled" not in distill(None).settings


def test_images_that_the_rows_name_are_a_part_of_the_key(source: dict[str, Any], tmp_path: Path):
    assert list(distill(source).file_digests()) == ["unlabelled.path"]
    (tmp_path / "pictures.csv").write_text("image\na.png\nb.png\n")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    settings = distill({"path": str(tmp_path / "pictures.csv")})
    before = settings.file_digests()
    assert settings.file_digests() == before
    (tmp_path / "b.png").write_bytes(b"another picture")
    assert settings.file_digests() != before


def test_a_file_that_is_not_there_is_told_before_a_run(source: dict[str, Any]):
    assert list(distill(source).missing_packages()) == []
    [(setting, why)] = distill({"path": "nothing.csv"}).missing_packages()
    assert setting == "unlabelled.path"
    assert why.startswith("nothing.csv ")
    assert why.endswith("paths are relative to the recipe")
