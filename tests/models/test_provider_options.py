from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import EnvironmentMismatch
from compressor.models.provider_options import (
    PLAIN,
    AxisRange,
    ProviderSettings,
    axes_of,
    output_shape,
    provider_options,
)


def encoder(dtype: type = np.float32) -> onnx.ModelProto:
    """Return a graph that reads ids and a mask of free batch and length, and fixed features."""
    axes = ["batch", "sequence"]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, axes),
        helper.make_tensor_value_info("mask", TensorProto.INT64, axes),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [3, 2]),
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["logits"])],
        "graph",
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.ones(2, dtype), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def tensorrt(graph: onnx.ModelProto, settings: ProviderSettings) -> dict[str, str]:
    options = provider_options("tensorrt", graph.SerializeToString(), settings)
    return options["TensorrtExecutionProvider"]


def test_the_cpu_is_told_nothing():
    assert provider_options("cpu", b"", ProviderSettings(cuda_graph=True)) == {}


def test_cuda_computes_float32_exactly_unless_told_otherwise():
    assert provider_options("cuda", b"", PLAIN) == {
        "CUDAExecutionProvider": {"use_tf32": "0", "enable_cuda_graph": "0"}
    }


def test_cuda_is_told_what_a_benchmark_wants():
    settings = ProviderSettings(cuda_graph=True, rounds_float32=True, exact_memory=True)
    assert provider_options("cuda", b"", settings) == {
        "CUDAExecutionProvider": {
            "use_tf32": "1",
            "enable_cuda_graph": "1",
            "arena_extend_strategy": "kSameAsRequested",
        }
    }


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [(np.float32, ("0", "0")), (np.float16, ("1", "0")), ("bfloat16", ("0", "1"))],
)
def test_tensorrt_may_use_the_types_that_the_weights_have(kind, allowed: tuple[str, str]):
    graph = encoder(np.float32 if kind == "bfloat16" else kind)
    if kind == "bfloat16":
        graph.graph.initializer[0].data_type = TensorProto.BFLOAT16
    options = tensorrt(graph, PLAIN)
    assert (options["trt_fp16_enable"], options["trt_bf16_enable"]) == allowed


def test_tensorrt_may_use_int8_where_the_graph_has_pairs():
    graph = encoder()
    assert tensorrt(graph, PLAIN)["trt_int8_enable"] == "0"
    graph.graph.node.append(helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["q"]))
    assert tensorrt(graph, PLAIN)["trt_int8_enable"] == "1"


def test_tensorrt_keeps_its_engines_in_the_folder_it_is_given(tmp_path: Path):
    folder = tmp_path / "engines" / "baseline"
    options = tensorrt(encoder(), ProviderSettings(cache_dir=folder))
    assert folder.is_dir()
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(folder)


def test_tensorrt_builds_one_engine_for_the_range_of_the_grid():
    settings = ProviderSettings(axes=axes_of([(1, 32), (8, 32), (1, 128), (8, 128)]))
    options = tensorrt(encoder(), settings)
    # Inputs without a free axis have no range.
    assert options["trt_profile_min_shapes"] == "ids:1x32,mask:1x32"
    assert options["trt_profile_opt_shapes"] == "ids:8x128,mask:8x128"
    assert options["trt_profile_max_shapes"] == "ids:8x128,mask:8x128"


def test_axis_of_unknown_size_is_named():
    settings = ProviderSettings(axes={"batch": AxisRange(1, 8, 8)})
    with pytest.raises(EnvironmentMismatch, match=r"of sequence is not known \(known: batch\)"):
        tensorrt(encoder(), settings)


def test_only_tensorrt_records_graphs_where_both_run():
    options = provider_options(
        "tensorrt", encoder().SerializeToString(), ProviderSettings(cuda_graph=True)
    )
    assert options["TensorrtExecutionProvider"]["trt_cuda_graph_enable"] == "1"
    assert options["CUDAExecutionProvider"]["enable_cuda_graph"] == "0"


def test_grid_of_images_has_no_sequence():
    assert axes_of([(1, None), (16, None)]) == {"batch": AxisRange(1, 16, 16)}


def test_shape_of_an_output_follows_from_the_inputs():
    feed = {"ids": np.zeros((4, 7)), "mask": np.zeros((4, 7))}
    shapes = {name: ["batch", "sequence"] for name in feed}
    assert output_shape(shapes, ["batch", 3], feed) == (4, 3)
    assert output_shape(shapes, ["batch", "sequence", 9], feed) == (4, 7, 9)


def test_axis_that_no_input_has_is_named():
    with pytest.raises(EnvironmentMismatch, match="an axis 'unk__3' that none of its inputs has"):
        output_shape({"ids": ["batch"]}, ["batch", "unk__3"], {"ids": np.zeros(4)})
