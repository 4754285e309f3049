"""A task with ragged outputs goes through every part of a run, from three files of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import BAD, GOOD, NEUTRAL, TINY, word_piece_tokenizer

import compressor
from compressor.measurements import RunReport
from compressor.tasks import TASKS, load_task

TAGS = ("O", "GOOD", "BAD")
QUICK = {"epochs": 1, "batch_size": 16}
BENCHMARK = {
    "batch_sizes": [1], "sequence_lengths": [8], "num_runs": 3, "warmup_runs": 1, "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "token-tags", "throwaway_task.task:TokenTags")
        yield


def documents(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield documents of 1 to 12 words, some of two pieces, each with its tag."""
    random = np.random.default_rng(seed)
    for index in range(count):
        words = random.choice([*NEUTRAL, *GOOD, *BAD], size=int(random.integers(1, 13))).tolist()
        tags = ["GOOD" if word in GOOD else "BAD" if word in BAD else "O" for word in words]
        words = [f"{word}s" if random.random() < 0.2 else word for word in words]
        yield {"words": words, "tags": tags, "source": "web" if index % 2 else "print"}


def train(module: Any, tokenizer: Any) -> None:
    """Train a tagger for a moment, by the task's own targets and losses."""
    task = load_task("token-tags")
    rows = list(documents(3, 64))
    batch = task.encode(tokenizer, task.given([row["words"] for row in rows]))
    labels = [np.array([TAGS.index(tag) for tag in row["tags"]]) for row in rows]
    targets = torch.from_numpy(task.targets(batch, np.array(labels, dtype=object)))
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        task.losses.on_labels(module(**inputs).logits, targets).mean.backward()
        optimizer.step()
    module.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a recipe without passes for a tiny tagger that was trained for a moment."""
    folder = tmp_path_factory.mktemp("token-tags")
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    config = transformers.BertConfig(
        **TINY,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        id2label=dict(enumerate(TAGS)),
        label2id={tag: index for index, tag in enumerate(TAGS)},
    )
    module: Any = transformers.BertForTokenClassification(config)
    train(module, tokenizer)
    module.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for seed, (name, count) in enumerate({"train": 96, "search": 64, "unseen": 64}.items()):
        rows = "\n".join(map(json.dumps, documents(seed, count)))
        (folder / f"{name}.jsonl").write_text(rows + "\n")
    return {
        "model": {"checkpoint": str(folder / "model"), "task": "token-tags"},
        "data": {
            "text": "words",
            "label": "tags",
            "train": {"path": str(folder / "train.jsonl")},
            "search": {"path": str(folder / "search.jsonl")},
            "certification": {"path": str(folder / "unseen.jsonl")},
        },
        "budget": {"metric": "tag_accuracy", "max_drop": 0.9, "slices": ["source", "length"]},
        "benchmark": BENCHMARK,
    }


def run(base: dict[str, Any], output: Path, **changes: Any) -> RunReport:
    recipe = output.with_suffix(".json.yaml")
    recipe.write_text(json.dumps({**base, **changes}))
    return compressor.run(
        compressor.load_recipe(recipe), output=output, device="cpu", allow_inconclusive=True
    )


@pytest.fixture(scope="module")
def finished(
    base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunReport, Path]:
    output = tmp_path_factory.mktemp("finished") / "run"
    passes = [
        {"kind": "prune_structured", "importance": "taylor", "ratio": 0.25},
        {"kind": "distill", **QUICK, "label_weight": 0.5},
        {"kind": "quantize_dynamic", "min_elements": 64, "keep_sensitive": 1},
    ]
    return run(base, output, passes=passes), output


def test_a_run_is_scored_by_word_and_certified(finished: tuple[RunReport, Path]):
    report, _ = finished
    assert report.task == "token-tags"
    assert report.labels == TAGS
    assert report.baseline is not None
    assert report.baseline.score.value > 0.7  # tagging every word O gives about 0.5
    assert report.final is not None
    assert report.certificate is not None
    assert report.certificate.num_examples == 64
    assert {item.name for item in report.slices} >= {"source = web", "source = print"}


def test_flips_and_sample_predictions_are_sequences_of_tags(finished: tuple[RunReport, Path]):
    report, output = finished
    assert report.predictions
    assert all(set(item.after.split()) <= set(TAGS) for item in report.predictions)
    assert all(item.before != item.after for item in report.flips)
    assert (output / "report.html").is_file()


def test_the_artifact_tags_words(finished: tuple[RunReport, Path]):
    artifact = compressor.load_artifact(finished[1] / "artifact", threads=1)
    found = artifact([["the", "goods", "film"], ["bad"]])
    assert [len(tags) for tags in found] == [3, 1]
    assert {tag for tags in found for tag in tags} <= set(TAGS)


def test_reconstruction_and_static_int8_need_no_labels(base: dict[str, Any], tmp_path: Path):
    passes = [
        {"kind": "prune_structured", "method": "reconstruction", "ratio": 0.25},
        {"kind": "quantize_static", "min_elements": 64, "keep_sensitive": 1},
    ]
    budget = {"metric": "agreement", "max_drop": 0.95, "slices": ["source"]}
    report = run(base, tmp_path / "run", passes=passes, budget=budget)
    assert report.baseline is not None
    assert report.baseline.score.value == 1.0
    assert report.final is not None
    assert 0 < report.final.score.value <= 1.0
    assert report.certificate is not None
