from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from small_artifacts import write_small_artifact

from compressor.errors import ExportError
from compressor.export.token_states import add_token_states
from compressor.models.onnx_model import OnnxModel
from compressor.tasks import Batch

# The second text is shorter and padded.
BATCH: Batch = {
    "input_ids": np.array([[2, 7, 8, 9, 3], [2, 7, 3, 0, 0]]),
    "attention_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    "token_type_ids": np.zeros((2, 5), np.int64),
}


def mean(states: NDArray[np.float32]) -> NDArray[np.float32]:
    mask = BATCH["attention_mask"][:, :, None].astype(np.float32)
    return (states * mask).sum(axis=1) / mask.sum(axis=1)


@pytest.fixture
def model(tmp_path: Path) -> OnnxModel:
    return OnnxModel(write_small_artifact(tmp_path, "sentence-embedding") / "model.onnx")


def test_the_states_give_the_vectors_when_they_are_pooled(model: OnnxModel):
    before = model.predict(BATCH)
    add_token_states(model, BATCH, mean)
    session = onnxruntime.InferenceSession(model.path)
    vectors, states = session.run(None, BATCH)
    assert [item.name for item in session.get_outputs()] == [
        "sentence_embedding",
        "last_hidden_state",
    ]
    assert vectors.tolist() == before.tolist()
    assert states.shape == (2, 5, 8)
    assert mean(states) == pytest.approx(vectors, abs=1e-5)
    # Of padding too: what lies behind the mask would be zeros there.
    assert np.abs(states[1, 3:]).min() > 0


def test_a_graph_whose_vectors_are_pooled_in_another_way_is_refused(model: OnnxModel):
    content = model.path.read_bytes()
    with pytest.raises(ExportError, match=r"export\.token_states: no value near the end"):
        add_token_states(model, BATCH, lambda states: 2 * mean(states))
    assert model.path.read_bytes() == content
    assert [path.name for path in model.path.parent.glob(".*")] == []


def test_vectors_that_are_bytes_are_refused(model: OnnxModel, tmp_path: Path):
    graph = onnx.load(model.path)
    graph.graph.node.append(
        helper.make_node("Cast", ["sentence_embedding"], ["codes"], to=TensorProto.INT8)
    )
    for node in graph.graph.node:
        names = {"sentence_embedding": "floats", "codes": "sentence_embedding"}
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    graph.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    onnx.save(graph, tmp_path / "bytes.onnx")
    with pytest.raises(ExportError, match=r"gives vectors as bytes \(quantize_vectors\)"):
        add_token_states(OnnxModel(tmp_path / "bytes.onnx"), BATCH, mean)
