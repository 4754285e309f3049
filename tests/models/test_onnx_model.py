from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import EnvironmentMismatch
from compressor.measurements import Size
from compressor.models import onnx_model
from compressor.models.onnx_model import (
    OnnxModel,
    check_provider,
    misplaced_nodes,
    open_session,
    provider_that_ran,
)
from compressor.models.provider_options import ProviderSettings
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.runtime.session import PROVIDERS

WEIGHT = np.array([[1, 0, 2], [0, 3, 4]], np.float32)


def write_product(path: Path, *, output: str = "logits", element: int = TensorProto.FLOAT) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], [output])],
        "graph",
        [helper.make_tensor_value_info("x", element, ["batch", 2])],
        [helper.make_tensor_value_info(output, element, ["batch", 3])],
        [numpy_helper.from_array(WEIGHT.astype(helper.tensor_dtype_to_np_dtype(element)), "w")],
    )
    opsets = [helper.make_opsetid("", 20)]
    save_graph(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """Return the file of a graph that multiplies `x` by `WEIGHT`."""
    return write_product(tmp_path / "model.onnx")


@pytest.fixture
def fallen_back(monkeypatch: pytest.MonkeyPatch):
    """Pretend that this onnxruntime was built for CUDA: on the CPU alone, it falls back."""
    built_in = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built_in)
    open_for_real = onnxruntime.InferenceSession

    def on_the_cpu(source, options, providers, **settings):
        told = settings | {"provider_options": [{}]}
        return open_for_real(source, options, providers=["CPUExecutionProvider"], **told)

    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)


def test_predict_runs_the_graph(product: Path):
    model = OnnxModel(product)
    logits = model.predict({"x": np.array([[1, 1], [2, 0]], np.float32)})
    assert logits.tolist() == [[1, 3, 6], [2, 0, 4]]
    assert model.input_names == ("x",)


def test_predict_leaves_out_what_the_graph_does_not_read(product: Path):
    batch = {"x": np.ones((1, 2), np.float32), "token_type_ids": np.zeros((1, 2), np.int64)}
    assert OnnxModel(product).predict(batch).tolist() == [[1, 3, 6]]


def test_predict_names_the_input_that_is_missing(product: Path):
    with pytest.raises(EnvironmentMismatch, match="the graph reads x, the batch holds pixels"):
        OnnxModel(product).predict({"pixels": np.ones((1, 2), np.float32)})


def test_logits_are_float32_whatever_the_graph_gives(tmp_path: Path):
    path = write_product(tmp_path / "model.onnx", element=TensorProto.DOUBLE)
    logits = OnnxModel(path).predict({"x": np.ones((1, 2), np.float64)})
    assert logits.dtype == np.float32


def test_graph_with_its_weights_beside_it_runs(product: Path, tmp_path: Path):
    graph = load_graph(product)
    large = np.ones((2, 512), np.float32)
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(large, "w"))
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 512
    save_graph(graph, tmp_path / "large.onnx", largest_single_file=1000)
    assert (tmp_path / "large.onnx.data").is_file()
    logits = OnnxModel(tmp_path / "large.onnx").predict({"x": np.ones((1, 2), np.float32)})
    np.testing.assert_array_equal(logits, np.full((1, 512), 2))


def test_session_opens_once(product: Path):
    model = OnnxModel(product)
    assert model.session is model.session


def test_models_of_one_file_are_equal(product: Path):
    opened = OnnxModel(product)
    opened.predict({"x": np.ones((1, 2), np.float32)})
    assert opened == OnnxModel(product)


def test_session_has_the_threads_that_were_asked_for(product: Path):
    options = open_session(product, "cpu", threads=3).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


def test_threads_of_a_session_that_is_not_timed_wait(product: Path):
    key, batch = "session.intra_op.allow_spinning", {"x": np.ones((1, 2), np.float32)}
    spinning, waiting = OnnxModel(product, threads=2), OnnxModel(product, threads=2, spins=False)
    assert waiting.session.get_session_options().get_session_config_entry(key) == "0"
    np.testing.assert_array_equal(waiting.predict(batch), spinning.predict(batch))


def test_size_holds_parameters_and_bytes(product: Path):
    size = OnnxModel(product).size()
    assert size == Size(6, 4, product.stat().st_size, size.compressed_bytes)


def test_session_knows_its_provider(product: Path):
    assert provider_that_ran(open_session(product, "cpu")) == "cpu"


def test_provider_that_is_not_built_in_is_named_with_what_there_is(product: Path):
    with pytest.raises(EnvironmentMismatch) as caught:
        open_session(product, "tensorrt")
    message = str(caught.value)
    assert "provider 'tensorrt' is not in this onnxruntime" in message
    assert "(has: cpu)" in message
    assert caught.value.exit_code == 3


def test_unknown_provider_is_named_with_those_that_are_known(product: Path):
    with pytest.raises(EnvironmentMismatch, match=r"'gpu' is not known \(allowed: cpu, cuda, te"):
        open_session(product, "gpu")


@pytest.mark.usefixtures("fallen_back")
def test_provider_that_silently_fell_back_is_an_error(product: Path):
    with pytest.raises(EnvironmentMismatch, match=r"'cuda' did not start .* CPUExecutionProvider"):
        open_session(product, "cuda")


@pytest.mark.usefixtures("fallen_back")
def test_check_of_a_provider_sees_that_it_fell_back():
    with pytest.raises(EnvironmentMismatch, match="provider 'cuda' did not start"):
        check_provider("cuda")


def test_check_of_the_cpu_passes():
    check_provider("cpu")


def test_nodes_that_take_time_must_run_on_the_provider(
    product: Path, monkeypatch: pytest.MonkeyPatch
):
    # A provider that registers but takes no node looks just like the CPU that does the work.
    monkeypatch.setitem(PROVIDERS, "cuda", ("CPUExecutionProvider",))
    monkeypatch.setattr(onnx_model, "_assignments", lambda session: [("OtherProvider", "MatMul")])
    with pytest.raises(EnvironmentMismatch, match=r"left operators to others \(OtherProvider: Ma"):
        open_session(product, "cuda")


def test_onnxruntime_tells_which_provider_runs_which_node(
    product: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(PROVIDERS, "cuda", ("CPUExecutionProvider",))
    session = open_session(product, "cuda")
    assert onnx_model._assignments(session) == [("CPUExecutionProvider", "MatMul")]


def test_shape_arithmetic_may_run_on_the_cpu():
    assignments = [
        ("CUDAExecutionProvider", "MatMul"),
        ("CPUExecutionProvider", "Shape"),
        ("CPUExecutionProvider", "Gather"),
        ("CPUExecutionProvider", "Softmax"),
        ("CPUExecutionProvider", "MatMul"),
        ("CPUExecutionProvider", "MatMul"),
    ]
    assert misplaced_nodes(assignments, "CUDAExecutionProvider") == {
        "CPUExecutionProvider": ("MatMul", "Softmax")
    }


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx: not found"):
        open_session(tmp_path / "model.onnx", "cpu")


def test_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx: .* a damaged file has to be made"):
        open_session(path, "cpu")


def test_graph_without_logits_is_refused(tmp_path: Path):
    path = write_product(tmp_path / "model.onnx", output="hidden")
    with pytest.raises(EnvironmentMismatch, match="has outputs hidden but none called logits"):
        open_session(path, "cpu")


def test_session_tells_its_provider_what_the_settings_say(
    product: Path, monkeypatch: pytest.MonkeyPatch
):
    told = {}
    built_in = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built_in)

    def listen(source, options, providers, provider_options, **rest):
        told.update(zip(providers, provider_options, strict=True))
        raise RuntimeError("all compute graph nodes have not been partitioned to CUDA")

    monkeypatch.setattr(onnxruntime, "InferenceSession", listen)
    settings = ProviderSettings(cuda_graph=True)
    with pytest.raises(
        EnvironmentMismatch, match=r"partitioned .*, or benchmark\.cuda_graph turned"
    ):
        open_session(product, "cuda", settings=settings)
    assert told == {
        "CUDAExecutionProvider": {"use_tf32": "0", "enable_cuda_graph": "1"},
        "CPUExecutionProvider": {},
    }
