"""A graph names the oldest ONNX Runtime that runs it, and an older one is refused with a sentence.

The releases were found by opening such graphs in them, one environment each.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from compressor.errors import EnvironmentMismatch
from compressor.models import runtime_releases
from compressor.models.runtime_releases import parse_version, surely_runs
from compressor.models.runtime_versions import oldest_runtime, require_runtime


def graph_file(
    folder: Path, node: onnx.NodeProto, *, opset: int, ir_version: int = 8, domain: str = ""
) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, 1)] if domain else []
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version), path)
    return path


RELU = helper.make_node("Relu", ["x"], ["y"])
QUANTIZE = helper.make_node("QuantizeLinear", ["x", "s"], ["y"])


@pytest.mark.parametrize(
    ("opset", "ir_version", "expected"),
    [
        (17, 8, "1.15.0"),
        (19, 8, "1.16.0"),
        (20, 8, "1.17.0"),
        (21, 10, "1.18.0"),
        (17, 10, "1.18.0"),
        (22, 10, "1.21.0"),
        (23, 11, "1.23.0"),
        (24, 11, "1.24.1"),
        (17, 12, "1.24.1"),
        (26, 8, "1.25.0"),
    ],
)
def test_the_oldest_runtime_follows_from_operator_set_and_format(
    tmp_path: Path, opset: int, ir_version: int, expected: str
):
    path = graph_file(tmp_path, RELU, opset=opset, ir_version=ir_version)
    assert oldest_runtime(path) == expected


def test_an_operator_whose_kernel_came_later_asks_for_the_later_release(tmp_path: Path):
    # ONNX Runtime 1.23 opens operator set 23, and has no kernel for its QuantizeLinear.
    assert oldest_runtime(graph_file(tmp_path, QUANTIZE, opset=23)) == "1.24.1"


def test_integers_of_four_bits_that_are_cast_ask_for_the_release_that_casts_them(tmp_path: Path):
    cast = helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)
    path = graph_file(tmp_path, cast, opset=21)
    assert oldest_runtime(path) == "1.18.0"
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [2], [3, -8]))
    onnx.save(model, path)
    assert oldest_runtime(path) == "1.23.0"


def test_the_same_operator_of_an_older_operator_set_does_not(tmp_path: Path):
    assert oldest_runtime(graph_file(tmp_path, QUANTIZE, opset=21)) == "1.18.0"


@pytest.mark.parametrize(
    ("operator", "bits", "expected"),
    [
        ("BiasGelu", None, "1.15.0"),
        ("MatMulNBits", None, "1.17.0"),
        ("MatMulNBits", 4, "1.17.0"),
        ("MatMulNBits", 8, "1.22.0"),
        ("GatherBlockQuantized", 4, "1.23.0"),
    ],
)
def test_an_operator_of_onnx_runtime_itself_asks_for_the_release_that_brought_it(
    tmp_path: Path, operator: str, bits: int | None, expected: str
):
    node = helper.make_node(operator, ["x"], ["y"], domain="com.microsoft", bits=bits)
    path = graph_file(tmp_path, node, opset=17, domain="com.microsoft")
    assert oldest_runtime(path) == expected


def test_an_operator_inside_a_branch_counts(tmp_path: Path):
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([QUANTIZE], "b", [], [value])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    assert oldest_runtime(graph_file(tmp_path, node, opset=23)) == "1.24.1"


def test_an_operator_set_that_no_table_knows_asks_for_what_runs_here(tmp_path: Path):
    here = ".".join(map(str, parse_version(onnxruntime.__version__) or ()))
    assert oldest_runtime(graph_file(tmp_path, RELU, opset=99)) == here


def test_a_runtime_older_than_the_manifest_asks_for_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    with pytest.raises(EnvironmentMismatch) as raised:
        require_runtime(Path("artifact"), {"min_onnxruntime": "1.24.1"})
    assert "artifact: needs onnxruntime 1.24.1 or newer, and 1.23.2 is installed" in str(
        raised.value
    )


@pytest.mark.parametrize("here", ["1.24.1", "1.24.10", "1.25.0.dev20260101", "2.0.0"])
def test_a_runtime_as_new_as_the_manifest_asks_for_is_taken(
    monkeypatch: pytest.MonkeyPatch, here: str
):
    monkeypatch.setattr(onnxruntime, "__version__", here)
    require_runtime(Path("artifact"), {"min_onnxruntime": "1.24.1"})


def test_an_artifact_that_says_nothing_is_taken():
    require_runtime(Path("artifact"), {})


@pytest.mark.parametrize("odd", ["newest", 1.24, ["1.24.1"], "1.24", ""])
def test_a_manifest_that_names_no_version_is_refused(odd: object):
    with pytest.raises(EnvironmentMismatch, match="min_onnxruntime must be a version"):
        require_runtime(Path("artifact"), {"min_onnxruntime": odd})


@pytest.mark.parametrize(
    ("release", "opset", "expected"),
    [
        ("1.24.1", 23, True),
        ("1.23.2", 23, False),  # runs it, but not what is quantized
        ("1.23.2", 22, True),
        ("1.32.0", 28, False),  # nobody knows
        ("newest", 18, False),
    ],
)
def test_what_a_release_surely_runs_is_told_without_loading_it(
    release: str, opset: int, expected: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runtime_releases, "version", lambda name: release)
    assert surely_runs(opset) is expected


def test_a_build_under_another_name_is_not_known(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> str:
        raise runtime_releases.PackageNotFoundError(name)

    monkeypatch.setattr(runtime_releases, "version", missing)
    assert not surely_runs(18)
