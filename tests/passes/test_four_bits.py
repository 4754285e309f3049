"""Four bits where texts notice least: rare rows of tables, and what multiplies one token alone."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from pydantic import ValidationError

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.flops import encoder_flops
from compressor.models.onnx_model import OnnxModel, optimized_graph
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.passes import PassContext, apply_pass
from compressor.passes.quantize.settings import QuantizeDynamic

WORDS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture
def apply(context: PassContext) -> Callable[..., OnnxModel]:
    def run(model: OnnxModel, **settings: object) -> OnnxModel:
        return apply_pass(QuantizeDynamic(**{"min_elements": 0, **settings}), model, context)

    return run


def stored(model: OnnxModel, ending: str) -> set[str]:
    names = [item.name for item in load_graph(model.path).graph.initializer]
    return {name.removesuffix(ending) for name in names if name.endswith(ending)}


def of_opset_21(exported: OnnxModel, folder: Path) -> OnnxModel:
    """Return the graph with integers of four bits to store in; no operator of it changed since."""
    graph = load_graph(exported.path)
    for entry in graph.opset_import:
        if entry.domain == "":
            entry.version = 21
    save_graph(graph, folder / "model.onnx")
    return dataclasses.replace(exported, path=folder / "model.onnx")


def test_rows_that_texts_look_up_most_are_refined_and_no_parameters_are_added(
    exported: OnnxModel, apply, notes: list[str], unlabelled: Dataset, tiny_bert: TorchModel
):
    counts: Counter[int] = Counter()
    for ids in tiny_bert.preprocessor(list(unlabelled.examples))["input_ids"]:
        counts.update(ids)
    # The words alone, whose indices are an input and not computed.
    settings = {"embeddings": "int4", "embedding_block": 16, "exclude": ("*position*",)}
    size = apply(exported, **settings).size()
    finer = apply(exported, refined_rows=5, **settings)
    tensors = {item.name: item for item in load_graph(finer.path).graph.initializer}
    places = numpy_helper.to_array(tensors[f"{WORDS}_place"])
    assert set(np.flatnonzero(places < 5)) == {row for row, _ in counts.most_common(5)}
    assert tensors[f"{WORDS}_rest_int4"].dims[0] == 6  # and one of zeros
    assert finer.size().parameters == size.parameters
    assert finer.size().nonzero_parameters == size.nonzero_parameters
    assert any(f"{WORDS} holds int4 weights, 16 to a scale, its 5 most" in note for note in notes)
    notes.clear()
    apply(exported, refined_rows=1000, **settings)
    assert any(f"its {len(counts)} most frequent rows" in note for note in notes)
    with pytest.raises(ValidationError, match="refined_rows: 5 is for tables in int4 or codes"):
        QuantizeDynamic(refined_rows=5)
    assert QuantizeDynamic(embeddings="int4", refined_rows=5).required_splits() == {"calibration"}


def test_rows_of_rare_pieces_are_codes_and_the_others_have_four_bits_more(
    exported: OnnxModel, apply, notes: list[str], tiny_bert: TorchModel, text_dataset: Dataset
):
    settings = {"embeddings": "codes", "code_width": 2, "exclude": ("*position*",)}
    plain = apply(exported).size()
    coded = apply(exported, refined_rows=5, **settings)
    assert stored(coded, "_codes") == {WORDS}
    assert stored(coded, "_rest_int4") == {WORDS}
    assert coded.size().parameters == plain.parameters
    assert any(f"{WORDS} holds codes, 2 weights to a byte, its 5 most" in note for note in notes)
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples)
    expected = exported.predict(batch)
    assert np.abs(coded.predict(batch) - expected).max() < 0.3 * np.abs(expected).max()
    notes.clear()
    assert not stored(apply(exported, embeddings="codes", code_width=7), "_codes")
    assert any(f"{WORDS} is int8 and not codes: code_width: 7 does" in note for note in notes)
    with pytest.raises(ValidationError, match="code_width: 6 is for tables of codes"):
        QuantizeDynamic(embeddings="int4", code_width=6)
    milder, *_ = QuantizeDynamic(embeddings="codes", code_width=6, refined_rows=9).milder()
    assert (milder.embeddings, milder.code_width, milder.refined_rows) == ("int4", 12, 9)


def test_what_multiplies_one_token_of_a_text_is_int4_and_the_rest_int8(
    exported: OnnxModel, apply, notes: list[str], tiny_bert: TorchModel, text_dataset: Dataset
):
    plain = apply(exported)  # of which the next one takes the place
    size, int8 = plain.size(), stored(plain, "_int8")
    packed = apply(exported, once_per_text="int4")
    last = "bert.encoder.layer.1"
    # The classifier reads the first token alone, and so do these; keys and values take them all.
    once = {
        f"{last}.attention.self.query.weight",
        f"{last}.attention.output.dense.weight",
        f"{last}.intermediate.dense.weight",
        f"{last}.output.dense.weight",
        "bert.pooler.dense.weight",
        "classifier.weight",
    }
    assert stored(packed, "_int4") == once
    assert stored(packed, "_int8") == int8 - once
    [note] = [note for note in notes if note.startswith("In int4, as they multiply one token")]
    assert all(name in note for name in once)
    assert packed.size().parameters == size.parameters
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples)
    expected = exported.predict(batch)
    assert np.abs(packed.predict(batch) - expected).max() < 0.3 * np.abs(expected).max()


def test_without_anything_that_multiplies_one_token_all_is_int8(
    exported: OnnxModel, apply, notes: list[str]
):
    settings = {"exclude": ("*layer.1*", "*pooler*", "classifier*")}
    plain = stored(apply(exported, **settings), "_int8")
    packed = apply(exported, once_per_text="int4", **settings)
    assert stored(packed, "_int8") == plain
    assert not stored(packed, "_int4")
    assert (
        "Nothing multiplies one token of a text alone, so once_per_text changes nothing." in notes
    )


def test_four_bits_become_eight_before_anything_else_gets_milder():
    first, second, *_ = QuantizeDynamic(
        embeddings="int4", refined_rows=3, once_per_text="int4"
    ).milder()
    assert (first.embeddings, first.refined_rows, first.once_per_text) == ("int8", 0, "int4")
    assert (second.embeddings, second.once_per_text) == ("int8", "int8")
    assert first.required_splits() == {"calibration"}
    assert second.required_splits() == frozenset()


def test_matrices_in_four_bits_are_int8_to_the_runtime(
    exported: OnnxModel,
    apply,
    notes: list[str],
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    tmp_path: Path,
):
    exported = of_opset_21(exported, tmp_path)
    plain = apply(exported)
    size, matrices = plain.size(), stored(plain, "_int8")
    narrow = apply(exported, matrices="int4", matrix_block=16, rounding="gptq")
    assert stored(narrow, "_int4") | stored(narrow, "_int8") == matrices
    assert stored(narrow, "_factors") == stored(narrow, "_int4")
    assert any(
        "Matrices take 4 bits a weight in the file, 16 to a factor" in item for item in notes
    )
    assert narrow.size().parameters == size.parameters
    opened = optimized_graph(narrow.path).graph
    integers = [item for item in opened.initializer if item.data_type == TensorProto.INT8]
    operators = [node.op_type for node in opened.node]
    assert "Round" not in operators
    assert len(integers) >= operators.count("MatMulIntegerToFloat") > 0
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples)
    assert encoder_flops(narrow.path, batch) == encoder_flops(plain.path, batch)
    expected = exported.predict(batch)
    assert np.abs(narrow.predict(batch) - expected).max() < 0.3 * np.abs(expected).max()


def test_matrices_in_four_bits_get_milder_first_and_leave_no_trace_by_default():
    settings = QuantizeDynamic(matrices="int4", matrix_block=32, embeddings="int4")
    first, second, *_ = settings.milder()
    assert (first.matrices, first.matrix_block, first.embeddings) == ("int8", 64, "int4")
    assert (second.matrices, second.embeddings) == ("int8", "int8")
    assert not {"matrices", "matrix_block"} & QuantizeDynamic().model_dump().keys()
    with pytest.raises(ValidationError, match="matrix_block: 32 is for matrices in four bits"):
        QuantizeDynamic(matrix_block=32)


def test_operator_set_without_four_bits_is_refused(exported: OnnxModel, apply):
    with pytest.raises(StepFailed, match="set 20, which has no int4 for matrices; export it"):
        apply(exported, matrices="int4")
