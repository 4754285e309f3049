"""A model whose weights alone are other ones is exported to the same bytes without a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from compressor.export import to_onnx
from compressor.export.to_onnx import export_onnx
from compressor.export.traces import Traces
from compressor.models.torch_model import TorchModel
from compressor.tasks import load_task


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the classes of the models that were traced."""
    found: list[str] = []
    trace = to_onnx._traced

    def counted(model: TorchModel, *arguments: Any) -> Any:
        found.append(type(model.module).__name__)
        return trace(model, *arguments)

    monkeypatch.setattr(to_onnx, "_traced", counted)
    return found


def with_noise(model: TorchModel, seed: int) -> TorchModel:
    """Return a copy all of whose weights differ from each other."""
    made = model.clone()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in made.module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def distilled(model: TorchModel) -> TorchModel:
    """Return a random DistilBERT with the tokenizer of a model."""
    config = transformers.DistilBertConfig(
        vocab_size=len(model.preprocessor), dim=16, n_layers=1, n_heads=2, hidden_dim=32
    )
    module = transformers.DistilBertForSequenceClassification(config).eval()
    model.preprocessor.model_input_names = ["input_ids", "attention_mask"]
    return TorchModel(module, model.preprocessor, load_task("text-classification"))


def bytes_of(model: TorchModel, folder: Path, traces: Traces | None = None) -> bytes:
    folder.mkdir()
    return export_onnx(model, folder / "model.onnx", traces=traces).path.read_bytes()


@pytest.mark.parametrize("make", ["bert", "distilbert", "vit"])
def test_another_model_of_the_same_shape_gives_the_bytes_of_its_own_trace(
    tiny_bert: TorchModel, tiny_vit: TorchModel, tmp_path: Path, traced: list[str], make: str
):
    makers: dict[str, Callable[[], TorchModel]] = {
        "bert": lambda: tiny_bert,
        "distilbert": lambda: distilled(tiny_bert),
        "vit": lambda: tiny_vit,
    }
    given = makers[make]()
    traces = Traces()
    first = bytes_of(with_noise(given, 0), tmp_path / "first", traces)
    swapped = bytes_of(with_noise(given, 1), tmp_path / "swapped", traces)
    assert len(traced) == 1
    assert first != swapped
    assert swapped == bytes_of(with_noise(given, 1), tmp_path / "alone")


def test_a_model_that_was_exported_before_is_not_traced_again(
    tiny_bert: TorchModel, tmp_path: Path, traced: list[str]
):
    traces = Traces()
    model = with_noise(tiny_bert, 0)
    bytes_of(model, tmp_path / "first", traces)
    assert "forward" not in vars(model.module)
    bytes_of(with_noise(model, 1), tmp_path / "again", traces)
    assert len(traced) == 1


def test_a_model_with_equal_weights_or_of_another_shape_is_traced(
    tiny_bert: TorchModel, tmp_path: Path, traced: list[str]
):
    traces = Traces()
    model = with_noise(tiny_bert, 0)
    bytes_of(model, tmp_path / "first", traces)
    layers = model.module.bert.encoder.layer
    with torch.no_grad():
        layers[0].output.dense.bias.copy_(layers[1].output.dense.bias)
    equal = bytes_of(model, tmp_path / "equal", traces)
    assert len(traced) == 2
    assert equal == bytes_of(model, tmp_path / "alone")
    shorter = with_noise(tiny_bert, 2)
    shorter.module.bert.encoder.layer = shorter.module.bert.encoder.layer[:1]
    bytes_of(shorter, tmp_path / "shorter", traces)
    assert len(traced) == 4


@pytest.mark.parametrize("damage", [False, True], ids=["whole", "damaged"])
def test_a_trace_in_a_folder_serves_the_next_run(
    tiny_bert: TorchModel, tmp_path: Path, traced: list[str], damage: bool
):
    folder = tmp_path / "traces"
    model = with_noise(tiny_bert, 0)
    first = bytes_of(model, tmp_path / "first", Traces(folder, "release 1"))
    [path] = folder.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?" if damage else content)
    assert bytes_of(model, tmp_path / "second", Traces(folder, "release 1")) == first
    assert len(traced) == 1 + damage
    assert path.read_bytes() == content
    bytes_of(model, tmp_path / "third", Traces(folder, "release 2"))
    assert len(traced) == 2 + damage


def test_a_folder_that_cannot_be_written_costs_a_trace(
    tiny_bert: TorchModel, tmp_path: Path, traced: list[str]
):
    (tmp_path / "file").write_text("")
    for number in range(2):
        traces = Traces(tmp_path / "file" / "traces")
        bytes_of(with_noise(tiny_bert, 0), tmp_path / f"run-{number}", traces)
    assert len(traced) == 2
