"""Artifacts whose graphs are a table of numbers for each token: no training, no export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import transformers
from conftest import word_piece_tokenizer
from onnx import TensorProto, helper, numpy_helper

from compressor.artifact import seal_artifact
from compressor.models.text_files import keep_settings_apart
from compressor.tasks import load_task

# Each task with its labels, and whether the graph gives numbers for each token or for each text.
TASKS: dict[str, tuple[tuple[str, ...], bool]] = {
    "masked-language-modeling": ((), True),
    "multi-label-classification": (("a", "b", "c"), False),
    "question-answering": (("start", "end"), True),
    "sentence-embedding": ((), False),
    "text-classification": (("negative", "positive"), False),
    "text-scoring": (("score",), False),
    "token-classification": (("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), True),
}


_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def write_small_artifact(
    folder: Path,
    name: str,
    *,
    tokenizer: transformers.PreTrainedTokenizerFast | None = None,
    max_length: int | None = 16,
    facts: dict[str, Any] | None = None,
    thresholds: tuple[float, ...] | None = None,
) -> Path:
    """Write an artifact for a task into `folder`, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or word_piece_tokenizer()
    labels, per_token = TASKS[name]
    width = len(tokenizer) if name == "masked-language-modeling" else len(labels) or 8
    output = load_task(name).output
    names = [name for name in _INPUTS if name in tokenizer.model_input_names]
    graph = _graph(names, len(tokenizer), width, output, per_token=per_token)
    onnx.save(graph, folder / "model.onnx")
    keep_settings_apart(tokenizer)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    task = load_task(name, max_length=max_length, thresholds=thresholds)
    seal_artifact(folder, task=task.for_labels(labels), labels=labels, facts=facts or {})
    return folder


def _graph(
    names: Sequence[str], vocabulary: int, width: int, output: str, *, per_token: bool
) -> onnx.ModelProto:
    table = np.random.default_rng(0).normal(size=(vocabulary, width)).astype(np.float32) * 3
    axes = ["batch", "sequence"]
    inputs = [helper.make_tensor_value_info(key, TensorProto.INT64, axes) for key in names]
    types = "token_type_ids" if "token_type_ids" in names else "attention_mask"
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["states"]),
        helper.make_node("Cast", [types], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["types", "last"], ["wide_types"]),
        # What stands before a token counts too, so that cutting and windows show.
        helper.make_node("CumSum", ["states", "one"], ["sums"]),
        helper.make_node("Add", ["sums", "wide_types"], ["mixed"]),
    ]
    shape: list[Any] = [*axes, width]
    if per_token:
        nodes.append(helper.make_node("Identity", ["mixed"], [output]))
    else:
        shape = ["batch", width]
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["wide_mask"]),
            helper.make_node("Mul", ["mixed", "wide_mask"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["wide_mask", "one"], ["count"], keepdims=0),
            helper.make_node("Div", ["sum", "count"], [output]),
        ]
    weights = {"table": table, "last": np.array([-1]), "one": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "table",
        inputs,
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
