"""A finished run is explained, and one that cannot be is refused with what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import compressor
from compressor.attribution.explanations import Explanations
from compressor.cli import app
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.explain import explain, write_explanations
from compressor.models.torch_model import load_checkpoint
from compressor.progress import SILENT
from compressor.report.explanations import explanation_lines, render_explanations

HOSTILE = '<script>alert("good")</script> & good film'
NOTHING = "\u200b"  # which the tokenizer drops


@pytest.fixture(scope="module")
def finished(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run over its own copies of checkpoint and rows."""
    folder = tmp_path_factory.mktemp("explained")
    checkpoint = Path(shutil.copytree(tiny_bert_dir, folder / "checkpoint"))
    words = ["good", "bad", "fine film", "a dull plot", "very funny", "the story was poor"]
    texts = [HOSTILE, NOTHING, *(f"{first} {second}" for first in words for second in words)]
    model = load_checkpoint(checkpoint)
    found = model.predict(model.task.encode(model.preprocessor, texts)).argmax(axis=1)
    rows = [{"text": text, "label": int(own)} for text, own in zip(texts, found, strict=True)]
    # Half of the labels are wrong, so that a changed prediction of either kind matters.
    lines = [
        json.dumps(row | {"label": row["label"] ^ place % 2}) for place, row in enumerate(rows)
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    compressor.run(
        {
            "model": {"checkpoint": str(checkpoint)},
            "data": {
                "text": "text",
                "label": "label",
                "search": {"path": str(folder / "rows.jsonl")},
            },
            "budget": {"max_drop": 0.9},
            "passes": [
                {"kind": "prune_magnitude", "sparsity": 0.5},
                {"kind": "quantize_dynamic"},
            ],
            "benchmark": {"providers": []},
        },
        output=folder / "run",
        device="cpu",
    )
    return folder / "run"


@pytest.fixture(scope="module")
def explained(finished: Path) -> Explanations:
    return explain(finished, rows=38, changed=3, attentions=1, progress=SILENT)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the run, whose recipe still names the same files."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def changed_report(run: Path, **changes: Any) -> None:
    content = json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps(content | changes))


def test_attributions_are_those_of_the_onnx_files(finished: Path, explained: Explanations):
    artifact = compressor.load_artifact(finished / "artifact")
    item = next(one for one in explained.drawn if one.texts == ("good a dull plot",))
    tokenizer = artifact.preprocessor
    ids = tokenizer(["good a dull plot"], return_tensors="np")
    batch = {name: np.repeat(value, 5, axis=0) for name, value in ids.items()}
    for place in range(4):
        batch["input_ids"][place + 1, place + 1] = tokenizer.mask_token_id
    logits = artifact.model.predict(batch).astype(np.float64)
    kept = load_checkpoint(finished.parent / "checkpoint")
    own = kept.predict(kept.task.encode(kept.preprocessor, list(item.texts)))[0].argmax()
    logs = logits[:, own] - np.logaddexp(logits[:, 0], logits[:, 1])
    assert item.methods["occlusion"].after == pytest.approx(logs[0] - logs[1:], abs=1e-5)
    assert [item.words(piece) for piece in item.pieces] == ["good", "a", "dull", "plot"]


def test_a_text_without_tokens_is_explained_by_nothing(explained: Explanations):
    item = next(one for one in explained.drawn if one.texts == (NOTHING,))
    assert item.pieces == ()
    assert np.isnan(item.methods["occlusion"].spearman)


def test_the_values_are_plain_json_and_agreements_leave_out_what_says_nothing(
    explained: Explanations,
):
    content = json.loads(json.dumps(explained.facts(), allow_nan=False))
    found = content["agreement"]["occlusion"]["spearman"]
    assert found["examples"] < len(content["drawn"]) == 38
    assert -1 <= found["low"] <= found["mean"] <= found["high"] <= 1
    assert content["hidden_by"] == "mask token"
    assert content["attentions"][0]["before"]["tokens"][0] == "[CLS]"


def test_words_of_rows_are_escaped_in_the_page(explained: Explanations):
    page = render_explanations(explained)
    assert "<script" not in page
    assert "&lt;" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    for method in ("Occlusion, ONNX files", "Layer 1"):
        assert method in page


def test_the_command_writes_a_page_and_says_what_it_found(finished: Path, tmp_path: Path):
    command = ["explain", str(finished), "--rows", "6", "--attention", "0", "--output"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "here")])
    assert result.exit_code == 0, result.output
    assert "occlusion: attributions agree by" in result.output
    assert (tmp_path / "here" / "explanations.html").is_file()
    content = json.loads((tmp_path / "here" / "explanations.json").read_text())
    assert len(content["drawn"]) == 6
    assert content["attentions"] == []


def test_the_least_alike_row_is_told(explained: Explanations):
    lines = explanation_lines(explained)
    assert lines[1].startswith("explained: the log-probability of the class")
    assert any(line.startswith("least alike: row") for line in lines)


def test_of_many_tokens_the_page_says_that_neighbours_were_hidden_together(finished: Path):
    found = explain(finished, rows=38, changed=0, attentions=0, most_pieces=3, progress=SILENT)
    assert "more than 3 tokens had neighbours hidden together" in found.note
    assert max(len(item.pieces) for item in found.drawn) == 3


def test_moved_rows_and_a_moved_checkpoint_are_told(copied: Path, finished: Path):
    content = json.loads((copied / "report.json").read_text())
    recipe = content["recipe"]
    elsewhere = {**recipe, "model": {**recipe["model"], "checkpoint": "/nowhere/model"}}
    changed_report(copied, recipe=elsewhere)
    with pytest.raises(EnvironmentMismatch, match="/nowhere/model"):
        explain(copied, progress=SILENT)
    rows = {**recipe["data"], "search": {"path": "/nowhere/rows.jsonl"}}
    changed_report(copied, recipe={**recipe, "data": rows})
    with pytest.raises((EnvironmentMismatch, RecipeError), match=r"/nowhere/rows\.jsonl"):
        explain(copied, progress=SILENT)


def test_another_checkpoint_and_other_rows_are_refused(copied: Path):
    changed_report(copied, source_sha256="0" * 64)
    with pytest.raises(EnvironmentMismatch, match="holds other weights than the run compressed"):
        explain(copied, progress=SILENT)
    content = json.loads((copied / "report.json").read_text())
    splits = [item | {"fingerprint": "0" * 64} for item in content["splits"]]
    changed_report(copied, source_sha256=None, splits=splits)
    with pytest.raises(EnvironmentMismatch, match=r"data\.search: .* other rows than the run read"):
        explain(copied, progress=SILENT)


def test_a_run_without_an_artifact_is_refused_with_how_it_ended(copied: Path):
    shutil.rmtree(copied / "artifact")
    changed_report(copied, verdict="budget_exceeded", reason="passes[0] fell too far")
    with pytest.raises(EnvironmentMismatch, match=r"run ended: passes\[0\] fell too far"):
        explain(copied, progress=SILENT)


def test_an_artifact_that_was_never_completed_is_explained(copied: Path):
    (copied / "artifact" / "manifest.json").unlink()
    changed_report(copied, verdict="not_certified", reason="too few rows")
    found = explain(copied, rows=3, changed=0, attentions=0, progress=SILENT)
    assert len(found.drawn) == 3


def test_a_run_that_may_not_quote_is_refused(copied: Path):
    recipe = json.loads((copied / "report.json").read_text())["recipe"]
    changed_report(copied, recipe={**recipe, "report": {"examples": False}})
    with pytest.raises(RecipeError, match=r"report\.examples: false"):
        explain(copied, progress=SILENT)


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match="is no directory"):
        explain(tmp_path / "nothing", progress=SILENT)
    with pytest.raises(EnvironmentMismatch, match="no such report"):
        explain(tmp_path, progress=SILENT)


def test_without_captum_only_gradients_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("compressor.attribution.gradients.find_spec", lambda name: None)
    with pytest.raises(EnvironmentMismatch, match="captum"):
        explain(finished, methods=("integrated-gradients",), progress=SILENT)
    assert explain(finished, rows=2, changed=0, attentions=0, progress=SILENT).drawn


def test_gradients_are_of_the_checkpoints(finished: Path):
    pytest.importorskip("captum")
    methods: Any = ("occlusion", "integrated-gradients")
    found = explain(finished, methods=methods, rows=3, changed=0, attentions=0, progress=SILENT)
    [item, *_] = [one for one in found.drawn if len(one.pieces) > 2]
    assert item.methods["integrated-gradients"].before.shape == (len(item.pieces),)


def test_a_place_that_cannot_be_written_is_told(explained: Explanations, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentMismatch, match=r"--output .* cannot be written"):
        write_explanations(explained, tmp_path / "file" / "here")
