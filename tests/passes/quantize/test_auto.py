from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from openvino_there import needs_openvino

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.onnx_file import load_graph
from compressor.passes import PassContext, apply_pass
from compressor.passes.quantize import auto
from compressor.passes.quantize.race import RaceResult, choose
from compressor.passes.quantize.settings import QuantizeAuto

MATMULS = 11  # matrices of the tiny BERT


@pytest.fixture
def operators(exported: OnnxModel, context: PassContext) -> Callable[..., list[str]]:
    """Return a function that applies the pass and gives the operators of its graph."""

    def run(**settings: object) -> list[str]:
        step = QuantizeAuto(**{"min_elements": 0, "rounds": 2, **settings})
        graph = load_graph(apply_pass(step, exported, context).path).graph
        return [node.op_type for node in graph.node]

    return run


def result(form: str, fast_ms: float, changed: float, logit_rms: float) -> RaceResult:
    return RaceResult(form, logit_rms=logit_rms, changed=changed, fast_ms=fast_ms)


def test_the_fastest_form_that_keeps_enough_predictions_is_chosen():
    results = [
        result("per_token", 3.0, 0.001, 0.05),
        result("mixed", 2.5, 0.004, 0.07),
        result("static", 2.0, 0.02, 0.2),
    ]
    assert choose(results, 0.005).form == "mixed"
    assert choose(results, 0.02).form == "static"
    assert choose(results, 0.0).form == "per_token"


def test_of_forms_as_fast_as_each_other_the_more_exact_is_chosen():
    results = [result("static", 2.0, 0.0, 0.2), result("mixed", 2.03, 0.0, 0.07)]
    assert choose(results, 0.005).form == "mixed"
    assert choose([results[0], result("mixed", 2.05, 0.0, 0.07)], 0.005).form == "static"


def test_where_every_form_changes_too_much_the_most_exact_is_chosen():
    results = [result("static", 2.0, 0.3, 0.2), result("per_token", 3.0, 0.2, 0.1)]
    assert choose(results, 0.005).form == "per_token"


def test_of_models_that_give_vectors_the_most_exact_is_chosen():
    results = [
        RaceResult("static", logit_rms=0.2, changed=None, fast_ms=1.0),
        RaceResult("per_token", logit_rms=0.1, changed=None, fast_ms=2.0),
    ]
    assert choose(results, 1.0).form == "per_token"
    assert str(results[0]) == "static 1.00 ms, error 0.2"


def test_every_form_is_raced_and_recorded_and_one_is_chosen(
    operators, context: PassContext, notes: list[str]
):
    found = operators(forms=("per_token", "per_tensor", "mixed", "static"), max_changed=1.0)
    facts = context.facts["race"]
    assert [fact["form"] for fact in facts] == ["per_token", "per_tensor", "mixed", "static"]
    assert all(fact["fast_ms"] > 0 and fact["clock"] == "cpu" for fact in facts)
    [chosen] = [fact["form"] for fact in facts if fact["chosen"]]
    assert any(note.startswith(f"Chosen: {chosen}") for note in notes)
    integer = "DynamicQuantizeMatMul" if chosen == "per_tensor" else "MatMulIntegerToFloat"
    assert found.count(integer) == MATMULS


def test_the_error_of_a_form_is_that_of_its_logits(
    operators, exported: OnnxModel, context: PassContext, tiny_bert: TorchModel
):
    operators(forms=("static",), embeddings=False)
    [fact] = context.facts["race"]
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, context.calibration.examples)
    shipped = OnnxModel(context.work_dir / "model.onnx", threads=1)
    difference = (shipped.predict(batch) - exported.predict(batch)).astype(np.float64)
    # The race runs batches of 32, padded otherwise: an activation may move by one step.
    assert fact["logit_rms"] == pytest.approx(np.sqrt(np.mean(np.square(difference))), rel=0.05)


@pytest.mark.parametrize(("form", "found_at_run_time"), [("per_token", MATMULS), ("static", 0)])
def test_the_chosen_form_is_written(operators, form: str, found_at_run_time: int):
    assert operators(forms=(form,)).count("ReduceMax") == found_at_run_time


def test_a_mixed_form_fixes_only_the_scales_that_are_fine(
    operators, monkeypatch: pytest.MonkeyPatch, notes: list[str]
):
    def one_is_fine(graph, statistics, scales):
        return {"layer_norm": scales["layer_norm"]}

    monkeypatch.setattr(auto, "finely_rounded", one_is_fine)
    found = operators(forms=("mixed",))
    assert found.count("MatMulIntegerToFloat") == MATMULS
    assert found.count("ReduceMax") == MATMULS - 1
    assert "Chosen: mixed (1 of 11 scales fixed)." in notes


def test_of_a_sentence_encoder_the_most_exact_form_is_chosen(
    tiny_encoder: TorchModel,
    tiny_encoder_dir: Path,
    text_dataset: Dataset,
    make_context: Callable[..., PassContext],
    tmp_path: Path,
):
    """Its vectors have no predictions that could change, so how fast a form is does not matter."""
    exported = export_onnx(tiny_encoder, tmp_path / "encoder.onnx", threads=1)
    context = make_context(exported=tiny_encoder_dir, calibration=text_dataset)
    apply_pass(QuantizeAuto(min_elements=0, rounds=2, max_changed=1), exported, context)
    race = context.facts["race"]
    assert [item["changed"] for item in race] == [None] * len(race)
    [chosen] = [item for item in race if item["chosen"]]
    assert chosen["logit_rms"] == min(item["logit_rms"] for item in race)


def test_an_empty_calibration_split_is_an_error(exported: OnnxModel, context: PassContext):
    empty = dataclasses.replace(context.calibration, examples=())
    with pytest.raises(StepFailed, match=r"give data\.calibration at least one row"):
        apply_pass(
            QuantizeAuto(), exported, dataclasses.replace(context, splits={"calibration": empty})
        )


@needs_openvino
@pytest.mark.parametrize(
    ("form", "expected"),
    [("static", {"MatMul"}), ("per_token", {"MatMulIntegerToFloat"})],
)
def test_forms_are_raced_in_openvino_where_the_graph_is_for_it(
    exported: OnnxModel, context: PassContext, form: str, expected: set[str]
):
    model = dataclasses.replace(exported, provider="openvino")
    step = QuantizeAuto(min_elements=0, rounds=2, forms=(form,))
    graph = load_graph(apply_pass(step, model, context).path).graph
    found = {node.op_type for node in graph.node if node.name.startswith("node_MatMul")}
    assert found >= expected
    assert found <= {"MatMul", "MatMulIntegerToFloat"}
