import json
from pathlib import Path

import pytest

import compressor
from compressor.errors import PassError, StepFailed
from compressor.models.torch_model import TorchModel
from compressor.passes import PassContext
from compressor.passes.prune_magnitude.settings import PruneMagnitude

LAYERS = [{"name": "query", "logit_rms": 0.5}]


def record_and_fail(step: PruneMagnitude, model: TorchModel, context: PassContext) -> TorchModel:
    context.record("layers", LAYERS)
    raise StepFailed("stopped after the record")


def test_what_a_pass_recorded_is_in_the_report_even_when_it_failed(
    tiny_bert_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("compressor.passes.prune_magnitude.apply.apply", record_and_fail)
    (tmp_path / "rows.csv").write_text("text,label\n" + "good good,1\nbad film,0\n" * 4)
    recipe = {
        "model": {"checkpoint": str(tiny_bert_dir)},
        "data": {"text": "text", "label": "label", "search": {"path": "rows.csv"}},
        "budget": {"max_drop": 0.9},
        "passes": [{"kind": "prune_magnitude", "sparsity": 0.5}],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    loaded = compressor.load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(PassError):
        compressor.run(loaded, output=tmp_path / "run", device="cpu")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["passes"][0]["facts"] == {"layers": LAYERS}
