"""What ships is the graph that the last pass gave: its score is taken once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import compressor
from compressor.measurements import Score
from compressor.models.onnx_model import OnnxModel
from compressor.pipeline import cached_work


def test_the_artifact_is_not_scored_again(
    bert_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scored: list[str] = []
    evaluate = cached_work.evaluate

    def counted(predictor: Any, *arguments: Any, **settings: Any) -> Score:
        scored.append("graph" if isinstance(predictor, OnnxModel) else "checkpoint")
        return evaluate(predictor, *arguments, **settings)

    monkeypatch.setattr(cached_work, "evaluate", counted)
    recipe = {**bert_recipe, "passes": [{"kind": "quantize_dynamic"}], "budget": {"max_drop": 0.5}}
    compressor.run(recipe, output=tmp_path / "run", device="cpu")
    assert scored == ["checkpoint", "graph"]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    [step] = report["passes"]
    assert report["final"]["score"]["value"] == step["score_after"]
