"""A recipe for OpenVINO: judged, timed, written and loaded there, or refused before it begins."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openvino_there import needs_bfloat16, needs_openvino

import compressor
from compressor.errors import EnvironmentMismatch
from compressor.measurements import RunReport
from compressor.models.onnx_model import OnnxModel
from compressor.models.provider_options import ProviderSettings
from compressor.pipeline.preflight import check_machine
from compressor.runtime.openvino_session import openvino_version

TEXTS = ["a good film", "the plot was very dull and the story was quite poor"]


def for_openvino(recipe: dict[str, Any], output: Path, **export: Any) -> dict[str, Any]:
    """Return a copy of `recipe` for OpenVINO, written to `output`."""
    own = copy.deepcopy(recipe)
    own["export"] = {"provider": "openvino", **export}
    own["benchmark"] |= {"providers": ["openvino"], "runtimes": ["onnxruntime", "openvino"]}
    own["data"]["calibration"] = own["data"]["search"]
    own["passes"] = [{"kind": "quantize_static", "min_elements": 256}]
    return own | {"output": str(output)}


def test_without_the_package_nothing_begins(
    bert_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "openvino", None)
    recipe = compressor.load_recipe(for_openvino(bert_recipe, tmp_path / "run"))
    with pytest.raises(EnvironmentMismatch) as raised:
        check_machine(recipe)
    [told] = raised.value.problems  # not once for the export and once for the benchmark
    assert told.startswith("export.provider: provider 'openvino' needs the package openvino")
    assert "pip install 'openvino>=" in told
    with pytest.raises(EnvironmentMismatch, match="needs the package openvino"):
        compressor.run(recipe)
    assert not (tmp_path / "run" / "artifact").exists()


@pytest.fixture(scope="module")
def finished(
    bert_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunReport, Path]:
    """Return the report and the output of a run in OpenVINO."""
    output = tmp_path_factory.mktemp("openvino") / "run"
    return compressor.run(for_openvino(bert_recipe, output)), output


@needs_openvino
def test_the_report_says_where_it_was_judged_and_timed(finished: tuple[RunReport, Path]):
    report, output = finished
    assert report.verdict == "passed"
    assert report.environment["packages"]["openvino"] == openvino_version()
    assert [(item.provider, item.model) for item in report.latencies] == [
        ("openvino", "baseline"),
        ("openvino", "final"),
    ]
    assert [item.runtime for item in report.runtimes] == ["onnxruntime", "openvino"]
    assert all(item.cpu_p50_ms is not None for item in report.latencies)
    assert "in OpenVINO, computing in fp32" in (output / "report.md").read_text()


@needs_openvino
def test_the_manifest_says_what_it_was_made_for(finished: tuple[RunReport, Path]):
    manifest = json.loads((finished[1] / "artifact" / "manifest.json").read_text())
    assert manifest["provider"] == "openvino"
    assert manifest["openvino"]["precision"] == "fp32"
    assert manifest["openvino"]["version"].count(".") == 2
    assert manifest["openvino"]["properties"]["INFERENCE_PRECISION_HINT"] == "f32"
    assert "INFERENCE_NUM_THREADS" not in manifest["openvino"]["properties"]  # of this machine
    card = (finished[1] / "artifact" / "README.md").read_text()
    assert "openvino.Core().compile_model" in card


@needs_openvino
def test_both_packages_load_it_into_openvino(finished: tuple[RunReport, Path]):
    folder = finished[1] / "artifact"
    full = compressor.load_artifact(folder)
    assert full.model.provider == "openvino"
    light = compressor.runtime.load_artifact(folder)
    np.testing.assert_array_equal(light.logits(TEXTS), full.logits(TEXTS))
    on_cpu = compressor.load_artifact(folder, provider="cpu")
    np.testing.assert_allclose(on_cpu.logits(TEXTS), full.logits(TEXTS), atol=0.1)


@needs_openvino
def test_the_code_of_the_model_card_runs(
    finished: tuple[RunReport, Path], monkeypatch: pytest.MonkeyPatch
):
    folder = finished[1] / "artifact"
    first, second = (folder / "README.md").read_text().split("```python\n")[1:3]
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    compressor.runtime.openvino_session.load_openvino()  # without reports of usage
    exec(first.partition("```")[0] + second.partition("```")[0], names)  # noqa: S102
    assert names["outputs"].shape == (2, 2)


@needs_openvino
def test_nothing_is_cached_beside_the_output(finished: tuple[RunReport, Path]):
    names = {path.suffix for path in finished[1].rglob("*") if path.is_file()}
    assert not names & {".blob", ".bin", ".xml", ".cl_cache"}


@needs_openvino
@needs_bfloat16
def test_bfloat16_is_judged_and_not_taken_for_parity(bert_recipe: dict[str, Any], tmp_path: Path):
    recipe = for_openvino(bert_recipe, tmp_path / "run", precision="bf16")
    report = compressor.run(recipe | {"passes": []})
    assert report.parity is not None
    assert report.parity.max_abs_diff < 1e-4  # bfloat16 would be off by a hundred times as much
    folder = tmp_path / "run" / "artifact"
    loaded = compressor.load_artifact(folder)
    assert loaded.model.settings == ProviderSettings(precision="bf16")
    exact = OnnxModel(folder / "model.onnx", threads=1)
    batch = loaded.task.encode(loaded.preprocessor, TEXTS)
    rounded_by = np.abs(loaded.model.predict(batch) - exact.predict(batch)).max()
    assert 1e-4 < rounded_by < 0.5
    assert "computing in bf16" in (tmp_path / "run" / "report.md").read_text()
