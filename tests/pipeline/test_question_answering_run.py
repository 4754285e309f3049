"""A model that answers questions goes through a whole run: SQuAD rows in, certificate out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow
import pyarrow.parquet
import pytest
import torch
import transformers
from conftest import BAD, GOOD, NEUTRAL, TINY, word_piece_tokenizer

import compressor
from compressor.measurements import RunReport
from compressor.tasks import load_task
from compressor.tasks.answers import GoldAnswer

STEPS = 250  # of training
ROOM = 20  # tokens that the model reads at once
BENCHMARK = {
    "batch_sizes": [1], "sequence_lengths": [8], "num_runs": 3, "warmup_runs": 1, "threads": 1,
}  # fmt: skip


def rows(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield contexts, some longer than the model reads at once, with two questions each.

    What is asked for is the good or the bad word, which one context in four does not have.
    """
    random = np.random.default_rng(seed)
    while count > 0:
        words = random.choice(NEUTRAL, size=int(random.integers(6, 22))).tolist()
        places = random.permutation(len(words))[:2].tolist()
        kinds = {"good": GOOD[1:], "bad": BAD[1:]}
        for place, own in zip(places, kinds.values(), strict=True):
            if random.random() > 0.25:
                words[place] = str(random.choice(own))
        context = " ".join(words)
        for kind, own in kinds.items():
            found = [word for word in words if word in own]
            yield {
                "question": f"is it {kind}",
                "context": context,
                "answers": {
                    "text": found,
                    "answer_start": [context.index(word) for word in found],
                },
            }
            count -= 1


def train(module: Any, tokenizer: Any) -> None:
    """Train a model for a moment, by the task's own targets and losses."""
    task = load_task("question-answering")
    found = list(rows(3, 128))
    batch = task.encode(tokenizer, task.given([(r["question"], r["context"]) for r in found]))
    labels = np.empty(len(found), dtype=object)
    for row, item in enumerate(found):
        pairs = zip(item["answers"]["text"], item["answers"]["answer_start"], strict=True)
        labels[row] = tuple(GoldAnswer(*pair) for pair in pairs)
    targets = torch.from_numpy(task.targets(batch, labels))
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        given = module(**inputs)
        outputs = torch.stack([given.start_logits, given.end_logits], dim=-1)
        task.losses.on_labels(outputs, targets).mean.backward()
        optimizer.step()
    module.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a recipe without passes for a tiny model that was trained for a moment."""
    folder = tmp_path_factory.mktemp("answers")
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    tokenizer.model_max_length = ROOM
    config = transformers.BertConfig(
        **TINY, vocab_size=len(tokenizer), max_position_embeddings=ROOM
    )
    module: Any = transformers.BertForQuestionAnswering(config)
    train(module, tokenizer)
    module.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    sizes = {"train": 96, "search": 64, "unseen": 200}
    paths = {name: folder / f"{name}.jsonl" for name in sizes}
    for seed, (name, count) in enumerate(sizes.items()):
        lines = [json.dumps(row) for row in rows(seed, count)]
        paths[name].write_text("\n".join(lines) + "\n")
    paths["search"] = folder / "search.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows(1, 64))), paths["search"])
    return {
        "model": {"checkpoint": str(folder / "model")},
        "data": {
            "text": ["question", "context"],
            "label": "answers",
            "train": {"path": str(paths["train"])},
            "search": {"path": str(paths["search"])},
            "certification": {"path": str(paths["unseen"])},
        },
        "budget": {"max_drop": 0.4, "slices": ["length"]},
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
        {"kind": "prune_structured", "importance": "fisher", "ratio": 0.5},
        {"kind": "distill", "epochs": 2, "batch_size": 16, "label_weight": 0.5},
        {"kind": "quantize_dynamic", "min_elements": 64, "keep_sensitive": 1},
    ]
    return run(base, output, passes=passes), output


def test_a_run_is_scored_by_f1_and_certified_by_text(finished: tuple[RunReport, Path]):
    report, _ = finished
    assert report.task == "question-answering"
    assert report.metric == "answer_f1"
    assert report.baseline is not None
    assert report.baseline.score.value > 0.8
    assert report.final is not None
    assert report.final.score.value > 0.6  # guessing gives less than 0.4
    assert report.certificate is not None
    assert report.certificate.num_examples == 100  # texts, of two questions each
    assert report.certificate.verdict == "certified"
    assert report.lengths is not None
    assert report.lengths.num_cut == 0
    assert report.lengths.longest == ROOM  # some contexts take several rows


def test_flips_and_predictions_are_answers_in_words(finished: tuple[RunReport, Path]):
    report, output = finished
    shown = {item.before for item in report.predictions}
    assert "no answer" in shown
    assert shown & {*GOOD, *BAD}
    assert report.flips
    assert all(item.kind in ("lost", "won") for item in report.flips)
    assert all(item.before != item.after for item in report.flips)
    assert "Questions with another answer" in (output / "report.html").read_text()


def test_the_artifact_answers_by_characters_of_the_context(finished: tuple[RunReport, Path]):
    artifact = compressor.load_artifact(finished[1] / "artifact", threads=1)
    context = "the film was lovely and the plot awful " + "and the story " * 6
    pair = ("is it good", context)
    first, second = artifact([{"question": pair[0], "context": pair[1]}, pair])
    assert first == second
    assert [item["answer"] for item in first] == [
        context[item["start"] : item["end"]] for item in first
    ]
    assert [item["score"] for item in first] == sorted(
        (item["score"] for item in first), reverse=True
    )
    with pytest.raises(ValueError, match="example 0: must have the keys question and context"):
        artifact([{"question": "is it good"}])


def test_the_graph_gives_starts_and_ends_by_themselves_too(finished: tuple[RunReport, Path]):
    session = onnxruntime.InferenceSession(
        finished[1] / "artifact" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    ids = np.array([[2, 7, 8, 3, 9, 3], [2, 9, 9, 3, 7, 3]])
    feed = {item.name: np.ones_like(ids) for item in session.get_inputs()} | {"input_ids": ids}
    logits, starts, ends = session.run(["logits", "start_logits", "end_logits"], feed)
    assert [item.shape[0] for item in session.get_outputs()] == ["batch"] * 3
    assert logits.shape == (*ids.shape, 2)
    np.testing.assert_array_equal(np.stack([starts, ends], axis=-1), logits)


def test_the_code_of_the_model_card_gives_the_same_answer(finished: tuple[RunReport, Path]):
    folder = finished[1] / "artifact"
    context = "the film was lovely and the plot was awful"
    [[best, *_]] = compressor.load_artifact(folder, threads=1)([("is it good", context)])
    [code] = re.findall(
        r"```python\n(import numpy.*?)```", (folder / "README.md").read_text(), re.S
    )
    code = code.replace("a question", "is it good").replace(
        "a text that may hold the answer", context
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"{best['answer']}\n"
    assert best["answer"]


def test_reconstruction_static_int8_and_agreement_need_no_answers(
    base: dict[str, Any], tmp_path: Path
):
    passes = [
        {"kind": "prune_structured", "method": "reconstruction", "ratio": 0.25},
        {"kind": "quantize_static", "min_elements": 64, "keep_sensitive": 1},
    ]
    budget = {"metric": "answer_agreement", "max_drop": 0.95}
    report = run(base, tmp_path / "run", passes=passes, budget=budget)
    assert report.baseline is not None
    assert report.baseline.score.value == 1.0
    assert report.final is not None
    assert 0 < report.final.score.value <= 1.0
