"""A run that is judged by what queries find, from three files to certificate, report, artifact."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compressor
from compressor.errors import BudgetExceeded
from compressor.measurements import RunReport
from compressor.runtime.prompts import Document, Query

WORDS = ("bad", "good", "was", "film", "and", "plot", "very", "dull", "story", "lovely")
PROMPTS = {"query": "the ", "passage": "quite "}


def write_lines(path: Path, rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def base(tiny_encoder_dir: Path, tmp_path_factory: Any) -> dict[str, Any]:
    """Return a recipe without passes: relevant is what the untouched encoder finds first.

    Words in common find less, so that they cannot pass for a model.
    """
    folder = tmp_path_factory.mktemp("retrieval")
    checkpoint = shutil.copytree(tiny_encoder_dir, folder / "encoder")
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps({"prompts": PROMPTS}))
    model = compressor.load_checkpoint(checkpoint)
    documents = [" ".join(words) for words in itertools.combinations(WORDS, 3)]  # 120
    random = np.random.default_rng(0)
    queries = [" ".join(random.choice(WORDS, 5)) for _ in range(360)]
    vectors = [
        model.predict(model.task.encode(model.preprocessor, [kind(text) for text in texts]))
        for kind, texts in ((Query, queries), (Document, documents))
    ]
    nearest = (vectors[0] @ vectors[1].T).argmax(axis=1)
    kept = {"queries": queries, "corpus": documents}
    files = {
        key: str(
            write_lines(
                folder / f"{key}.jsonl",
                [{"_id": f"{key}{row}", "text": text} for row, text in enumerate(texts)],
            )
        )
        for key, texts in kept.items()
    }
    splits = {}
    for name, rows in (("search", range(120)), ("certification", range(120, 360))):
        judged = [f"queries{row}\tcorpus{nearest[row]}\t1\n" for row in rows]
        (folder / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
        splits[name] = {"qrels": str(folder / f"{name}.tsv"), **files}
    return {
        "model": {"checkpoint": str(checkpoint)},
        "data": splits,
        "budget": {"metric": "recall@10", "max_drop": 0.1},
        "passes": [],
        "benchmark": {
            "batch_sizes": [1], "sequence_lengths": [8], "num_runs": 3, "warmup_runs": 1,
            "threads": 1,
        },
    }  # fmt: skip


def run(base: dict[str, Any], output: Path, **changes: Any) -> RunReport:
    recipe = output.with_suffix(".json.yaml")
    recipe.write_text(json.dumps({**base, **changes}))
    return compressor.run(compressor.load_recipe(recipe), output=output, device="cpu")


@pytest.fixture(scope="module")
def finished(base: dict[str, Any], tmp_path_factory: Any) -> tuple[RunReport, Path]:
    output = tmp_path_factory.mktemp("finished") / "run"
    changes = {
        "budget": {"metric": "recall@10_original_index", "max_drop": 0.1, "slices": ["length"]},
        "passes": [{"kind": "quantize_dynamic", "min_elements": 64}],
    }
    return run(base, output, **changes), output


def test_the_drop_of_queries_in_the_original_index_is_proven(finished: tuple[RunReport, Path]):
    report, output = finished
    assert report.metric == "recall@10_original_index"
    assert report.certificate is not None
    assert report.certificate.verdict == "certified"
    assert report.certificate.num_examples == 240  # queries, not texts
    assert "over queries" in report.certificate.method
    text = (output / "report.md").read_text(encoding="utf-8")
    assert "recall@10 in the original's index" in text
    assert "the vectors of documents are the untouched checkpoint's" in text
    assert "on 240 queries kept apart" in text


def recall(queries: np.ndarray, documents: np.ndarray, relevant: list[int]) -> float:
    similarities = queries @ documents.T
    own = similarities[np.arange(len(relevant)), relevant]
    return float(np.mean((similarities > own[:, None]).sum(axis=1) < 10))


def texts_of(path: str) -> list[str]:
    return [json.loads(line)["text"] for line in Path(path).read_text().splitlines()]


def test_the_score_is_that_of_artifact_and_checkpoint_with_their_prompts(
    finished: tuple[RunReport, Path], base: dict[str, Any]
):
    report, output = finished
    source = base["data"]["search"]
    queries, documents = texts_of(source["queries"])[:120], texts_of(source["corpus"])
    judged = Path(source["qrels"]).read_text().splitlines()[1:]
    relevant = [int(line.split("\t")[1].removeprefix("corpus")) for line in judged]
    artifact = compressor.load_artifact(output / "artifact")
    model = compressor.load_checkpoint(base["model"]["checkpoint"])
    texts = [PROMPTS["passage"] + text for text in documents]
    index = model.predict(model.task.encode(model.preprocessor, texts))
    found = artifact(queries, prompt_name="query")
    written = artifact([PROMPTS["query"] + text for text in queries])
    np.testing.assert_allclose(found, written, atol=1e-5)
    assert report.final is not None
    assert report.baseline is not None
    assert report.baseline.score.value == 1.0
    assert report.final.score.value == pytest.approx(recall(found, index, relevant), abs=0.01)


def test_the_report_names_the_prompts_and_shows_the_documents_that_queries_find(
    finished: tuple[RunReport, Path],
):
    report, output = finished
    assert report.embedding is not None
    assert report.embedding.prompts == PROMPTS
    card = (output / "artifact" / "README.md").read_text(encoding="utf-8")
    assert "It has prompts, read before a text: query ('the '), passage ('quite ')" in card
    assert len(report.predictions) == 3
    assert all(item.before for item in report.predictions)


def test_slices_are_of_queries(finished: tuple[RunReport, Path]):
    report, _ = finished
    assert report.slices
    assert sum(item.num_examples for item in report.slices) == 240


def test_a_ruined_encoder_is_stopped(base: dict[str, Any], tmp_path: Path):
    passes = [{"kind": "prune_magnitude", "sparsity": 0.99}]
    with pytest.raises(BudgetExceeded) as stopped:
        run(base, tmp_path / "run", passes=passes)
    assert stopped.value.drop > 0.5


def test_bits_are_scored_as_an_index_of_bits_finds(base: dict[str, Any], tmp_path: Path):
    passes = [{"kind": "quantize_vectors", "precision": "ubinary"}]
    budget = {"metric": "recall@10", "max_drop": 0.9}
    report = run({**base, "data": {"search": base["data"]["search"]}}, tmp_path / "run",
                 passes=passes, budget=budget)  # fmt: skip
    source = base["data"]["search"]
    artifact = compressor.load_artifact(tmp_path / "run" / "artifact")
    queries, documents = (
        np.unpackbits(artifact(texts_of(source[key]), prompt_name=prompt), axis=1)
        for key, prompt in (("queries", "query"), ("corpus", "passage"))
    )
    judged = Path(source["qrels"]).read_text().splitlines()[1:]
    relevant = [int(line.split("\t")[1].removeprefix("corpus")) for line in judged]
    differ = (queries[:120, None, :] != documents[None]).sum(axis=2)  # Hamming distances
    own = differ[np.arange(120), relevant][:, None]
    above, tied = (differ < own).sum(axis=1), (differ == own).sum(axis=1)
    expected = np.clip((10 - above) / tied, 0, 1).mean()  # over all orders of what ties
    assert report.final is not None
    assert report.final.score.value == pytest.approx(expected, abs=1e-9)
    assert expected < 0.999  # 32 bits tell some documents no longer apart
