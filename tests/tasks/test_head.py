"""What config.json says of a head decides whether there is a choice that could be judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import load_checkpoint
from compressor.tasks.head import HeadProblem, read_labels

TEXT, IMAGE, VECTORS = "text-classification", "image-classification", "sentence-embedding"


@pytest.fixture
def copy(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert_dir, tmp_path / "copy"))


@pytest.fixture
def image_copy(tiny_vit_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_vit_dir, tmp_path / "copy"))


def edit_config(directory: Path, *, without: tuple[str, ...] = (), **changes: Any) -> None:
    place = directory / "config.json"
    config = {**json.loads(place.read_text()), **changes}
    place.write_text(json.dumps({key: config[key] for key in config if key not in without}))


def with_rows(directory: Path, rows: int) -> None:
    """Give the head so many rows."""
    place = directory / "model.safetensors"
    tensors = load_file(place)
    width = tensors["classifier.weight"].shape[1]
    head = {"classifier.weight": torch.ones(rows, width), "classifier.bias": torch.zeros(rows)}
    save_file({**tensors, **head}, place, metadata={"format": "pt"})


NO_NAMES = ("id2label", "label2id")


@pytest.mark.parametrize(
    ("changes", "without", "reason"),
    [
        ({"problem_type": "regression"}, (), "problem_type is regression"),
        ({"problem_type": "ranking"}, (), "problem_type is 'ranking', known are single_label"),
        ({"num_labels": 3}, (), r"num_labels is 3, but id2label names 2 \(negative, positive\)"),
        ({"num_labels": "2"}, NO_NAMES, "num_labels must be a whole number, 1 or more, got '2'"),
        ({"id2label": {"0": "a", "1": "a"}}, (), "calls classes 0, 1 all 'a'"),
        ({"id2label": {}}, (), "id2label must give each class a name"),
        ({"id2label": ["a", "b"]}, (), "id2label must give each class a name"),
        ({"label2id": {"positive": 0, "negative": 1}}, (), "label2id that it is class 1"),
        ({}, ("id2label",), "id2label is missing, and then transformers calls the classes"),
    ],
)
def test_a_head_that_makes_no_choice_or_contradicts_itself_is_refused(
    copy: Path, changes: dict[str, Any], without: tuple[str, ...], reason: str
):
    edit_config(copy, without=without, **changes)
    with pytest.raises(EnvironmentMismatch, match=rf"config\.json: .*{reason}"):
        find_checkpoint(str(copy)).infer_task()
    with pytest.raises(EnvironmentMismatch, match=reason):
        load_checkpoint(copy, task=TEXT)


def test_a_head_of_several_labels_is_a_task_of_its_own(copy: Path):
    edit_config(copy, problem_type="multi_label_classification")
    files = find_checkpoint(str(copy))
    assert files.infer_task() == "multi-label-classification"
    with pytest.raises(EnvironmentMismatch, match="several labels can hold"):
        files.require_head(TEXT)


def test_one_label_that_holds_or_not_is_no_score(copy: Path):
    one = {"id2label": {"0": "toxic"}, "label2id": {"toxic": 0}}
    edit_config(copy, problem_type="multi_label_classification", **one)
    with_rows(copy, 1)
    assert find_checkpoint(str(copy)).infer_task() == "multi-label-classification"
    with pytest.raises(EnvironmentMismatch, match=r"set model\.task: multi-label-classification"):
        find_checkpoint(str(copy)).require_head(TEXT)
    # A reranker says more of itself: the one number is then a score.
    mark = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    edit_config(copy, sentence_transformers=mark)
    assert find_checkpoint(str(copy)).infer_task() == "text-scoring"


def test_one_number_without_a_word_of_labels_that_hold_is_sent_to_scores(copy: Path):
    edit_config(copy, without=NO_NAMES, num_labels=1)
    with_rows(copy, 1)
    with pytest.raises(EnvironmentMismatch, match=r"no problem_type.* or set model\.task: text-sc"):
        find_checkpoint(str(copy)).require_head("multi-label-classification")


def test_image_classifiers_are_asked_too(image_copy: Path):
    edit_config(image_copy, problem_type="multi_label_classification")
    with pytest.raises(EnvironmentMismatch, match="several labels can hold"):
        find_checkpoint(str(image_copy)).infer_task()


def test_rows_of_the_head_that_are_not_as_many_as_labels_are_refused(copy: Path):
    with_rows(copy, 3)
    reason = r"classifier\.weight among the weights has 3 rows.*id2label names 2 labels"
    with pytest.raises(EnvironmentMismatch, match=reason):
        find_checkpoint(str(copy)).require_head(TEXT)


def test_without_names_transformers_takes_two_labels_and_so_do_we(copy: Path):
    edit_config(copy, without=NO_NAMES)
    assert load_checkpoint(copy).labels == ("LABEL_0", "LABEL_1")
    assert transformers.AutoConfig.from_pretrained(copy).num_labels == 2
    with_rows(copy, 3)
    with pytest.raises(EnvironmentMismatch, match="transformers' default names 2 labels"):
        find_checkpoint(str(copy)).infer_task()


def test_label2id_as_transformers_leaves_it_beside_names_does_no_harm():
    config = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    assert read_labels(config) == ("no", "yes")


def test_a_gap_between_the_classes_is_told_by_its_number():
    with pytest.raises(HeadProblem, match=r"no entry for class '1'; it must number .* 0\.\.1"):
        read_labels({"id2label": {"0": "a", "2": "c"}})


@pytest.mark.parametrize(
    "mark",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
)
def test_a_reranker_is_no_classifier_and_is_called_by_its_name(copy: Path, mark: dict[str, Any]):
    edit_config(copy, without=NO_NAMES, num_labels=1, **mark)
    with_rows(copy, 1)
    assert find_checkpoint(str(copy)).infer_task() == "text-scoring"
    with pytest.raises(EnvironmentMismatch, match=r"num_labels is 1 .*a CrossEncoder.*no choice"):
        find_checkpoint(str(copy)).require_head(TEXT)


def test_one_label_by_name_is_no_choice_either(copy: Path):
    edit_config(copy, id2label={"0": "x"}, label2id={"x": 0})
    with pytest.raises(EnvironmentMismatch, match=r"has 2 rows.*id2label names 1 label"):
        find_checkpoint(str(copy)).infer_task()
    with pytest.raises(EnvironmentMismatch, match=r"id2label names one label .*no choice"):
        load_checkpoint(copy, task=TEXT)


def test_one_number_of_an_image_has_no_task(image_copy: Path):
    edit_config(image_copy, without=NO_NAMES, num_labels=1)
    with pytest.raises(EnvironmentMismatch, match="there is no task for such scores"):
        find_checkpoint(str(image_copy)).infer_task()


def as_cross_encoder(directory: Path, **about: Any) -> None:
    """Write the files that sentence-transformers 5.4 and later write beside a CrossEncoder."""
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    modules = [{"idx": 0, "name": "0", "path": "", "type": kind}]
    (directory / "modules.json").write_text(json.dumps(modules))
    content = {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None, **about}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(content))


def test_a_cross_encoder_with_modules_is_no_encoder_of_vectors(copy: Path):
    as_cross_encoder(copy)
    assert find_checkpoint(str(copy)).infer_task() == TEXT
    edit_config(copy, without=NO_NAMES, num_labels=1)
    with_rows(copy, 1)
    assert find_checkpoint(str(copy)).infer_task() == "text-scoring"


def test_a_sigmoid_for_each_of_several_labels_is_refused(copy: Path):
    as_cross_encoder(copy, activation_fn="torch.nn.modules.activation.Sigmoid")
    with pytest.raises(EnvironmentMismatch, match="a sigmoid on each of its 2 outputs"):
        find_checkpoint(str(copy)).infer_task()


def test_a_sparse_encoder_is_no_encoder_of_vectors(tiny_encoder_dir: Path, tmp_path: Path):
    copy = Path(shutil.copytree(tiny_encoder_dir, tmp_path / "copy"))
    (copy / "config_sentence_transformers.json").write_text('{"model_type": "SparseEncoder"}')
    with pytest.raises(EnvironmentMismatch, match="calls it a SparseEncoder"):
        find_checkpoint(str(copy)).infer_task()


@pytest.mark.parametrize(
    ("architecture", "gives"),
    [
        ("BertForMultipleChoice", "chooses between texts"),
        ("GPT2LMHeadModel", "writes text"),
        ("T5ForConditionalGeneration", "writes text"),
        ("DetrForObjectDetection", "finds objects"),
    ],
)
def test_another_head_is_called_what_it_is(copy: Path, architecture: str, gives: str):
    edit_config(copy, architectures=[architecture])
    files = find_checkpoint(str(copy))
    with pytest.raises(EnvironmentMismatch, match=f"{architecture} {gives}"):
        files.infer_task()
    with pytest.raises(EnvironmentMismatch, match=f"{architecture} {gives}.*is not {TEXT}"):
        files.require_head(TEXT)


def test_the_vectors_of_an_encoder_do_not_ask_for_its_head(copy: Path):
    edit_config(copy, without=NO_NAMES, num_labels=1)
    find_checkpoint(str(copy)).require_head(VECTORS)
