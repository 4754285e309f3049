from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import load_checkpoint
from compressor.onnx_graph.affine import max_pair_sum
from compressor.onnx_graph.block_weights import quantize_blocks
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.passes import PassContext, apply_pass
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.tasks import Batch

LAYER = "bert.encoder.layer.0"


@pytest.fixture
def apply(make_context: Callable[..., PassContext]) -> Callable[..., OnnxModel]:
    """Return a function that applies the pass with the given settings, without any rows."""

    def run(model: OnnxModel, **settings: object) -> OnnxModel:
        step = QuantizeDynamic.model_validate({"min_elements": 0, **settings})
        return apply_pass(step, model, make_context())

    return run


def int8_weights(model: OnnxModel) -> set[str]:
    tensors = load_graph(model.path).graph.initializer
    return {item.name for item in tensors if item.data_type == onnx.TensorProto.INT8}


def float_elements(model: OnnxModel) -> int:
    tensors = load_graph(model.path).graph.initializer
    floats = (item for item in tensors if item.data_type == onnx.TensorProto.FLOAT)
    return sum(numpy_helper.to_array(item).size for item in floats)


def test_every_matrix_and_table_becomes_int8(exported: OnnxModel, apply):
    layers = [f"bert.encoder.layer.{index}" for index in range(2)]
    tables = [f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")]
    modules = [
        *tables,
        "bert.pooler.dense",
        "classifier",
        f"{layers[0]}.attention.self.query_key_value",
        f"{layers[1]}.attention.self.query",  # of the first token alone
        f"{layers[1]}.attention.self.key_value",
        *(f"{layer}.attention.output.dense" for layer in layers),
        *(f"{layer}.intermediate.dense" for layer in layers),
        *(f"{layer}.output.dense" for layer in layers),
    ]
    assert int8_weights(apply(exported)) == {f"{module}.weight_int8" for module in modules}


def test_logits_stay_close_and_predictions_mostly_the_same(
    exported: OnnxModel, apply, tiny_bert_dir: Path, text_dataset: Dataset
):
    model = load_checkpoint(tiny_bert_dir)
    batch = model.task.encode(model.preprocessor, text_dataset.examples)
    before, after = exported.predict(batch), apply(exported).predict(batch)
    # 8 bits leave 1 part in 255 of the range of each product; six of them follow each other.
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()
    assert np.mean(after.argmax(axis=1) == before.argmax(axis=1)) > 0.9


def test_no_stored_matrix_can_overflow_16_bits(exported: OnnxModel, apply):
    graph = load_graph(apply(exported).path).graph
    tensors = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 11
    assert max(max_pair_sum(tensors[node.input[1]]) for node in products) <= 128


def test_file_shrinks_and_the_number_of_parameters_does_not(exported: OnnxModel, apply):
    before, after = exported.size(), apply(exported).size()
    assert after.parameters == before.parameters
    # Biases, normalisations and scales are what is left in float.
    assert float_elements(apply(exported)) < 0.15 * before.parameters


def test_input_file_stays_as_it_was(exported: OnnxModel, apply):
    content = exported.path.read_bytes()
    quantized = apply(exported)
    assert exported.path.read_bytes() == content
    assert (quantized.provider, quantized.threads) == ("cpu", 1)


def test_report_counts_what_was_done_and_lists_what_was_not(
    exported: OnnxModel, apply, notes: list[str]
):
    apply(exported, min_elements=100, exclude=("*intermediate*",))
    assert notes == [
        # Two layers less their first FFN matrix, pooler, 64 positions and 36 words of width 32;
        # token types and classifier have 2 x 32 weights.
        "8 matrices and 2 embedding tables hold int8 weights, "
        f"{2 * 3 * 32 * 32 + 2 * 32 * 32 + 2 * 64 * 32 + 32 * 32 + 64 * 32 + 36 * 32:,} "
        "weights in all.",
        "Inner channels reordered before 2 of the matrices.",
        "Left in float: bert.embeddings.token_type_embeddings.weight, classifier.weight (fewer "
        f"than 100 weights); {LAYER}.intermediate.dense.weight, "
        "bert.encoder.layer.1.intermediate.dense.weight (excluded).",
    ]


def test_tables_stay_in_float_when_embeddings_is_false(exported: OnnxModel, apply):
    assert not any("embeddings" in name for name in int8_weights(apply(exported, embeddings=False)))


WORDS = "bert.embeddings.word_embeddings.weight"


def test_large_tables_become_int4_and_small_ones_int8(exported: OnnxModel, apply, notes: list[str]):
    quantized = apply(exported, embeddings="int4", embedding_block=16)
    tensors = load_graph(quantized.path).graph.initializer
    # 36 words and 64 positions of width 32, packed in pairs; two token types.
    packed = {item.name: tuple(item.dims) for item in tensors if item.name.endswith("_int4")}
    assert packed == {
        f"{WORDS}_int4": (36, 16),
        "bert.embeddings.position_embeddings.weight_int4": (64, 16),
    }
    assert "bert.embeddings.token_type_embeddings.weight_int8" in int8_weights(quantized)
    assert notes[0].startswith("11 matrices and 1 embedding table hold int8 weights")
    assert notes[1].startswith(f"{WORDS} holds int4 weights, 16 to a scale; rounding moves them by")
    assert notes[3] == (
        "bert.embeddings.token_type_embeddings.weight is int8 and not int4: it is small, and "
        "every text reads the same rows."
    )


def test_model_with_int4_tables_predicts_as_the_float_model_with_rounded_ones(
    exported: OnnxModel, apply, tiny_bert_dir: Path, text_dataset: Dataset, tmp_path: Path
):
    rounded = load_graph(exported.path)
    for tensor in rounded.graph.initializer:
        if tensor.name in (WORDS, WORDS.replace("word", "position")):
            blocks = quantize_blocks(numpy_helper.to_array(tensor), bits=4, block_size=16)
            tensor.CopyFrom(numpy_helper.from_array(blocks.restored(), tensor.name))
    save_graph(rounded, tmp_path / "rounded.onnx")
    settings = {"exclude": ("*encoder*", "*pooler*", "classifier*", "*token_type*")}
    quantized = apply(exported, embeddings="int4", embedding_block=16, **settings)
    model = load_checkpoint(tiny_bert_dir)
    batch = model.task.encode(model.preprocessor, text_dataset.examples)
    expected = OnnxModel(tmp_path / "rounded.onnx", threads=1).predict(batch)
    np.testing.assert_allclose(quantized.predict(batch), expected, atol=1e-4)


def test_int4_tables_are_smaller_and_hold_as_many_parameters(exported: OnnxModel, apply):
    quantized = apply(exported, embeddings="int4")
    assert quantized.size().parameters == exported.size().parameters
    assert quantized.components().embeddings < 0.65 * apply(exported).components().embeddings


def test_excluded_patterns_match_nodes_too(exported: OnnxModel, apply):
    [node] = [
        node.name
        for node in load_graph(exported.path).graph.node
        if f"{LAYER}.output.dense.weight" in node.input
    ]
    found = int8_weights(apply(exported, exclude=(node,)))
    assert f"{LAYER}.output.dense.weight_int8" not in found
    assert "bert.encoder.layer.1.output.dense.weight_int8" in found


def test_pattern_that_matches_nothing_is_an_error_with_the_candidates(exported: OnnxModel, apply):
    with pytest.raises(
        StepFailed, match=r"exclude\[1\]: '\*\.ffn\.\*' matches no weight"
    ) as caught:
        apply(exported, exclude=("classifier*", "*.ffn.*"))
    assert f"{LAYER}.intermediate.dense.weight" in str(caught.value)


def test_nothing_left_to_quantize_is_an_error(exported: OnnxModel, apply):
    with pytest.raises(StepFailed, match=r"nothing is left to quantize: .* \(fewer than 1000000"):
        apply(exported, min_elements=1_000_000)


def test_graph_that_is_already_quantized_is_refused(exported: OnnxModel, apply):
    with pytest.raises(StepFailed, match=r"already quantized \(it has MatMulIntegerToFloat, "):
        apply(apply(exported))


def test_weight_that_is_not_finite_is_named(exported: OnnxModel, apply, tmp_path: Path):
    graph = load_graph(exported.path)
    for tensor in graph.graph.initializer:
        if tensor.name == "classifier.weight":
            broken = np.full(tuple(tensor.dims), np.nan, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(broken, tensor.name))
    save_graph(graph, tmp_path / "broken.onnx")
    with pytest.raises(StepFailed, match=r"weight classifier\.weight holds NaN"):
        apply(OnnxModel(tmp_path / "broken.onnx"))


def test_convolutions_stay_in_float(exported_vit: OnnxModel, apply):
    quantized = apply(exported_vit)
    pixels = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    batch = {"pixel_values": pixels}
    before, after = exported_vit.predict(batch), quantized.predict(batch)
    operators = {node.op_type for node in load_graph(quantized.path).graph.node}
    assert {"Conv", "MatMulIntegerToFloat"} <= operators
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()


def test_smoothing_says_where_it_helped_and_keeps_the_predictions(
    exported: OnnxModel, apply, tiny_bert_dir: Path, text_dataset: Dataset, notes: list[str]
):
    model = load_checkpoint(tiny_bert_dir)
    batch = model.task.encode(model.preprocessor, text_dataset.examples)
    before, after = exported.predict(batch), apply(exported, smooth=True).predict(batch)
    # A fresh normalisation makes all channels alike.
    assert notes[-1] == "Large channels smoothed before 0 of the matrices."
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()


def test_one_scale_for_the_whole_tensor_is_there_for_who_wants_speed(exported: OnnxModel, apply):
    graph = load_graph(apply(exported, activations="per_tensor").path).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("DynamicQuantizeMatMul") == 11
    assert "QuantizeLinear" not in operators


@pytest.fixture
def encode(tiny_bert_dir: Path) -> Callable[..., Batch]:
    """Return a function that tokenizes texts for the tiny BERT, padded to the longest."""
    model = load_checkpoint(tiny_bert_dir)
    return lambda *texts: model.task.encode(model.preprocessor, texts)


def rows(batch: Batch, *chosen: int) -> Batch:
    return {name: values[list(chosen)] for name, values in batch.items()}


SHORT, LONG = "a good film", "the bad film was not a good one and " * 5


def test_output_is_bitwise_the_same_beside_other_texts_of_any_content(
    exported: OnnxModel, apply, encode
):
    quantized = apply(exported)
    batch = encode(SHORT, LONG, LONG + "bad", LONG + "good")
    together = quantized.predict(batch)
    # Two rows at least: ONNX Runtime multiplies a single row in another order, in float too.
    np.testing.assert_array_equal(quantized.predict(rows(batch, 0, 2)), together[[0, 2]])
    np.testing.assert_array_equal(quantized.predict(rows(batch, 3, 0)), together[[3, 0]])


def test_output_alone_and_unpadded_differs_by_float_rounding_only(
    exported: OnnxModel, apply, encode
):
    quantized = apply(exported)
    alone = quantized.predict(encode(SHORT))[0]
    padded = quantized.predict(encode(SHORT, LONG))[0]
    # Softmax and attention add up in another order with padding: 1e-7 in float. Where that moves
    # an activation across the border of two integers it becomes one step of 1 in 127, of one of 32
    # channels; per tensor the whole grid moves with the other texts.
    assert np.abs(padded - alone).max() < 1e-3 * np.abs(alone).max()


def test_the_most_sensitive_weights_stay_in_float_and_all_are_recorded(
    exported: OnnxModel, context: PassContext, notes: list[str]
):
    changed = apply_pass(QuantizeDynamic(min_elements=0, keep_sensitive=2), exported, context)

    facts = context.facts["sensitivity"]
    kept = {fact["name"] for fact in facts if fact["kept_in_float"]}
    ranked = sorted(facts, key=lambda fact: fact["logit_rms"] / fact["bytes_saved"], reverse=True)
    assert kept == {fact["name"] for fact in ranked[:2]}
    assert {fact["layer"] for fact in facts} == {0, 1, None}
    assert int8_weights(changed) == {f"{fact['name']}_int8" for fact in ranked[2:]}
    assert any("the most sensitive for each byte" in note for note in notes)
    assert (context.work_dir / "model.onnx") == changed.path


def test_a_weight_is_measured_alone(
    exported: OnnxModel, context: PassContext, tiny_bert_dir: Path, apply
):
    apply_pass(QuantizeDynamic(min_elements=0, keep_sensitive=1), exported, context)
    facts = context.facts["sensitivity"]
    fact = next(item for item in facts if item["name"].endswith("word_embeddings.weight"))
    others = [item["name"] for item in facts if item is not fact]
    alone = apply(exported, exclude=others)
    read = load_checkpoint(tiny_bert_dir)
    batch = read.task.encode(read.preprocessor, context.calibration.examples)
    difference = (alone.predict(batch) - exported.predict(batch)).astype(np.float64)
    assert fact["logit_rms"] == pytest.approx(np.sqrt(np.mean(np.square(difference))), rel=1e-3)


def test_at_least_one_weight_becomes_int8(exported: OnnxModel, context: PassContext):
    changed = apply_pass(QuantizeDynamic(min_elements=0, keep_sensitive=99), exported, context)
    [left] = [fact for fact in context.facts["sensitivity"] if not fact["kept_in_float"]]
    assert int8_weights(changed) == {f"{left['name']}_int8"}


def test_an_int4_table_is_measured_as_what_it_becomes(
    exported: OnnxModel, context: PassContext, tiny_bert_dir: Path, apply
):
    apply_pass(
        QuantizeDynamic(min_elements=0, keep_sensitive=1, embeddings="int4"), exported, context
    )
    facts = context.facts["sensitivity"]
    fact = next(item for item in facts if item["name"] == WORDS)
    others = [item["name"] for item in facts if item is not fact]
    alone = apply(exported, exclude=others, embeddings="int4")
    read = load_checkpoint(tiny_bert_dir)
    batch = read.task.encode(read.preprocessor, context.calibration.examples)
    difference = (alone.predict(batch) - exported.predict(batch)).astype(np.float64)
    assert fact["logit_rms"] == pytest.approx(np.sqrt(np.mean(np.square(difference))), rel=1e-3)
    # 32 floats a row become 16 bytes and one scale of two.
    assert fact["bytes_saved"] == 36 * (32 * 4 - 16 - 2)
