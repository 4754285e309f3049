"""A shipped artifact is complete, checked when it is loaded, and works without torch."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from compressor.artifact import (
    MANIFEST,
    lay_out,
    load_artifact,
    seal_artifact,
    write_artifact,
)
from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.files import sha256
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import load_checkpoint
from compressor.tasks import Batch


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
    return Path(shutil.copytree(artifact, tmp_path / "copy"))


def test_the_manifest_names_every_other_file_with_its_hash(artifact: Path):
    manifest = json.loads((artifact / MANIFEST).read_text())
    others = {path.name for path in artifact.iterdir()} - {MANIFEST}
    assert set(manifest["files"]) == others
    assert manifest["files"]["model.onnx"] == sha256(artifact / "model.onnx")
    assert manifest["labels"] == ["negative", "positive"]
    assert manifest["more"] == 1


def test_the_artifact_predicts_like_the_checkpoint(
    artifact: Path, tiny_bert_dir: Path, text_dataset: Dataset
):
    model = load_checkpoint(tiny_bert_dir)
    texts = text_dataset.examples[:8]
    expected = model.predict(model.task.encode(model.preprocessor, texts))
    loaded = load_artifact(artifact)
    assert loaded.logits(texts) == pytest.approx(expected, abs=1e-4)
    predictions = loaded(texts)
    softmax = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    assert [item["label_id"] for item in predictions] == expected.argmax(axis=1).tolist()
    assert [item["score"] for item in predictions] == pytest.approx(softmax.max(axis=1), abs=1e-4)


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


def test_programs_of_the_hub_find_the_one_file_under_their_names(copy: Path, artifact: Path):
    lay_out(copy)
    names = {path.name: path.readlink().as_posix() for path in (copy / "onnx").iterdir()}
    assert names == {"model.onnx": "../model.onnx"}
    seal_artifact(copy, task=load_artifact(artifact).task, labels=("a", "b"), facts={})
    files = json.loads((copy / MANIFEST).read_text())["files"]
    assert files["onnx/model.onnx"] == files["model.onnx"]
    assert load_artifact(copy)(["a good film"])


def test_a_file_system_without_links_gets_copies(copy: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    lay_out(copy)
    assert not (copy / "onnx" / "model.onnx").is_symlink()
    assert sha256(copy / "onnx" / "model.onnx") == sha256(copy / "model.onnx")


def test_a_graph_of_integers_has_the_name_for_those_too(tmp_path: Path):
    weight = numpy_helper.from_array(np.ones((4, 4), np.int8), "weight")
    node = helper.make_node("Identity", ["weight"], ["logits"])
    output = helper.make_tensor_value_info("logits", TensorProto.INT8, [4, 4])
    graph = helper.make_graph([node], "graph", [], [output], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    lay_out(tmp_path)
    lay_out(tmp_path)  # again, as a run that goes on does
    names = sorted(path.name for path in (tmp_path / "onnx").iterdir())
    assert names == ["model.onnx", "model_quantized.onnx"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_artifact_in_an_archive_comes_out_whole(copy: Path, tmp_path: Path, kind: str):
    task = load_artifact(copy).task
    lay_out(copy)
    seal_artifact(copy, task=task, labels=("a", "b"), facts={})
    packed = shutil.make_archive(str(tmp_path / "packed"), kind, copy)
    shutil.unpack_archive(packed, tmp_path / "out", filter="data" if kind == "tar" else None)
    assert load_artifact(tmp_path / "out")(["a good film"])


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


def test_texts_of_one_length_are_read_together_and_answered_in_their_order(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
):
    texts = ["good " * 9, "bad", "bad film", "good " * 8]
    loaded = load_artifact(artifact)
    alone = [loaded.logits([text])[0] for text in texts]
    shapes = []
    predict = OnnxModel.predict

    def watched(self: OnnxModel, batch: Batch) -> NDArray[np.float32]:
        shapes.append(batch["input_ids"].shape)
        return predict(self, batch)

    monkeypatch.setattr(OnnxModel, "predict", watched)
    assert loaded.logits(texts, batch_size=2) == pytest.approx(np.stack(alone), abs=1e-5)
    assert shapes == [(2, 4), (2, 11)]
    with pytest.raises(ValueError, match="batch_size: must be 1 or more, got 0"):
        loaded(texts, batch_size=0)


def test_the_same_files_and_facts_give_the_same_manifest(copy: Path, artifact: Path):
    model_task = load_artifact(copy).task
    seal_artifact(copy, task=model_task, labels=("negative", "positive"), facts={"more": 1})
    assert (copy / MANIFEST).read_bytes() == (artifact / MANIFEST).read_bytes()


def test_an_artifact_that_was_judged_on_texts_refuses_pairs(copy: Path):
    edited(copy, recipe={"data": {"text": "sentence", "search": {"path": "a.tsv"}}})
    with pytest.raises(ValueError, match="this model reads single texts, got a pair"):
        load_artifact(copy)([("a good film", "a bad film")])


def test_an_artifact_that_was_judged_on_pairs_refuses_texts(copy: Path):
    edited(copy, recipe={"data": {"search": {"path": "a.tsv", "text": ["question", "answer"]}}})
    with pytest.raises(ValueError, match="this model reads pairs of texts"):
        load_artifact(copy)(["a good film", "a bad film"])


@pytest.mark.parametrize("value", [[None], [], None, [3.5], {"text": "a good film"}])
def test_what_is_no_text_gets_no_prediction(artifact: Path, value: object):
    with pytest.raises(ValueError, match=r"give a list|must be a text"):
        load_artifact(artifact)(value)  # type: ignore[arg-type]


def edited(folder: Path, **changes: object) -> None:
    """Write the manifest with some of its values changed, as one of before it had a digest."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("manifest_sha256", None)
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def with_file(folder: Path, name: str, digest: object = "0" * 64) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edited(folder, files={**files, name: digest})


@pytest.mark.parametrize(
    ("key", "value"), [("labels", ["positive", "negative"]), ("max_length", 4), ("metric", "f1")]
)
def test_a_manifest_that_was_edited_is_refused(copy: Path, key: str, value: object):
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**manifest, key: value}))
    with pytest.raises(EnvironmentMismatch, match=r"manifest\.json: was edited after the run"):
        load_artifact(copy)


def test_a_model_that_the_manifest_does_not_list_is_refused(copy: Path):
    files = json.loads((copy / MANIFEST).read_text())["files"]
    edited(copy, files={name: digest for name, digest in files.items() if name != "model.onnx"})
    with pytest.raises(EnvironmentMismatch, match=r"manifest\.json: files does not list model"):
        load_artifact(copy)
    with pytest.raises(EnvironmentMismatch, match=r"manifest\.json: files does not list model"):
        load_artifact(copy, verify=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": None}, r"files: .*dictionary"),
        ({"files": ["model.onnx"]}, r"files: .*dictionary"),
        ({"files": {"model.onnx": 5}}, r"files\.model\.onnx: .*string"),
        ({"files": {"model.onnx": "abc"}}, r"files\.model\.onnx: .*pattern"),
        ({"task": "translation"}, "task: must be one of .*text-classification"),
        ({"task": None}, "task: .*string"),
        ({"labels": "negative"}, "labels: .*list"),
        ({"labels": ["negative", 1]}, r"labels\.1: .*string"),
        ({"max_length": "64"}, "max_length: .*integer"),
        ({"max_length": 0}, "max_length: .*greater than or equal to 1"),
        ({"provider": 7}, "provider: .*string"),
    ],
)
def test_a_manifest_with_a_value_of_another_kind_is_refused(
    copy: Path, changes: dict[str, object], message: str
):
    edited(copy, **changes)
    with pytest.raises(EnvironmentMismatch, match=rf"manifest\.json: {message}.*copy the artifact"):
        load_artifact(copy)


@pytest.mark.parametrize("thresholds", [[], [0.4], [0.4, 0.5, 0.6]])
def test_a_manifest_with_thresholds_of_other_labels_is_refused(copy: Path, thresholds: list[float]):
    edited(copy, thresholds=thresholds)
    with pytest.raises(EnvironmentMismatch, match="thresholds must have one number for each"):
        load_artifact(copy)


@pytest.mark.parametrize("key", ["task", "labels", "max_length", "files"])
def test_a_manifest_that_lacks_a_key_is_refused(copy: Path, key: str):
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest[key]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(EnvironmentMismatch, match=rf"manifest\.json: {key}: Field required"):
        load_artifact(copy)


@pytest.mark.parametrize(
    "name",
    [
        "../config.json",
        "/etc/passwd",
        "a/../config.json",
        "./config.json",
        "a\\b",
        "c:x",
        "a\0",
        "",
    ],
)
def test_a_manifest_that_names_a_file_elsewhere_is_refused(copy: Path, name: str):
    with_file(copy, name)
    with pytest.raises(
        EnvironmentMismatch, match=r"manifest\.json: files.*must be a (plain )?path"
    ):
        load_artifact(copy)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1, 2]", '{"manifest_version": 1', '{"a": 1, "a": 2}', "[" * 100_000, "\udcff"],
    ids=["empty", "cut", "list", "cut later", "key twice", "nested", "not UTF-8"],
)
def test_a_manifest_that_is_no_json_object_is_refused(copy: Path, text: str):
    (copy / MANIFEST).write_text(text, errors="surrogateescape")
    with pytest.raises(
        EnvironmentMismatch, match=r"manifest\.json: (not a readable|manifest_vers)"
    ):
        load_artifact(copy)


def test_a_manifest_that_lists_a_file_twice_is_refused(copy: Path):
    text = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(
        text.replace('"files": {', f'"files": {{"model.onnx": "{"0" * 64}",')
    )
    with pytest.raises(EnvironmentMismatch, match=r"key 'model\.onnx' appears twice"):
        load_artifact(copy)


def test_a_tokenizer_of_another_format_is_named(copy: Path):
    content = json.loads((copy / "tokenizer.json").read_text())
    content["model"]["type"] = "WordPiece2"
    (copy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(EnvironmentMismatch, match=r"tokenizer\.json: cannot be read by tokenizers"):
        load_artifact(copy, verify=False)


def test_a_folder_in_place_of_the_manifest_is_refused(copy: Path):
    (copy / MANIFEST).unlink()
    (copy / MANIFEST).mkdir()
    with pytest.raises(EnvironmentMismatch, match=r"manifest\.json: not a readable manifest"):
        load_artifact(copy)


@pytest.mark.parametrize(
    "name",
    [
        "added_tokens.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "vocab.txt",
        "preprocessor_config.json",
        "additional_chat_templates/tool.jinja",
    ],
)
def test_a_file_that_would_change_predictions_and_is_not_listed_is_refused(copy: Path, name: str):
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("{}")
    with pytest.raises(EnvironmentMismatch, match=rf"{name} would be read with the artifact, but"):
        load_artifact(copy)


def test_files_that_nothing_reads_may_lie_beside_an_artifact(copy: Path, artifact: Path):
    (copy / "LICENSE").write_text("free")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "download.json").write_text("{}")
    assert load_artifact(copy).logits(["good"]).tolist() == (
        load_artifact(artifact).logits(["good"]).tolist()
    )


def test_files_of_a_download_may_be_links_and_their_content_counts(copy: Path, tmp_path: Path):
    (copy / "config.json").rename(tmp_path / "blob")
    (copy / "config.json").symlink_to(tmp_path / "blob")
    load_artifact(copy)
    (tmp_path / "blob").write_text("{}")
    with pytest.raises(EnvironmentMismatch, match=r"config\.json missing or changed"):
        load_artifact(copy)


def test_a_link_to_itself_is_a_missing_file(copy: Path):
    (copy / "config.json").unlink()
    (copy / "config.json").symlink_to(copy / "config.json")
    with pytest.raises(EnvironmentMismatch, match=r"config\.json missing or changed"):
        load_artifact(copy)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("weights.bin", r"weights\.bin would be read with the artifact"),
        ("../weights.bin", r"reads weights from '\.\./weights\.bin', outside of its folder"),
    ],
)
def test_weights_in_a_file_that_is_not_listed_are_refused(copy: Path, location: str, message: str):
    model = onnx.load(copy / "model.onnx")
    tensor = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    (copy / location).write_bytes(tensor.raw_data)
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    with_file(copy, "model.onnx", sha256(copy / "model.onnx"))
    with pytest.raises(EnvironmentMismatch, match=message):
        load_artifact(copy)


@pytest.mark.parametrize("name", [MANIFEST, "model.onnx", "tokenizer.json", "added.json"])
def test_an_artifact_with_a_pipe_in_it_is_refused_without_being_opened(copy: Path, name: str):
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    with pytest.raises(EnvironmentMismatch, match=name.replace(".", r"\.")):
        load_artifact(copy, verify=name != "tokenizer.json")
