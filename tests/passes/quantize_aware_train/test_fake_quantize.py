from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.affine import max_pair_sum, quantize_columns
from compressor.onnx_graph.block_weights import quantize_blocks
from compressor.onnx_graph.gptq import ActivationMoments, matmul_error, round_blocks
from compressor.onnx_graph.quantized_activations import (
    AFTER_GELU,
    AFTER_RELU,
    SYMMETRIC,
    ScaleAndZeroPoint,
    quantize_tokens,
)
from compressor.passes.quantize_aware_train.fake_quantize import (
    BlockQuantizer,
    InputQuantizer,
    check_simulation,
    fake_quantize_static,
    fake_quantize_tokens,
    fake_quantize_weight,
    first_steps,
    project_pairs,
    simulated_int8,
)

RANDOM = np.random.default_rng(3)


def random_weight(out_features: int, in_features: int) -> torch.Tensor:
    return torch.from_numpy(RANDOM.normal(size=(out_features, in_features)).astype(np.float32))


def onnx_round_trip(values: np.ndarray, scale) -> np.ndarray:
    """Quantize with the graph's own nodes in ONNX Runtime, and dequantize by hand."""
    constants: dict[str, np.ndarray] = {}

    def add(name: str, value: np.ndarray) -> str:
        constants[name] = value
        return name

    tokens, nodes = quantize_tokens("x", scale, 20, add)
    outputs = [
        helper.make_tensor_value_info(tokens.integers, TensorProto.UINT8, None),
        helper.make_tensor_value_info(tokens.ranges, TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    integers, ranges = session.run(None, {"x": values})
    return (integers.astype(np.float32) - scale.zero_point) / np.float32(scale.levels) * ranges


@pytest.mark.parametrize("scale", [SYMMETRIC, AFTER_GELU, AFTER_RELU], ids=["any", "gelu", "relu"])
def test_tokens_are_rounded_as_the_graph_rounds_them(scale):
    values = torch.from_numpy(RANDOM.normal(size=(3, 5, 16)).astype(np.float32) * 4)
    values = {SYMMETRIC: values, AFTER_GELU: nn.functional.gelu(values)}.get(scale, values.relu())
    values[0, 0] = 0  # a token of zeros has no range of its own
    found = fake_quantize_tokens(values, scale)
    np.testing.assert_allclose(found.numpy(), onnx_round_trip(values.numpy(), scale), atol=1e-6)


def test_a_token_does_not_depend_on_its_neighbours():
    values = random_weight(4, 8)
    alone = fake_quantize_tokens(values[:1], SYMMETRIC)
    assert torch.equal(
        fake_quantize_tokens(values * torch.tensor([[1], [9], [9], [9]]), SYMMETRIC)[:1], alone
    )


def test_token_gradients_pass_straight_through():
    values = random_weight(2, 8).requires_grad_()
    (fake_quantize_tokens(values, SYMMETRIC) * torch.arange(8)).sum().backward()
    assert torch.equal(values.grad, torch.arange(8.0).expand(2, 8))


def test_fixed_scales_round_and_clip_as_the_operator_does(
    make_graph: Callable[..., onnx.ModelProto], run_graph: Callable[..., np.ndarray]
):
    scale = ScaleAndZeroPoint(scale=0.1, zero_point=100)  # from -10.0 to 15.5
    values = torch.tensor([-20.0, -10.04, 0.04, 0.05, 0.15, 7.77, 15.54, 15.6])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT),
    ]
    constants = {"s": np.array(0.1, np.float32), "z": np.array(100, np.uint8)}
    graph = make_graph(nodes, {"x": (TensorProto.FLOAT, [8])}, constants)
    expected = (run_graph(graph, x=values.numpy()) - 100.0) * np.float32(0.1)
    np.testing.assert_allclose(fake_quantize_static(values, scale).numpy(), expected, rtol=1e-6)


def test_what_a_fixed_scale_clips_gets_no_gradient():
    values = torch.tensor([-20.0, -5.0, 0.0, 15.0, 16.0], requires_grad=True)
    fake_quantize_static(values, ScaleAndZeroPoint(scale=0.1, zero_point=100)).sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ([100, 28], [100, 28]),  # sums to 128: safe
        ([100, 29], [99, 29]),  # one too many comes from the first
        ([100, 30], [99, 29]),
        ([-100, -30], [-99, -29]),
        ([127, 127], [64, 64]),
        ([127, -127], [127, -127]),  # opposite signs cannot add up
        ([300, -2], [127, -2]),
        ([300, 0], [127, 0]),
        ([127, 2], [126, 2]),
    ],
)
def test_pairs_are_brought_to_the_nearest_safe_sum(pair: list[int], expected: list[int]):
    assert project_pairs(torch.tensor([pair], dtype=torch.float32)).tolist() == [expected]


def test_projection_is_safe_and_leaves_the_odd_one_alone():
    integers = torch.from_numpy(RANDOM.integers(-300, 301, (50, 33)).astype(np.float32))
    found = project_pairs(integers)
    assert max_pair_sum(found.numpy().astype(np.int8).T) <= 128
    assert torch.equal(found[:, -1], integers[:, -1].clamp(-127, 127))
    assert torch.equal(project_pairs(found), found)


def test_gradients_of_a_weight_and_its_step_are_those_of_lsq():
    weight = torch.tensor([[0.34, -0.71, 3.0]], requires_grad=True)
    steps = torch.tensor([[0.01]], requires_grad=True)
    # Two weights on the scale but for rounding: 34 and -71; the last is clipped to 127.
    fake_quantize_weight(weight + torch.tensor([[0.002, 0.003, 0.0]]), steps).sum().backward()
    assert weight.grad.tolist() == [[1.0, 1.0, 0.0]]
    # integer - weight / step where rounded, the integer where clipped (Esser et al. 2020, eq. 3)
    assert steps.grad.item() == pytest.approx((34 - 34.2) + (-71 + 70.7) + 127, abs=1e-3)


def test_first_steps_are_never_worse_than_those_that_clip_nothing():
    weight = random_weight(6, 40)
    weight[:, 3] *= 6  # an outlier that is worth clipping
    steps = first_steps(weight)
    error = (fake_quantize_weight(weight, steps) - weight).square().sum(dim=1)
    values, scales = quantize_columns(weight.T.numpy())
    widest = torch.from_numpy(values * scales).T
    assert (error <= (widest - weight).square().sum(dim=1) * 1.0001).all()


def test_rows_of_zeros_have_step_one():
    assert first_steps(torch.zeros(2, 4)).tolist() == [[1.0], [1.0]]


def test_a_weight_that_is_not_finite_is_refused():
    weight = random_weight(2, 4)
    weight[1, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        first_steps(weight)


@pytest.mark.parametrize("in_features", [32, 33])
def test_quantization_finds_the_integers_that_were_trained(in_features: int):
    weight = random_weight(16, in_features)
    steps = first_steps(weight)
    baked = fake_quantize_weight(weight, steps)
    values, scales = quantize_columns(baked.T.numpy())
    np.testing.assert_allclose(values * scales, baked.T.numpy(), rtol=1e-6, atol=1e-7)
    assert max_pair_sum(values) <= 128


def test_simulation_ends_with_weights_on_their_scales(tiny_bert: TorchModel):
    before = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}
    with simulated_int8(tiny_bert.module, min_elements=1) as simulated:
        assert simulated.weights
    after = tiny_bert.module.state_dict()
    assert list(after) == list(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "bert.encoder.layer.0.attention.self.query.weight" in changed
    assert "bert.embeddings.word_embeddings.weight" in changed
    assert not [name for name in changed if "LayerNorm" in name or name.endswith("bias")]
    weight = after["bert.encoder.layer.1.output.dense.weight"]
    original = before["bert.encoder.layer.1.output.dense.weight"]
    assert torch.equal(weight, fake_quantize_weight(original, first_steps(original)))


@pytest.mark.parametrize("in_features", [64, 40])
def test_storing_finds_the_four_bits_that_were_trained(in_features: int):
    weight = random_weight(8, in_features)
    rounded = BlockQuantizer(weight, 16)(weight)
    blocks = quantize_blocks(rounded.numpy(), bits=4, block_size=16, float16_scales=False)
    np.testing.assert_allclose(blocks.restored(), rounded.numpy(), rtol=1e-5)
    # Rounding moves a weight by half a step at most, but where a block's scale clips its largest.
    plain = quantize_blocks(weight.numpy(), bits=4, block_size=16, float16_scales=False)
    np.testing.assert_allclose(rounded.numpy(), plain.restored(), rtol=1e-5)


def test_four_bits_pass_gradients_on_but_where_they_clip():
    weight = torch.tensor([[1.0, -0.4, 0.3, 0.2]], requires_grad=True)
    quantizer = BlockQuantizer(weight, 16)
    quantizer.steps.fill_(0.1)
    quantizer(weight).sum().backward()
    assert quantizer(weight).tolist() == [pytest.approx([0.7, -0.4, 0.3, 0.2])]
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, 1.0, 1.0, 1.0]]


def test_matrices_end_in_four_bits_where_that_is_asked(tiny_bert: TorchModel):
    dense = tiny_bert.module.bert.encoder.layer[0].output.dense
    with simulated_int8(tiny_bert.module, min_elements=512, matrix_block=32) as simulated:
        assert {type(each) for each in simulated.weights} == {BlockQuantizer}
        for each in simulated.weights:
            each.freeze()
    found = dense.weight.detach().numpy()
    blocks = quantize_blocks(found, bits=4, block_size=32, float16_scales=False)
    np.testing.assert_allclose(blocks.restored(), found, rtol=1e-5)


def test_matrices_begin_where_gptq_rounds_them_for_what_they_read(tiny_bert: TorchModel):
    dense = tiny_bert.module.bert.encoder.layer[0].output.dense
    name = "bert.encoder.layer.0.output.dense"
    weight = dense.weight.detach().numpy().copy()
    random, moments = np.random.default_rng(0), ActivationMoments()
    mixed = random.normal(size=(weight.shape[1], weight.shape[1]))  # inputs that are correlated
    moments.update((random.normal(size=(500, len(mixed))) @ mixed).astype(np.float32))
    found = {}
    for rounding, known in (("nearest", {}), ("gptq", {name: moments})):
        dense.weight.data = torch.from_numpy(weight.copy())
        with simulated_int8(tiny_bert.module, min_elements=512, matrix_block=32, moments=known):
            pass
        found[rounding] = dense.weight.detach().numpy().T
    blocks = round_blocks(weight.T.copy(), moments.gram, bits=4, block_size=32)
    np.testing.assert_allclose(found["gptq"], blocks.restored().T, rtol=1e-5)
    errors = {key: matmul_error(weight.T, value, moments) for key, value in found.items()}
    assert errors["gptq"] < 0.8 * errors["nearest"]


def test_small_matrices_and_unrounded_tables_stay_in_float(tiny_bert: TorchModel):
    before = {name: value.clone() for name, value in tiny_bert.module.state_dict().items()}
    with simulated_int8(tiny_bert.module, min_elements=10**9):
        pass
    with simulated_int8(tiny_bert.module, min_elements=1, rounds_tables=False):
        pass
    after = tiny_bert.module.state_dict()
    table = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(after[table], before[table])


def test_gradients_reach_weights_and_steps(tiny_bert: TorchModel):
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4)}
    with simulated_int8(tiny_bert.module, min_elements=1) as simulated:
        tiny_bert.module(**inputs).logits.square().sum().backward()
        assert all(each.log_factor.grad.abs().sum() > 0 for each in simulated.weights)


def test_a_broken_weight_is_named_and_the_module_is_as_before(tiny_bert: TorchModel):
    with torch.no_grad():
        tiny_bert.module.bert.encoder.layer[1].output.dense.weight[0, 0] = torch.inf
    with (
        pytest.raises(ValueError, match=r"layer\.1\.output\.dense\.weight holds NaN or infinity"),
        simulated_int8(tiny_bert.module, min_elements=1),
    ):
        pass
    assert not [name for name in tiny_bert.module.state_dict() if "parametrizations" in name]


def test_an_architecture_that_was_not_compared_is_refused_by_name(tiny_bert: TorchModel):
    tiny_bert.module.config.model_type = "mobilebert"
    with pytest.raises(ValueError, match="int8 is not simulated for model type 'mobilebert'"):
        check_simulation(tiny_bert.module, min_elements=1, fixed_scales=False)


def tiny_albert() -> Any:
    torch.manual_seed(0)
    config = transformers.AlbertConfig(
        vocab_size=40,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_act="gelu",
    )
    return transformers.AlbertForSequenceClassification(config).eval()


def test_layers_that_share_weights_have_no_scales_of_their_own():
    module = tiny_albert()
    check_simulation(module, min_elements=1, fixed_scales=False)
    with pytest.raises(ValueError, match=r"albert.* stands in several layers"):
        check_simulation(module, min_elements=1, fixed_scales=True)


def test_a_layer_after_gelu_is_found_where_the_architecture_is_not_in_the_table():
    scales = {
        name: item.scale
        for name, item in _simulated_inputs(tiny_albert()).items()
        if item.scale is not SYMMETRIC
    }
    [name] = scales
    assert name.endswith("ffn_output")
    assert scales[name] is AFTER_GELU


def test_an_activation_that_the_file_holds_in_parts_has_no_scale_of_its_own(tiny_bert: TorchModel):
    for layer in tiny_bert.module.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = transformers.activations.NewGELUActivation()
    inputs = _simulated_inputs(tiny_bert.module)
    assert {item.scale for item in inputs.values()} == {SYMMETRIC}


def _simulated_inputs(module: Any) -> Mapping[str, InputQuantizer]:
    with simulated_int8(module, min_elements=1) as simulated:
        return simulated.inputs
