from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.onnx_model import OnnxModel, optimized_graph
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.affine import max_pair_sum
from compressor.onnx_graph.observers import ActivationStatistics
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.passes import PassContext, apply_pass
from compressor.passes.quantize import calibration
from compressor.passes.quantize.calibration import Calibration, unpadded
from compressor.passes.quantize.quantization import find_weights
from compressor.passes.quantize.sensitivity import LARGEST_ERROR
from compressor.passes.quantize.settings import QuantizeStatic
from compressor.tasks import Batch

ContextMaker = Callable[..., PassContext]

SHORT, LONG = "a good film", "the bad film was not a good one and " * 5
METHODS = ("minmax", "percentile", "mse", "entropy")


@pytest.fixture
def context(make_context: ContextMaker, tiny_bert_dir: Path, unlabelled: Dataset) -> PassContext:
    """Return a context whose calibration rows are short but for a few."""
    rows = dataclasses.replace(unlabelled, examples=(*unlabelled.examples, LONG, LONG + "good"))
    return make_context(exported=tiny_bert_dir, calibration=rows)


@pytest.fixture
def apply(context: PassContext) -> Callable[..., OnnxModel]:
    def run(model: OnnxModel, **settings: object) -> OnnxModel:
        return apply_pass(QuantizeStatic(**{"min_elements": 0, **settings}), model, context)

    return run


@pytest.fixture
def encode(tiny_bert: TorchModel) -> Callable[..., Batch]:
    return lambda *texts: tiny_bert.task.encode(tiny_bert.preprocessor, texts)


def with_examples(context: PassContext, *examples: str) -> PassContext:
    rows = dataclasses.replace(context.calibration, examples=examples)
    return dataclasses.replace(context, splits={"calibration": rows})


def observe(
    exported: OnnxModel, context: PassContext, num_rows: int = 512
) -> Calibration[ActivationStatistics]:
    settings = QuantizeStatic(min_elements=0, rows=num_rows)
    return calibration.observe(find_weights(settings, exported, context))


@pytest.mark.parametrize("method", METHODS)
def test_logits_stay_close_with_every_method(
    exported: OnnxModel, apply, encode, text_dataset: Dataset, method: str
):
    batch = encode(*text_dataset.examples)
    before, after = exported.predict(batch), apply(exported, method=method).predict(batch)
    # Clipping costs more than rounding on a random model, whose every value carries information.
    assert np.abs(after - before).max() < 0.25 * np.abs(before).max()
    assert np.mean(after.argmax(axis=1) == before.argmax(axis=1)) > 0.9


def test_every_product_runs_on_integers_as_onnx_runtime_optimizes_the_file(
    exported: OnnxModel, apply
):
    operators = [node.op_type for node in optimized_graph(apply(exported).path).graph.node]
    assert operators.count("MatMulIntegerToFloat") == 11
    # Key and value of the last layer read more positions than its query: two inputs, one product
    # each; every other product has an input of its own.
    assert operators.count("QuantizeLinear") == 11
    # What is left are attention's products, which multiply no weight: two in each of two layers.
    assert operators.count("FusedMatMul") + operators.count("MatMul") == 4
    assert not {"DequantizeLinear", "DynamicQuantizeMatMul", "Gemm"} & set(operators)


def test_no_stored_matrix_can_overflow_16_bits(exported: OnnxModel, apply):
    graph = load_graph(apply(exported).path).graph
    tensors = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert max(max_pair_sum(tensors[node.input[1]]) for node in products) <= 128


def test_output_is_bitwise_the_same_beside_other_texts_of_any_content(
    exported: OnnxModel, apply, encode
):
    quantized = apply(exported)
    batch = encode(SHORT, LONG, LONG + "bad", LONG + "good")
    together = quantized.predict(batch)
    beside = {name: value[[0, 2]] for name, value in batch.items()}
    # Two rows at least: ONNX Runtime multiplies a single row in another order, in float too.
    np.testing.assert_array_equal(quantized.predict(beside), together[[0, 2]])


def test_output_alone_and_unpadded_differs_by_float_rounding_only(
    exported: OnnxModel, apply, encode
):
    quantized = apply(exported)
    alone = quantized.predict(encode(SHORT))[0]
    padded = quantized.predict(encode(SHORT, LONG))[0]
    # Attention adds up in another order with padding; that may move an activation by one step.
    assert np.abs(padded - alone).max() < 2e-3 * np.abs(alone).max()


def test_padding_is_never_observed(exported: OnnxModel, context: PassContext, encode):
    texts = (SHORT, LONG, "bad")
    together = observe(exported, with_examples(context, *texts))
    alone = [observe(exported, with_examples(context, text)) for text in texts]
    num_tokens = int(encode(*texts)["attention_mask"].sum())
    for name, statistics in together.statistics.items():
        parts = [one.statistics[name] for one in alone]
        assert statistics.num_tokens == sum(part.num_tokens for part in parts)
        assert statistics.num_tokens in (num_tokens, len(texts))  # the last layer reads one
        assert statistics.lowest == pytest.approx(min(part.lowest for part in parts), rel=1e-5)
        assert statistics.highest == pytest.approx(max(part.highest for part in parts), rel=1e-5)


def test_what_is_observed_is_what_the_model_computes(
    tiny_bert: TorchModel, exported: OnnxModel, context: PassContext
):
    found = observe(exported, with_examples(context, LONG)).statistics["tanh"]
    encoded = tiny_bert.preprocessor([LONG], return_tensors="pt")
    pooled = tiny_bert.module.bert(**encoded).pooler_output.detach().numpy()
    assert (found.lowest, found.highest) == pytest.approx((pooled.min(), pooled.max()), rel=1e-3)
    np.testing.assert_allclose(found.channel_largest, np.abs(pooled).max(axis=0), rtol=1e-3)


def test_rows_are_split_by_their_masks_and_keep_left_padding_out(encode):
    batch = encode(SHORT, LONG)
    flipped = {name: value[:, ::-1] for name, value in batch.items()}
    found = [part["input_ids"] for part in unpadded(flipped)]
    lengths = batch["attention_mask"].sum(axis=1)
    assert sorted(part.shape[1] for part in found) == sorted(lengths)
    assert all((part != 0).all() for part in found)  # 0 is the padding token


def test_inputs_without_a_mask_go_through_as_they_are():
    batch = {"pixel_values": np.zeros((3, 1, 8, 8), np.float32)}
    assert [part is batch for part in unpadded(batch)] == [True]


def test_long_rows_run_in_small_batches():
    mask = np.ones((10, 300), np.int64)
    sizes = [len(part["attention_mask"]) for part in unpadded({"attention_mask": mask})]
    assert sizes == [3, 3, 3, 1]  # 1024 tokens at most


def test_rows_are_spread_over_the_split_and_counted(exported: OnnxModel, apply, notes: list[str]):
    apply(exported, rows=7)
    assert notes[0] == "Scales of 11 activations fixed on 7 calibration rows (percentile)."


def test_statistics_take_the_same_memory_for_any_number_of_rows(
    exported: OnnxModel, context: PassContext
):
    def size(num_rows: int) -> int:
        found = observe(exported, context, num_rows).statistics.values()
        return sum(item.histogram.counts.nbytes + item.channel_largest.nbytes for item in found)

    assert size(50) == size(1)


def test_an_empty_calibration_split_is_an_error(exported: OnnxModel, context: PassContext):
    with pytest.raises(StepFailed, match=r"give data\.calibration at least one row"):
        apply_pass(QuantizeStatic(), exported, with_examples(context))


def refilled(exported: OnnxModel, path: Path, **values: float) -> OnnxModel:
    """Return the graph with constants, by the last parts of their names, filled with one value."""
    graph = load_graph(exported.path)
    for ending, value in values.items():
        [tensor] = [item for item in graph.graph.initializer if item.name.endswith(ending)]
        filled = np.full(tuple(tensor.dims), value, np.float32)
        tensor.CopyFrom(numpy_helper.from_array(filled, tensor.name))
    save_graph(graph, path)
    return OnnxModel(path)


def test_activations_that_are_not_finite_are_named(exported: OnnxModel, apply, tmp_path: Path):
    # All normalisations of a fresh model share their constants.
    broken = refilled(exported, tmp_path / "nan.onnx", **{"LayerNorm.bias": np.nan})
    with pytest.raises(StepFailed, match=r"activations layer_norm hold NaN or infinity"):
        apply(broken)


@pytest.mark.parametrize("method", METHODS)
def test_activations_that_are_constant_give_the_right_output(
    exported: OnnxModel, apply, encode, tmp_path: Path, method: str
):
    changes = {"LayerNorm.weight": 0.0, "LayerNorm.bias": 0.5}
    constant = refilled(exported, tmp_path / "constant.onnx", **changes)
    batch = encode(SHORT, LONG)
    before, after = constant.predict(batch), apply(constant, method=method).predict(batch)
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_a_weight_of_zeros_stays_one(exported: OnnxModel, apply, encode, tmp_path: Path):
    zeros = refilled(exported, tmp_path / "zeros.onnx", **{"layer.1.output.dense.weight": 0.0})
    batch = encode(SHORT, LONG)
    before, after = zeros.predict(batch), apply(zeros).predict(batch)
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()


def test_images_need_no_mask(
    exported_vit: OnnxModel,
    tiny_vit: TorchModel,
    tiny_vit_dir: Path,
    image_dataset: Dataset,
    make_context: ContextMaker,
):
    context = make_context(tiny_vit_dir, calibration=image_dataset)
    quantized = apply_pass(QuantizeStatic(min_elements=0), exported_vit, context)
    batch = tiny_vit.task.encode(tiny_vit.preprocessor, image_dataset.examples)
    before, after = tiny_vit.predict(batch), quantized.predict(batch)
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()


def test_observed_channels_can_be_smoothed_where_it_helps(
    exported: OnnxModel, apply, encode, notes: list[str]
):
    batch = encode(SHORT, LONG)
    before, after = exported.predict(batch), apply(exported, smooth_alpha=0.5).predict(batch)
    # 11 matrices; two are read by Gemm.
    [count] = [int(note.split()[-4]) for note in notes if note.startswith("Large channels")]
    assert 0 < count <= 9
    assert np.abs(after - before).max() < 0.25 * np.abs(before).max()


def test_sensitive_weights_are_judged_with_the_scales_they_would_have(
    exported: OnnxModel, context: PassContext
):
    apply_pass(QuantizeStatic(min_elements=0, keep_sensitive=1), exported, context)
    facts = context.facts["sensitivity"]
    assert sum(fact["kept_in_float"] for fact in facts) == 1
    assert max(fact["logit_rms"] for fact in facts) > 0


def test_few_calibration_rows_are_filled_up_from_train(
    exported: OnnxModel, context: PassContext, notes: list[str], unlabelled: Dataset
):
    rows = dataclasses.replace(unlabelled, examples=(SHORT,) * 3, rows=np.arange(3))
    spare = dataclasses.replace(rows, examples=(LONG,) * 60, rows=np.arange(60))
    few = dataclasses.replace(
        context, splits={"calibration": dataclasses.replace(rows, spare=spare)}
    )
    filled = with_examples(context, *(SHORT,) * 3, *(LONG,) * 29)  # up to 32
    found, expected = observe(exported, few), observe(exported, filled)
    assert (found.num_rows, found.num_borrowed, expected.num_borrowed) == (32, 29, 0)
    assert {name: item.channel_largest.tolist() for name, item in found.statistics.items()} == {
        name: item.channel_largest.tolist() for name, item in expected.statistics.items()
    }
    apply_pass(QuantizeStatic(min_elements=0), exported, few)
    assert any("32 calibration rows, 29 of them of the train split" in note for note in notes)
    assert not any(note.startswith("Only") for note in notes)


def test_spare_rows_are_left_alone_where_calibration_rows_are_enough(
    exported: OnnxModel, context: PassContext, unlabelled: Dataset
):
    rows = dataclasses.replace(unlabelled, examples=(SHORT,) * 32, rows=np.arange(32))
    spare = dataclasses.replace(rows, examples=(LONG,) * 60, rows=np.arange(60))
    enough = dataclasses.replace(
        context, splits={"calibration": dataclasses.replace(rows, spare=spare)}
    )
    found = observe(exported, enough)
    assert (found.num_rows, found.num_borrowed) == (32, 0)


@pytest.mark.parametrize(("count", "told"), [(1, True), (31, True), (32, False)])
def test_few_rows_that_train_cannot_fill_up_are_told(
    exported: OnnxModel, context: PassContext, notes: list[str], count: int, told: bool
):
    apply_pass(QuantizeStatic(min_elements=0), exported, with_examples(context, *(LONG,) * count))
    assert any(note.startswith(f"Only {count} calibration row") for note in notes) is told


def test_rows_of_train_bring_the_error_of_a_few_short_rows_down(
    exported: OnnxModel, context: PassContext, encode, text_dataset: Dataset, unlabelled: Dataset
):
    short = dataclasses.replace(unlabelled, examples=("a",), rows=np.arange(1))
    lent = dataclasses.replace(
        short, spare=dataclasses.replace(unlabelled, examples=unlabelled.examples)
    )
    batch = encode(*text_dataset.examples)
    before = exported.predict(batch)
    errors = [
        np.square(
            apply_pass(
                QuantizeStatic(min_elements=0),
                exported,
                dataclasses.replace(context, splits={"calibration": rows}),
            ).predict(batch)
            - before
        ).mean()
        ** 0.5
        for rows in (short, lent)
    ]
    assert errors[1] < 0.5 * errors[0]


def with_massive_activations(model: OnnxModel, path: Path) -> OnnxModel:
    """Return the graph with one inner channel of both layers at 300, which nothing reads."""
    graph = load_graph(model.path)
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name.endswith("intermediate.dense.weight"):
            values[:, 5] = 0
        elif tensor.name.endswith("intermediate.dense.bias"):  # both layers read one of zeros
            values[5] = 300
        elif re.search(r"layer\.\d\.output\.dense\.weight", tensor.name):
            values[5] = 0
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    save_graph(graph, path)
    return dataclasses.replace(model, path=path)


def test_auto_keeps_the_weights_behind_massive_activations_in_float_and_no_others(
    exported: OnnxModel, context: PassContext, notes: list[str], tmp_path: Path
):
    model = with_massive_activations(exported, tmp_path / "massive.onnx")
    apply_pass(QuantizeStatic(min_elements=0, keep_sensitive="auto"), model, context)
    kept = {fact["name"] for fact in context.facts["sensitivity"] if fact["kept_in_float"]}
    assert kept == {f"bert.encoder.layer.{index}.output.dense.weight" for index in range(2)}
    none, one, two = context.facts["kept_in_float_trials"]
    assert [trial["kept"] for trial in (none, one, two)] == [0, 1, 2]
    assert min(none["error"], one["error"]) > LARGEST_ERROR > two["error"]
    assert any(note.startswith("keep_sensitive: auto, on") for note in notes)


def test_auto_measures_no_weight_where_all_of_them_do(
    exported: OnnxModel, context: PassContext, notes: list[str]
):
    apply_pass(QuantizeStatic(min_elements=0, keep_sensitive="auto"), exported, context)
    assert "sensitivity" not in context.facts
    assert [trial["kept"] for trial in context.facts["kept_in_float_trials"]] == [0]


def test_for_openvino_every_matmul_is_between_signed_pairs_of_safe_weights(
    exported: OnnxModel, apply, encode, text_dataset: Dataset
):
    # Activations are observed in ONNX Runtime, so nothing here needs OpenVINO.
    for_openvino = dataclasses.replace(exported, provider="openvino")
    written = apply(for_openvino, smooth_alpha=0.8)
    assert written.provider == "openvino"
    graph = load_graph(written.path).graph
    operators = [node.op_type for node in graph.node]
    assert "MatMulIntegerToFloat" not in operators
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    dequantized = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    weights = [stored[node.input[0]] for node in dequantized if node.input[0] in stored]
    assert len(weights) == 11  # matrices of the tiny BERT
    assert all(max_pair_sum(weight) <= 128 for weight in weights)
    zero_points = [stored[node.input[2]] for node in dequantized]
    assert all(zeros.dtype == np.int8 and not zeros.any() for zeros in zero_points)
    batch = encode(*text_dataset.examples)
    before = exported.predict(batch)
    after = OnnxModel(written.path, threads=1).predict(batch)
    assert np.abs(after - before).max() < 0.25 * np.abs(before).max()


def test_biases_in_matmuls_change_no_number(exported: OnnxModel, apply, encode):
    batch = encode(SHORT, LONG, LONG + "bad")
    found = []
    for biases in ("apart", "in_matmuls"):
        model = apply(exported, biases=biases)  # into the same file
        operators = Counter(node.op_type for node in load_graph(model.path).graph.node)
        found.append((operators, model.predict(batch)))
    (before, outputs), (after, moved) = found
    np.testing.assert_array_equal(moved, outputs)
    # Of both layers: queries, keys and values, and what the feed-forward network activates.
    assert before - after == {"Add": 6, "BiasGelu": 2}
    assert after - before == {"Gelu": 2}
