"""A base model goes through a whole run, and its encoder can be fine-tuned afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from masked_texts import save_masked_model, texts_it_knows
from rich.console import Console

import compressor
from compressor.errors import RecipeError
from compressor.inspection.paths import inspect_path
from compressor.inspection.terminal import render_checkpoint
from compressor.measurements import RunReport
from compressor.models.torch_model import load_checkpoint
from compressor.pipeline.preflight import check_inputs, load_whole
from compressor.starter.sources import Wishes
from compressor.starter.write import write_starter

QUICK = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint, rows and a recipe."""
    folder = tmp_path_factory.mktemp("masked")
    texts = texts_it_knows(load_checkpoint(save_masked_model(folder / "model")), 90)
    for name, part in (("train", texts[:30]), ("search", texts[30:60]), ("unseen", texts[60:])):
        rows = [json.dumps({"text": text, "from": "web"}) for text in part]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    recipe = {
        "model": {"checkpoint": "model"},
        "data": {
            "train": {"path": "train.jsonl"},
            "search": {"path": "search.jsonl"},
            "certification": {"path": "unseen.jsonl"},
        },
        "budget": {"metric": "masked_accuracy", "max_drop": 0.95},
        "passes": [
            {"kind": "prune_structured", "importance": "taylor", "uniform": True,
             "neuron_ratio": 0.25, "head_ratio": 0.0},
            {"kind": "finetune", **QUICK},
            {"kind": "quantize_dynamic", "min_elements": 64, "keep_sensitive": 1},
        ],
        "benchmark": {"batch_sizes": [1], "sequence_lengths": [8], "num_runs": 3, "threads": 1},
        "output": "run",
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> RunReport:
    return compressor.run(folder / "recipe.yaml", device="cpu", allow_inconclusive=True)


def test_a_run_is_scored_and_bounded_without_labels(finished: RunReport):
    assert finished.task == "masked-language-modeling"
    assert finished.labels == ()
    assert finished.baseline is not None
    assert finished.baseline.score.value == 1.0
    assert finished.certificate is not None
    assert "texts" in finished.certificate.method
    assert [item.kind for item in finished.passes] == [
        "prune_structured", "finetune", "quantize_dynamic",
    ]  # fmt: skip


def test_the_report_names_the_tokens(finished: RunReport, folder: Path):
    assert finished.predictions
    assert all(item.label and item.before for item in finished.predictions)
    assert "Hidden tokens" in (folder / "run/report.html").read_text()
    card = (folder / "run/artifact/README.md").read_text()
    assert "pipeline_tag: fill-mask" in card
    assert "float32 of shape (batch, tokens, vocabulary)" in card


def test_the_artifact_fills_in_masks(finished: RunReport, folder: Path):
    artifact = compressor.load_artifact(folder / "run/artifact")
    [[best, *others]] = artifact(["good film [MASK] bad"])
    assert all(item["sequence"].startswith("good film") for item in (best, *others))
    assert len(others) == 4
    assert best["score"] >= others[0]["score"] > 0


def test_transformers_fine_tunes_the_encoder_that_was_pruned(finished: RunReport, folder: Path):
    classes = {"num_labels": 2, "attn_implementation": "eager"}
    module: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder / "run/checkpoint", **classes
    )
    own = load_checkpoint(folder / "run/checkpoint")
    assert module.config.intermediate_size == 48
    table = own.module.get_input_embeddings().weight
    assert torch.equal(module.bert.embeddings.word_embeddings.weight, table)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    inputs = own.preprocessor(["good film", "bad plot"], return_tensors="pt")
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = module(**inputs, labels=torch.tensor([1, 0])).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_inspect_shows_the_task_and_no_labels(folder: Path):
    facts: Any = inspect_path(str(folder / "model"), timing=False)
    out = Console(width=100)
    with out.capture() as capture:
        out.print(render_checkpoint(facts))
    assert "bert, masked-language-modeling" in capture.get()
    assert "labels" not in capture.get()


def test_a_starter_recipe_is_valid(folder: Path):
    write_starter(
        str(folder / "model"), folder / "search.jsonl", folder / "starter.yaml",
        train=folder / "train.jsonl", wishes=Wishes((), None, (), None, None),
    )  # fmt: skip
    text = (folder / "starter.yaml").read_text()
    assert "task: masked-language-modeling\n" in text
    seen = check_inputs(load_whole(folder / "starter.yaml"))
    assert seen.task == "masked-language-modeling"
    assert len(seen.splits["search"]) == 30


def test_a_metric_of_the_users_own_is_refused(folder: Path):
    (folder / "mine.py").write_text("def own(inputs):\n    return []\n")
    recipe = json.loads((folder / "recipe.yaml").read_text())
    recipe["budget"]["metric"] = "mine.py:own"
    (folder / "own.yaml").write_text(json.dumps(recipe))
    with pytest.raises(RecipeError, match="a text says itself what was hidden"):
        check_inputs(load_whole(folder / "own.yaml", allow_code=True))


def test_a_certification_row_with_nothing_to_hide_is_named_before_anything_is_done(
    folder: Path, tmp_path: Path
):
    lines = (folder / "unseen.jsonl").read_text().splitlines()
    lines.insert(2, json.dumps({"text": "[UNK] [UNK]", "from": "web"}))
    (tmp_path / "odd.jsonl").write_text("\n".join(lines) + "\n")
    recipe = json.loads((folder / "recipe.yaml").read_text())
    recipe["model"]["checkpoint"] = str(folder / "model")
    recipe["data"] = {
        "search": {"path": str(folder / "search.jsonl")},
        "certification": {"path": str(tmp_path / "odd.jsonl")},
    }
    recipe["passes"] = recipe["passes"][2:]
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    with pytest.raises(RecipeError, match=r"data\.certification: row 2 of .*odd\.jsonl .*hidden"):
        compressor.run(tmp_path / "recipe.yaml", device="cpu")
    assert not list((tmp_path / "run").rglob("*.onnx"))
