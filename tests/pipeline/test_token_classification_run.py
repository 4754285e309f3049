"""A tagger of words goes through a whole run: CoNLL files in, certificate and artifact out."""

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
from compressor.tasks import load_task

TAGS = ("O", "B-GOOD", "B-BAD", "I-GOOD", "I-BAD")
STEPS = 120  # of training
ROOM = 16  # tokens that the model reads at once
BENCHMARK = {
    "batch_sizes": [1], "sequence_lengths": [8], "num_runs": 3, "warmup_runs": 1, "threads": 1,
}  # fmt: skip

Sentence = tuple[list[str], list[str]]


def sentences(seed: int, count: int) -> Iterator[Sentence]:
    """Yield sentences, some longer than the model reads at once, with entities of 1 to 3 words."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        words: list[str] = []
        tags: list[str] = []
        for place in range(int(random.integers(2, 9))):
            kind = "" if place % 2 else str(random.choice(["", "GOOD", "BAD"]))
            length = int(random.integers(1, 4))
            if not kind:
                words += random.choice(NEUTRAL, size=length).tolist()
                tags += ["O"] * length
                continue
            own = {"GOOD": GOOD, "BAD": BAD}[kind]  # the first three begin an entity
            words += [str(random.choice(own[:3])), *random.choice(own[3:], size=length - 1)]
            tags += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
        yield [f"{word}s" if random.random() < 0.2 else word for word in words], tags


def write_conll(path: Path, found: Iterator[Sentence]) -> Path:
    blocks = ["".join(f"{w}\t_\t{t}\n" for w, t in zip(*item, strict=True)) for item in found]
    path.write_text("# made up\n" + "\n".join(blocks))
    return path


def train(module: Any, tokenizer: Any) -> None:
    """Train a tagger for a moment, by the task's own targets and losses."""
    task = load_task("token-classification")
    found = list(sentences(3, 96))
    batch = task.encode(tokenizer, task.given([words for words, _ in found]))
    labels = np.empty(len(found), dtype=object)
    for row, (_, tags) in enumerate(found):
        labels[row] = np.array([TAGS.index(tag) for tag in tags])
    targets = torch.from_numpy(task.targets(batch, labels))
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        task.losses.on_labels(module(**inputs).logits, targets).mean.backward()
        optimizer.step()
    module.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a recipe without passes for a tiny tagger that was trained for a moment."""
    folder = tmp_path_factory.mktemp("tagger")
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    tokenizer.model_max_length = ROOM
    config = transformers.BertConfig(
        **TINY,
        vocab_size=len(tokenizer),
        max_position_embeddings=ROOM,
        id2label=dict(enumerate(TAGS)),
        label2id={tag: index for index, tag in enumerate(TAGS)},
    )
    module: Any = transformers.BertForTokenClassification(config)
    train(module, tokenizer)
    module.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    sizes = {"train": 96, "search": 64, "unseen": 96}
    paths = {
        name: write_conll(folder / f"{name}.conll", sentences(seed, count))
        for seed, (name, count) in enumerate(sizes.items())
    }
    return {
        "model": {"checkpoint": str(folder / "model")},
        "data": {
            "train": {"path": str(paths["train"])},
            "search": {"path": str(paths["search"])},
            "certification": {"path": str(paths["unseen"])},
        },
        "budget": {"max_drop": 0.3, "slices": ["length"]},
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
        {"kind": "prune_structured", "importance": "fisher", "ratio": 0.15},
        {"kind": "prune_structured", "method": "reconstruction", "ratio": 0.15},
        {"kind": "distill", "epochs": 2, "batch_size": 16, "label_weight": 0.5},
        {"kind": "quantize_dynamic", "min_elements": 64, "keep_sensitive": 1},
    ]
    return run(base, output, passes=passes), output


def test_a_run_is_scored_by_entity_and_certified_by_document(finished: tuple[RunReport, Path]):
    report, _ = finished
    assert report.task == "token-classification"
    assert report.metric == "entity_f1"
    assert report.labels == TAGS
    assert report.baseline is not None
    assert report.baseline.score.value > 0.6  # guessing gives less than 0.2
    assert report.final is not None
    assert report.final.score.value > 0.4
    assert report.certificate is not None
    assert report.certificate.num_examples == 96
    assert report.certificate.verdict == "certified"
    assert "documents" in report.certificate.method
    assert {item.name.split()[0] for item in report.slices} == {"length"}
    assert report.lengths is not None
    assert report.lengths.num_cut == 0
    assert report.lengths.longest == ROOM  # some documents take several rows


def test_flips_and_predictions_are_entities_in_words(finished: tuple[RunReport, Path]):
    report, output = finished
    assert report.predictions
    for item in report.predictions:
        assert all(part.split()[0] in ("GOOD", "BAD") for part in item.before.split("; "))
    assert report.flips
    assert all(item.kind in ("lost", "won") for item in report.flips)
    assert all(item.before != item.after for item in report.flips)
    assert "Documents whose entities changed" in (output / "report.html").read_text()


def test_the_artifact_gives_spans_of_texts_and_of_words(finished: tuple[RunReport, Path]):
    artifact = compressor.load_artifact(finished[1] / "artifact", threads=1)
    text = "the " * 20 + "great film"
    from_text, from_words = artifact([text, text.split()])
    assert [(item["start"], item["end"]) for item in from_text] == [
        (item["start"], item["end"]) for item in from_words
    ]
    every = artifact([text], aggregation="none")[0]
    assert all(set(item) >= {"entity", "index"} for item in every)
    with pytest.raises(ValueError, match="aggregation: must be one of none, simple"):
        artifact([text], aggregation="mean")
