"""What is kept of one trace for another test is what that test would have traced itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
import traced_graphs
from traced_graphs import TracedGraphs

from compressor.export import to_onnx
from compressor.export.to_onnx import export_onnx
from compressor.models.torch_model import TorchModel, load_checkpoint


@pytest.fixture
def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of what is traced in this test, whose exports keep their graphs apart."""
    names: list[str] = []
    trace = traced_graphs.trace_anew

    def trace_and_tell(model: TorchModel, *settings: Any) -> Any:
        names.append(type(model.module).__name__)
        return trace(model, *settings)

    folder = tmp_path / "graphs"
    folder.mkdir()
    monkeypatch.setattr(traced_graphs, "trace_anew", trace_and_tell)
    monkeypatch.setattr(to_onnx, "_traced", TracedGraphs(folder))
    return names


@pytest.mark.parametrize("provider", ["cpu", "cuda", "tensorrt"])
def test_a_kept_trace_makes_the_same_file_as_a_new_one(
    tiny_bert_dir: Path, traced: list[str], tmp_path: Path, provider: str,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    for name in ("first", "kept"):
        export_onnx(load_checkpoint(tiny_bert_dir), tmp_path / name, provider=provider)
    assert len(traced) == 1
    monkeypatch.setattr(to_onnx, "_traced", traced_graphs.trace_anew)
    export_onnx(load_checkpoint(tiny_bert_dir), tmp_path / "anew", provider=provider)
    assert len(traced) == 2
    contents = {(tmp_path / name).read_bytes() for name in ("first", "kept", "anew")}
    assert len(contents) == 1


def other_weight(module: Any) -> None:
    with torch.no_grad():
        module.bert.pooler.dense.bias[0] += 1


def other_epsilon(module: Any) -> None:
    module.bert.encoder.layer[1].output.LayerNorm.eps = 1e-3


def other_scaling(module: Any) -> None:
    module.bert.encoder.layer[0].attention.self.scaling *= 2


def other_activation(module: Any) -> None:
    module.bert.encoder.layer[0].intermediate.intermediate_act_fn = torch.nn.ReLU()


def other_attention(module: Any) -> None:
    module.config._attn_implementation = "eager"


def shared_weights(module: Any) -> None:
    first, second = module.bert.encoder.layer
    second.output.LayerNorm.weight = first.output.LayerNorm.weight


def hook(module: Any) -> None:
    module.bert.pooler.register_forward_hook(lambda module, inputs, output: output * 2)


def own_forward(module: Any) -> None:
    module.bert.pooler.forward = lambda hidden: hidden[:, 0]


def own_class(module: Any) -> None:
    class FirstToken(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden[:, 0]

    module.bert.pooler = FirstToken()


@pytest.mark.parametrize(
    "change",
    [
        other_weight,
        other_epsilon,
        other_scaling,
        other_activation,
        other_attention,
        shared_weights,
        hook,
        own_forward,
        own_class,
    ],
)
def test_a_model_that_differs_in_one_thing_is_traced_anew(
    tiny_bert_dir: Path, tmp_path: Path, change: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    traced: list[TorchModel] = []

    def trace(model: TorchModel, *settings: object) -> ir.Model:
        traced.append(model)
        return ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)

    monkeypatch.setattr(traced_graphs, "trace_anew", trace)
    graphs = TracedGraphs(tmp_path)
    first, same, other = (load_checkpoint(tiny_bert_dir) for _ in range(3))
    change(other.module)
    for model in (first, same, other):
        graphs(model, to_onnx._traced_inputs(model), 20, "dml")
    assert traced == [first, other]


@pytest.mark.parametrize("checkpoint", ["tiny_bert_dir", "tiny_encoder_dir", "tiny_vit_dir"])
def test_the_checkpoints_that_tests_share_are_traced_once(
    checkpoint: str, request: pytest.FixtureRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    traced: list[TorchModel] = []

    def trace(model: TorchModel, *settings: object) -> ir.Model:
        traced.append(model)
        return ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)

    monkeypatch.setattr(traced_graphs, "trace_anew", trace)
    graphs = TracedGraphs(tmp_path)
    first, same = (load_checkpoint(request.getfixturevalue(checkpoint)) for _ in range(2))
    for model in (first, same):
        graphs(model, to_onnx._traced_inputs(model), 20, "dml")
    assert traced == [first]
