from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console, RenderableType

from compressor.inspection.checkpoint import inspect_checkpoint
from compressor.inspection.onnx_file import inspect_onnx
from compressor.inspection.terminal import render_checkpoint, render_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
from compressor.onnx_graph.weight_only import PackedForm, pack_matrices


def shown(content: RenderableType) -> str:
    console = Console(width=100, file=io.StringIO())
    with console.capture() as captured:
        console.print(content)
    return captured.get()


def test_the_verdict_on_int8_is_one_line(ours: Path, others: dict[str, Path], plain: OnnxModel):
    assert "int8: exact everywhere (" in shown(render_onnx(inspect_onnx(ours)))
    risky = shown(render_onnx(inspect_onnx(others["dynamic"])))
    assert "int8: can saturate on CPUs without VNNI, in " in risky
    assert "Simulated on 8 random rows: logits move by at most" in " ".join(risky.split())
    assert "int8: no integer matmuls" in shown(render_onnx(inspect_onnx(plain.path)))


def test_why_products_are_exact_is_said(others: dict[str, Path]):
    text = shown(render_onnx(inspect_onnx(others["dynamic, unsigned"])))
    assert "with unsigned weights, which are widened first" in text
    text = shown(render_onnx(inspect_onnx(others["dynamic, 7 bits"])))
    assert "whose pairs of weights cannot leave 16 bits" in text


def test_packed_weights_are_said_to_be_exact(plain: OnnxModel, tmp_path: Path):
    graph = load_graph(plain.path)
    weights = [
        weight
        for weight in find_quantizable_weights(graph)
        if weight.kind == "matrix" and weight.obstacle is None
    ]
    pack_matrices(graph, weights, PackedForm(8, 32, "int8"))
    save_graph(graph, tmp_path / "packed.onnx")
    text = " ".join(shown(render_onnx(inspect_onnx(tmp_path / "packed.onnx"))).split())
    assert f"int8: exact everywhere ({len(weights)} integer matmuls)" in text
    assert f"{len(weights)} with packed weights, whose kernels keep neighbours apart" in text


def test_layers_of_one_shape_share_a_row(tiny_bert_dir: Path):
    text = shown(render_checkpoint(inspect_checkpoint(str(tiny_bert_dir), timing=False)))
    assert "0-1" in text
    assert "prune_structured" in text
    assert max(map(len, text.splitlines())) <= 100
