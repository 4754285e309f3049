from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

import compressor.inspection
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.inspection.facts import OnnxFacts, to_dict
from compressor.inspection.inputs import TextRows, random_batch
from compressor.inspection.onnx_file import inspect_onnx
from compressor.models.onnx_model import OnnxModel, optimized_graph
from compressor.onnx_graph.integer_matmuls import find_integer_matmuls
from compressor.onnx_graph.onnx_file import bytes_on_disk, load_graph, save_graph
from compressor.onnx_graph.saturation import exact_matmul
from compressor.onnx_graph.split_run import SplitRun

DOCUMENT = Path(compressor.inspection.__file__).parent / "schema.md"


def verdict(path: Path) -> str:
    return inspect_onnx(path).saturation.verdict


def test_this_packages_own_file_is_exact_everywhere(ours: Path):
    facts = inspect_onnx(ours)
    assert facts.saturation.verdict == "exact_everywhere"
    assert len(facts.saturation.products) >= 8
    assert all(item.risky_pairs == 0 for item in facts.saturation.products)
    assert facts.saturation.logits is None


def test_weights_that_are_not_finite_are_named(exported_bert: OnnxModel, tmp_path: Path):
    graph = load_graph(exported_bert.path)
    [weight] = [it for it in graph.graph.initializer if it.name == "classifier.weight"]
    values = numpy_helper.to_array(weight).copy()
    values.flat[:2] = np.nan, -np.inf
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    mask = np.full((2, 2), -np.inf, np.float16)  # as masks are
    graph.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    save_graph(graph, tmp_path / "model.onnx")
    assert inspect_onnx(tmp_path / "model.onnx").not_finite == {"classifier.weight": 2}
    assert not inspect_onnx(exported_bert.path).not_finite


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dynamic", "can_saturate"),
        ("dynamic, 7 bits", "exact_everywhere"),
        ("dynamic, unsigned", "exact_everywhere"),
        ("static", "can_saturate"),
        ("static, signed", "can_saturate"),  # ONNX Runtime makes its activations unsigned on x86
        ("transformers", "can_saturate"),
    ],
)
def test_other_tools_files_are_judged_by_what_onnx_runtime_makes_of_them(
    others: dict[str, Path], name: str, expected: str
):
    assert verdict(others[name]) == expected


def test_a_float_file_has_no_integer_products(plain: OnnxModel):
    facts = inspect_onnx(plain.path)
    assert facts.saturation.verdict == "no_integer_products"
    assert facts.bytes_on_disk == bytes_on_disk(plain.path)
    assert sum(vars(facts.components).values()) == facts.bytes_on_disk
    assert facts.operators["MatMul"] >= 8
    assert [item.name for item in facts.outputs] == ["logits"]


def test_a_file_that_can_saturate_says_where_and_by_how_much(others: dict[str, Path]):
    facts = inspect_onnx(others["dynamic"])
    risky = [item for item in facts.saturation.products if item.can_saturate]
    assert {item.component for item in risky} == {"attention", "feed_forward", "other"}
    assert {item.layer for item in risky} == {0, 1, None}
    assert all(item.worst_16_bit_sum > 32767 for item in risky if item.worst_16_bit_sum)
    change = facts.saturation.logits
    assert change is not None
    assert (change.inputs, change.rows) == ("8 random rows", 8)
    assert 0 <= change.rms <= change.max_abs


def test_texts_are_read_through_the_tokenizer_beside_the_file(
    others: dict[str, Path], plain: OnnxModel, tmp_path: Path
):
    data = tmp_path / "rows.csv"
    data.write_text("text,label\na good film,1\nthe plot was dull,0\n")
    rows = TextRows(data, "text", plain.path.parent)
    change = inspect_onnx(others["dynamic"], rows=rows).saturation.logits
    assert change is not None
    assert (change.inputs, change.rows) == ("2 rows of rows.csv", 2)


def test_a_graph_with_every_product_in_numpy_gives_the_logits_of_the_whole(
    others: dict[str, Path],
):
    model = optimized_graph(others["static"])
    products = {item.output for item in find_integer_matmuls(model) if item.can_simulate}
    _, [batch] = random_batch(model)
    found = SplitRun(model, products).run(batch, "logits", exact_matmul)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact without VNNI too
    session = onnxruntime.InferenceSession(
        others["static"], options, providers=["CPUExecutionProvider"]
    )
    # The file's own activations are 8 bits wide: one step of the last product is the tolerance.
    np.testing.assert_allclose(found, session.run(["logits"], batch)[0], atol=0.1)
    assert products


def test_random_ids_stay_within_their_table(plain: OnnxModel):
    model = load_graph(plain.path)
    _, [batch] = random_batch(model)
    rows = next(item.dims[0] for item in model.graph.initializer if "word_embeddings" in item.name)
    assert batch["input_ids"].shape == (8, 32)
    assert 0 <= batch["input_ids"].min() <= batch["input_ids"].max() < rows
    assert batch["attention_mask"].min() == 1
    assert batch["token_type_ids"].max() == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no graph"),
        (b"this is no protobuf at all", "not a readable ONNX file"),
        (None, "not found"),
    ],
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes | None, message: str):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EnvironmentMismatch, match=message):
        inspect_onnx(path)


def test_a_truncated_file_is_refused(plain: OnnxModel, tmp_path: Path):
    path = tmp_path / "model.onnx"
    content = plain.path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx"):
        inspect_onnx(path)


def test_a_missing_data_file_is_named(plain: OnnxModel, tmp_path: Path):
    path = tmp_path / "model.onnx"
    save_graph(load_graph(plain.path), path, largest_single_file=1000)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(EnvironmentMismatch, match=r"data file is missing|model\.onnx\.data"):
        inspect_onnx(path)


def test_weights_in_a_data_file_are_inspected_like_any_others(
    others: dict[str, Path], tmp_path: Path
):
    path = tmp_path / "model.onnx"
    save_graph(load_graph(others["dynamic"]), path, largest_single_file=1000)
    whole, split = inspect_onnx(others["dynamic"]), inspect_onnx(path)
    assert split.saturation == whole.saturation


def test_a_graph_without_weights_is_refused(tmp_path: Path):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path)
    with pytest.raises(EnvironmentMismatch, match="holds no weights"):
        inspect_onnx(path)


@pytest.mark.parametrize(
    ("file", "column", "error", "message"),
    [
        ("absent.csv", "text", EnvironmentMismatch, "no such file"),
        ("rows.csv", "sentence", RecipeError, "no column 'sentence'"),
        ("rows.xyz", "text", RecipeError, "cannot tell the format"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(
    others: dict[str, Path],
    plain: OnnxModel,
    tmp_path: Path,
    file: str,
    column: str,
    error: type[Exception],
    message: str,
):
    for name in ("rows.csv", "rows.xyz"):
        (tmp_path / name).write_text("text\na good film\n")
    rows = TextRows(tmp_path / file, column, plain.path.parent)
    with pytest.raises(error, match=message):
        inspect_onnx(others["dynamic"], rows=rows)


def test_a_directory_without_a_tokenizer_is_refused(others: dict[str, Path], tmp_path: Path):
    (tmp_path / "rows.csv").write_text("text\na good film\n")
    rows = TextRows(tmp_path / "rows.csv", "text", tmp_path)
    with pytest.raises(EnvironmentMismatch, match="give --tokenizer DIRECTORY"):
        inspect_onnx(others["dynamic"], rows=rows)


def test_every_key_is_documented(others: dict[str, Path]):
    documented = set(re.findall(r"`([a-z_.0-9\[\]]+)`", DOCUMENT.read_text(encoding="utf-8")))
    words = {name.removesuffix("[]").rpartition(".")[2] for name in documented}
    facts = to_dict(inspect_onnx(others["dynamic"]))
    found = set(facts) - {"saturation"} | set(facts["saturation"]) | set(facts["inputs"][0])
    found |= set(facts["saturation"]["products"][0]) | set(facts["saturation"]["logits"])
    assert found <= words
    assert {field.name for field in dataclasses.fields(OnnxFacts)} == set(facts)


def int8_graph(rows: int | None = None, *, outputs: int = 1) -> onnx.ModelProto:
    """Return one integer matmul of an input `(rows, 8)`, None for an input of unknown rank."""
    shape = None if rows is None else [rows, 8]
    names = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    weight = numpy_helper.from_array(np.full((8, 8), 100, np.int8), "w")
    graph = helper.make_graph(nodes, "g", names[:1], names[1:][:outputs], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def refused(model: onnx.ModelProto, path: Path, message: str) -> None:
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EnvironmentMismatch, match=message):
        inspect_onnx(path)


def test_a_graph_that_does_not_fit_its_inputs_is_refused_with_what_to_do(tmp_path: Path):
    refused(int8_graph(), tmp_path / "m.onnx", "cannot be run on 8 random rows .*--data")


def test_a_batch_of_a_billion_is_refused(tmp_path: Path):
    refused(int8_graph(10**9), tmp_path / "m.onnx", r"'x' .* takes 64\.0 GB to try")


def test_a_graph_without_an_output_is_refused(tmp_path: Path):
    refused(int8_graph(4, outputs=0), tmp_path / "m.onnx", "has no output")


def test_weights_that_lie_in_branches_alone_are_said_to(tmp_path: Path):
    weight = numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, [8, 8])
    body = helper.make_graph([helper.make_node("Identity", ["w"], ["b"])], "body", [], [value])
    body.initializer.append(weight)
    names = [("c", TensorProto.BOOL, []), ("y", TensorProto.FLOAT, [8, 8])]
    chosen = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    first, last = (helper.make_tensor_value_info(*item) for item in names)
    model = helper.make_model(helper.make_graph([chosen], "g", [first], [last]))
    refused(model, tmp_path / "m.onnx", "no weights outside of its If and Loop branches")


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path):
    path = tmp_path / "m.onnx"
    path.write_bytes(
        int8_graph(4).SerializeToString().replace(b"MatMulInteger", b"MatMul\xf8nteger")
    )
    with pytest.raises(EnvironmentMismatch, match=r"name b'MatMul\\xf8nteger' is not UTF-8"):
        inspect_onnx(path)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("x" * 5000, "not a readable ONNX file .*too long"),
        ("../w.bin", "outside|not a readable ONNX file"),
        ("/etc/passwd", "not a readable ONNX file"),
    ],
)
def test_a_data_file_that_cannot_be_beside_the_file_is_refused(
    tmp_path: Path, location: str, message: str
):
    model = int8_graph(4)
    set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EnvironmentMismatch, match=message) as found:
        inspect_onnx(path)
    assert len(str(found.value)) < 1000
