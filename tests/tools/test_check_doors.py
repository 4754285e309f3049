"""How answers of other programs are compared, and what Triton is told."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from onnx import helper
from small_artifacts import write_small_artifact

from compressor.errors import EnvironmentMismatch


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("check_doors")


def test_numbers_are_compared_and_all_else_must_be_equal(tool: ModuleType):
    own = [{"label": "a", "score": 0.5}, {"label": "b", "score": 0.25}]
    found = [{"label": "a", "score": 0.5, "more": 1}, {"label": "b", "score": 0.75}]
    assert max(tool.differences(own, found)) == 0.5
    assert max(tool.differences(own, [{**own[0], "label": "c"}, own[1]])) == math.inf
    assert max(tool.differences([1.0, 2.0], [1.0])) == math.inf
    assert max(tool.differences([{"entity": "O"}], [{}])) == math.inf


@pytest.mark.parametrize(
    ("task", "width", "found", "is_alike"),
    [
        ("text-classification", 2, [0.1, 0.9], True),
        ("text-classification", 2, [0.9, 0.8], False),
        ("token-classification", 1, [0.2, 0.8], True),
        ("text-scoring", 1, [0.2, 0.95], False),
        ("sentence-embedding", 2, [0.4, 1.6], True),
        ("sentence-embedding", 2, [0.8, 0.2], False),
        ("multi-label-classification", 2, [0.9, 0.1], True),
        ("multi-label-classification", 2, [0.9, -0.1], False),
        ("question-answering", 1, [0.1, 0.9], True),
        ("question-answering", 1, [0.9, 0.1], False),
    ],
)
def test_rows_of_other_kernels_are_alike_where_they_say_the_same(
    tool: ModuleType, task: str, width: int, found: list[float], is_alike: bool
):
    assert tool.is_alike(task, width, [0.2, 0.8], found) == is_alike


def test_a_program_that_answers_otherwise_does_not_open_a_door(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    subject = tool.read_subject(write_small_artifact(tmp_path, "text-classification"))
    door = next(item for item in tool.DOORS if item.name == "compressor-runtime")
    monkeypatch.setattr(tool, "install", lambda *_: tmp_path)

    def answer(rows: list[Any]) -> dict[str, Any]:
        monkeypatch.setattr(tool, "ask", lambda *_: ("1.0", rows))
        found: dict[str, Any] = tool.check(subject, door, tmp_path, tmp_path)
        return found

    right = subject.predictions
    wrong = [{**right[0], "score": right[0]["score"] - 0.001}, *right[1:]]
    assert answer(right)["opens"]
    assert not answer(wrong)["opens"]
    assert answer(wrong)["largest"] == pytest.approx(0.001)


def test_a_program_that_cannot_be_had_is_skipped_with_the_reason(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    subject = tool.read_subject(write_small_artifact(tmp_path / "a", "text-classification"))
    door = tool.Door("nowhere", "node", (), "", tool.ALL)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "envs").mkdir()
    row = tool.check(subject, door, tmp_path / "envs", tmp_path)
    assert row == {
        "door": "nowhere",
        "task": "text-classification",
        "skipped": "npm is not installed",
    }


def test_a_program_that_fails_or_lacks_an_operator_does_not_end_the_others(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    subject = tool.read_subject(write_small_artifact(tmp_path, "question-answering"))
    monkeypatch.setattr(tool, "install", lambda *_: Path(sys.prefix))
    fails = tool.Door("fails", "own", (), "raise ValueError('no door')", tool.ALL)
    row = tool.check(subject, fails, tmp_path, tmp_path)
    assert not row["opens"]
    assert row["why"].endswith("ValueError: no door")
    lacks = tool.Door("lacks", "own", (), "", tool.ALL, lacks=("CumSum", "Nothing"))
    row = tool.check(subject, lacks, tmp_path, tmp_path)
    assert row == {"door": "lacks", "task": "question-answering", "lacks": ["CumSum"]}


TEXT_INPUTS = "".join(
    f'\n  {{ name: "{name}", data_type: TYPE_INT64, dims: [-1] }},'
    for name in ("input_ids", "attention_mask", "token_type_ids")
)[:-1]


@pytest.mark.parametrize(
    ("task", "output"),
    [
        ("masked-language-modeling", 'name: "logits", data_type: TYPE_FP32, dims: [-1, 36]'),
        ("multi-label-classification", 'name: "logits", data_type: TYPE_FP32, dims: [3]'),
        ("question-answering", 'name: "logits", data_type: TYPE_FP32, dims: [-1, 2]'),
        ("sentence-embedding", 'name: "sentence_embedding", data_type: TYPE_FP32, dims: [8]'),
        ("text-scoring", 'name: "logits", data_type: TYPE_FP32, dims: [1]'),
        ("token-classification", 'name: "logits", data_type: TYPE_FP32, dims: [-1, 5]'),
    ],
)
def test_triton_is_told_what_the_graph_reads_and_gives(
    load_script: Callable[[str], ModuleType], tmp_path: Path, task: str, output: str
):
    folder = write_small_artifact(tmp_path / "artifact", task)
    triton = load_script("triton_repository")
    config = triton.write_repository(folder, tmp_path / "repository", name="own", instances=2)
    text = config.read_text()
    assert config == tmp_path / "repository" / "own" / "config.pbtxt"
    assert f"input [{TEXT_INPUTS}\n]\noutput [\n  {{ {output} }}\n]\n" in text
    assert "dynamic_batching {" in text
    assert "instance_group [{ count: 2, kind: KIND_CPU }]" in text
    copied = onnx.load(tmp_path / "repository" / "own" / "1" / "model.onnx")
    assert copied == onnx.load(folder / "model.onnx")


def test_triton_joins_no_requests_whose_numbers_would_move_each_other(
    load_script: Callable[[str], ModuleType], tmp_path: Path
):
    folder = write_small_artifact(tmp_path / "artifact", "text-classification")
    triton = load_script("triton_repository")
    graph = onnx.load(folder / "model.onnx").graph
    graph.node.append(helper.make_node("DynamicQuantizeLinear", ["sum"], ["a", "b", "c"]))
    text = triton.config_of(graph, name="own", gpu=False, instances=1)
    assert "dynamic_batching" not in text
    assert "max_batch_size: 64" in text
    graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(EnvironmentMismatch, match=r"logits: Triton batches .* \[1, 2\]"):
        triton.config_of(graph, name="own", gpu=False, instances=1)


@pytest.mark.parametrize(
    ("provider", "gpu", "message"),
    [
        ("openvino", False, "was made and judged for openvino"),
        ("tensorrt", True, "was made and judged for tensorrt"),
        ("cuda", False, "add --gpu"),
        ("cpu", True, "leave --gpu out"),
    ],
)
def test_triton_gets_no_artifact_that_it_would_compute_otherwise(
    load_script: Callable[[str], ModuleType],
    tmp_path: Path,
    provider: str,
    gpu: bool,
    message: str,
):
    facts = {"provider": provider}
    folder = write_small_artifact(tmp_path / "artifact", "text-classification", facts=facts)
    triton = load_script("triton_repository")
    with pytest.raises(EnvironmentMismatch, match=message):
        triton.write_repository(folder, tmp_path / "repository", name="own", gpu=gpu)
    assert not (tmp_path / "repository").exists()


def test_text_embeddings_inference_finds_what_it_reads(
    tool: ModuleType, served_folder: Path, tiny_encoder_dir: Path, tmp_path: Path
):
    assert tool.tei_misses(served_folder, is_encoder=False) == []
    encoder = write_small_artifact(tmp_path / "encoder", "sentence-embedding")
    for name in ("config.json", "sentence_bert_config.json", "1_Pooling"):
        place = tiny_encoder_dir / name
        if place.is_dir():
            shutil.copytree(place, encoder / name)
        elif place.is_file():
            shutil.copy(place, encoder / name)
    (encoder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    assert tool.tei_misses(encoder, is_encoder=True) == []
    assert tool.tei_misses(encoder, is_encoder=False) == [
        "config.json: architectures",
        "config.json: id2label and label2id",
        "model.onnx: logits in float32",
    ]
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps({**config, "hidden_size": None}))
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_sqrt_len_tokens": True}
    (encoder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    assert tool.tei_misses(encoder, is_encoder=True) == [
        "config.json: hidden_size or n_embd",
        "1_Pooling/config.json: one of its modes",
    ]


def test_a_cold_start_is_that_of_the_process_alone(
    load_script: Callable[[str], ModuleType], tmp_path: Path
):
    import sys

    cold = load_script("cold_start")
    held = bytearray(300 << 20)  # by the one that measures
    row = cold.measure(sys.executable, "sum(range(10**6))", tmp_path, "")
    assert len(held) / 1e6 > row["megabytes"] > 1
    assert 0 < row["cpu_seconds"] < row["seconds"] + 1
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        cold.measure(sys.executable, "1 / 0", tmp_path, "")
