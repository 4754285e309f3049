"""A shipped artifact is complete, checked when it is loaded, and works without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compressor.artifact import (
    MANIFEST,
    load_artifact,
    seal_artifact,
    sha256,
    write_artifact,
)
from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import load_checkpoint


@pytest.fixture(scope="module")
def artifact(
    tiny_bert_dir: Path, exported_bert: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    model = load_checkpoint(tiny_bert_dir)
    folder = tmp_path_factory.mktemp("made")
    write_artifact(
        folder / "artifact",
        model=exported_bert,
        preprocessor=model.preprocessor,
        config=model.module.config,
    )
    seal_artifact(folder / "artifact", task=model.task, labels=model.labels, facts={"more": 1})
    return folder / "artifact"


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(artifact, tmp_path / "copy"))


def test_the_manifest_names_every_other_file_with_its_hash(artifact: Path):
    manifest = json.loads((artifact / MANIFEST).read_text())
    others = {path.name for path in artifact.iterdir()} - {MANIFEST}
    assert set(manifest["files"]) == others
    assert manifest["files"]["model.onnx"] == sha256(artifact / "model.onnx")
    assert manifest["labels"] == ["negative", "positive"]
    assert manifest["more"] == 1


def test_the_artifact_answers_like_the_checkpoint(
    artifact: Path, tiny_bert_dir: Path, text_dataset: Dataset
):
    model = load_checkpoint(tiny_bert_dir)
    texts = text_dataset.examples[:8]
    expected = model.predict(model.task.encode(model.preprocessor, texts))
    loaded = load_artifact(artifact)
    assert loaded.logits(texts) == pytest.approx(expected, abs=1e-4)
    answers = loaded(texts)
    softmax = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    assert [answer["label_id"] for answer in answers] == expected.argmax(axis=1).tolist()
    assert [answer["score"] for answer in answers] == pytest.approx(softmax.max(axis=1), abs=1e-4)


def test_an_artifact_works_where_torch_cannot_be_imported(artifact: Path):
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # any import of torch now fails
        "import compressor\n"
        "print(compressor.load_artifact(sys.argv[1])(['a good film'])[0]['label'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(artifact)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() in ("negative", "positive")


def test_a_changed_file_is_refused(copy: Path):
    (copy / "config.json").write_text("{}")
    with pytest.raises(EnvironmentMismatch, match=r"config\.json missing or changed"):
        load_artifact(copy)


def test_a_missing_file_is_refused(copy: Path):
    (copy / "model.onnx").unlink()
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx missing or changed"):
        load_artifact(copy)


def test_a_folder_without_a_manifest_is_no_artifact(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match="not found; an artifact is"):
        load_artifact(tmp_path)


def test_a_manifest_of_another_version_is_refused(copy: Path):
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**manifest, "manifest_version": 99}))
    with pytest.raises(EnvironmentMismatch, match="manifest_version 1 is supported"):
        load_artifact(copy)


def test_a_bare_string_is_not_a_list_of_texts(artifact: Path):
    with pytest.raises(ValueError, match="not a bare string"):
        load_artifact(artifact)("a good film")


def test_the_same_files_and_facts_give_the_same_manifest(copy: Path, artifact: Path):
    model_task = load_artifact(copy).task
    seal_artifact(copy, task=model_task, labels=("negative", "positive"), facts={"more": 1})
    assert (copy / MANIFEST).read_bytes() == (artifact / MANIFEST).read_bytes()


def test_an_artifact_that_was_judged_on_texts_refuses_pairs(copy: Path):
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["recipe"] = {"data": {"text": "sentence", "search": {"path": "a.tsv"}}}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="this model reads single texts, got a pair"):
        load_artifact(copy)([("a good film", "a bad film")])


def test_an_artifact_that_was_judged_on_pairs_refuses_texts(copy: Path):
    manifest = json.loads((copy / MANIFEST).read_text())
    source = {"path": "a.tsv", "text": ["question", "answer"]}
    manifest["recipe"] = {"data": {"search": source}}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="this model reads pairs of texts"):
        load_artifact(copy)(["a good film", "a bad film"])


@pytest.mark.parametrize("value", [[None], [], None, [3.5], {"text": "a good film"}])
def test_what_is_no_text_gets_no_answer(artifact: Path, value: object):
    with pytest.raises(ValueError, match=r"give a list|must be a text"):
        load_artifact(artifact)(value)  # type: ignore[arg-type]
